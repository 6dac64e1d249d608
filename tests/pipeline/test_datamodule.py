"""The data module: from files to batches, alone, under a Trainer, and out of a checkpoint."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from tests.programs import start
from torch import Tensor, nn

from cxr.errors import ConfigurationError, DataError
from cxr.images.decode import read_grey
from cxr.images.prepare import Preparation
from cxr.pipeline.augmentation import Augmentation
from cxr.pipeline.datamodule import CXRDataModule

PictureFolder = Callable[..., Path]
MIRROR_ALWAYS = {"horizontal_flip": 1.0}


class Watcher(pl.LightningModule):
    """Learns next to nothing, and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        self.seen: dict[str, list[dict[str, Tensor]]] = {"train": [], "val": [], "predict": []}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen["train"].append(batch)
        mean = batch["image"].float().mean((1, 2, 3))[:, None]
        loss: Tensor = nn.functional.cross_entropy(self.layer(mean / 255), batch["label"])
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.seen["val"].append(batch)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.seen["predict"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def order(self, split: str) -> list[list[int]]:
        return [batch["index"].tolist() for batch in self.seen[split]]


def quiet_trainer(folder: Path, **options: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return pl.Trainer(**{**settings, **options})


@pytest.fixture
def make_data(picture_folder: PictureFolder, tmp_path: Path) -> Callable[..., CXRDataModule]:
    root = picture_folder({"bright": 14, "dark": 30})

    def make(**options: Any) -> CXRDataModule:
        settings: dict[str, Any] = {
            "sources": {"own": {"kind": "class_folders", "root": str(root)}},
            "cache_dir": tmp_path / "cache",
            "image_size": 16,
            "batch_size": 4,
            "progress": False,
        }
        return CXRDataModule(**{**settings, **options})

    return make


def test_batches_hold_the_prepared_pixels_of_their_records(make_data: Callable[..., CXRDataModule]) -> None:
    data = make_data()
    data.setup("fit")
    assert data.class_names == ["bright", "dark"]
    assert data.positive == "bright"
    assert data.preparation == {"size": 16, "aspect": "crop"}
    assert data.leaks == []
    counts = data.class_counts
    assert sum(counts[split]["bright"] for split in counts) == 14
    seen: list[int] = []
    for batch in [*data.val_dataloader(), *data.test_dataloader()]:
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].shape == (len(batch["index"]), 1, 16, 16)
        for image, label, index in zip(batch["image"], batch["label"], batch["index"].tolist(), strict=True):
            record = data.records.loc[index]
            expected = Preparation(16).apply(read_grey(record["path"]))
            assert np.array_equal(image[0].numpy(), expected)
            assert data.class_names[label] == record["label"]
            seen.append(index)
    assert sorted(seen) == data.records.index[data.records["split"] != "train"].tolist()


def test_setup_may_be_called_twice_and_in_two_modules_at_once(make_data: Callable[..., CXRDataModule]) -> None:
    data = make_data()
    data.setup("fit")
    records = data.records
    data.setup("validate")
    assert data.records is records
    again = make_data()
    again.setup()
    pd.testing.assert_frame_equal(again.records, records)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_trainer_augments_training_batches_only(
    make_data: Callable[..., CXRDataModule], tmp_path: Path, num_workers: int
) -> None:
    data, watcher = make_data(augment=MIRROR_ALWAYS, num_workers=num_workers), Watcher()
    quiet_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=1).fit(watcher, datamodule=data)
    dataset = data.train_dataloader().dataset
    for batch in watcher.seen["train"]:
        assert set(batch) == {"image", "label", "index"}
        assert torch.equal(batch["image"].flip(-1), dataset[batch["index"].tolist()]["image"])
    assert watcher.seen["val"]
    for batch in watcher.seen["val"]:
        assert torch.equal(batch["image"], dataset[batch["index"].tolist()]["image"])


def test_order_and_pixels_depend_on_seed_and_epoch_not_on_workers(
    make_data: Callable[..., CXRDataModule], tmp_path: Path
) -> None:
    augment = {"rotation_degrees": 10, "rotation_prob": 1.0}
    watchers = []
    for num_workers, seed in [(0, 5), (2, 5), (0, 6)]:
        watcher = Watcher()
        data = make_data(augment=augment, num_workers=num_workers, seed=seed)
        torch.manual_seed(num_workers)
        quiet_trainer(tmp_path).fit(watcher, datamodule=data)
        watchers.append(watcher)
    one, two, other = watchers
    assert one.order("train") == two.order("train")
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(one.seen["train"], two.seen["train"], strict=True))
    half = len(one.order("train")) // 2
    assert one.order("train")[:half] != one.order("train")[half:]
    assert other.order("train") != one.order("train")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop_after", [3, 6, 8])
def test_a_run_that_is_interrupted_goes_on_with_the_batches_it_has_not_seen(
    make_data: Callable[..., CXRDataModule], tmp_path: Path, num_workers: int, stop_after: int
) -> None:
    whole = Watcher()
    quiet_trainer(tmp_path, max_epochs=3).fit(whole, datamodule=make_data())
    assert len(whole.order("train")) == 18  # 24 training images: 6 batches an epoch
    keeper = ModelCheckpoint(
        tmp_path / str(num_workers), filename="stop", every_n_train_steps=stop_after, save_top_k=-1
    )
    first, second = Watcher(), Watcher()
    options: dict[str, Any] = {"callbacks": [keeper], "enable_checkpointing": True}
    quiet_trainer(tmp_path, max_steps=stop_after, max_epochs=None, **options).fit(first, datamodule=make_data())
    data = make_data(num_workers=num_workers)
    checkpoint = tmp_path / str(num_workers) / "stop.ckpt"
    quiet_trainer(tmp_path, max_epochs=3).fit(second, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    assert first.order("train") + second.order("train") == whole.order("train")


def test_prediction_takes_unlabelled_images_too(picture_folder: PictureFolder, tmp_path: Path) -> None:
    root = picture_folder({"somewhere": 5})
    table = tmp_path / "table.csv"
    rows = [
        f"{path.name},{label}" for path, label in zip(sorted(root.rglob("*.png")), ["COVID-19", *[""] * 4], strict=True)
    ]
    table.write_text("\n".join(["image,label", *rows]))
    data = CXRDataModule(
        {"new": {"kind": "table", "root": str(table), "images": str(root / "somewhere")}},
        cache_dir=tmp_path / "cache",
        classes={"covid": ["COVID-19"], "other": ["rest"]},
        image_size=16,
        progress=False,
    )
    watcher = Watcher()
    quiet_trainer(tmp_path).predict(watcher, datamodule=data)
    (batch,) = watcher.seen["predict"]
    assert batch["index"].tolist() == list(range(5))
    assert batch["label"].tolist() == [0, -1, -1, -1, -1]
    assert data.records["split"].isna().all()


def test_a_checkpoint_divides_the_same_files_in_the_same_way(
    make_data: Callable[..., CXRDataModule], picture_folder: PictureFolder, tmp_path: Path
) -> None:
    data = make_data(split={"seed": 11}, positive="dark", data_dir=tmp_path, augment=MIRROR_ALWAYS)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(Watcher(), datamodule=data)
    path = tmp_path / "data.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    # The split comes from the checkpoint, not from its seed.
    content["datamodule_hyper_parameters"]["split"]["seed"] = 12
    torch.save(content, path)

    again = CXRDataModule.load_from_checkpoint(path, weights_only=True)
    again.setup("test")
    pd.testing.assert_frame_equal(again.records, data.records)
    assert again.positive == "dark"
    assert again.augmentation == Augmentation(horizontal_flip=1.0)

    changed, gone = Path(data.records["path"][0]), Path(data.records["path"][1])
    changed.write_bytes(Path(data.records["path"][2]).read_bytes())
    with pytest.raises(DataError, match="1 of 44 files are not those"):
        CXRDataModule.load_from_checkpoint(path, weights_only=True).setup("test")
    changed.unlink()
    gone.unlink()
    with pytest.raises(DataError, match="2 of its 44 images are gone"):
        CXRDataModule.load_from_checkpoint(path, weights_only=True).setup("test")


def test_a_checkpoint_knows_who_shares_a_picture_without_another_look(
    make_data: Callable[..., CXRDataModule], picture_folder: PictureFolder, tmp_path: Path
) -> None:
    data = make_data(data_dir=tmp_path)
    root = tmp_path / "pictures"
    with Image.open(root / "dark" / "dark-003.png") as picture:  # other bytes, so that only its pixels tell
        picture.save(root / "dark" / "twin.png", compress_level=0)
    data.setup()
    assert len(data.joins) == 1
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(Watcher(), datamodule=data)
    trainer.save_checkpoint(tmp_path / "data.ckpt")

    elsewhere = tmp_path / "another cache"
    again = CXRDataModule.load_from_checkpoint(tmp_path / "data.ckpt", weights_only=True, cache_dir=elsewhere)
    again.setup("test")
    pd.testing.assert_frame_equal(again.records, data.records)
    assert again.pairs is None
    assert not list(elsewhere.glob("same-pictures*"))

    # A checkpoint that was written without the groups has them found again.
    content = torch.load(tmp_path / "data.ckpt", weights_only=True)
    del content["CXRDataModule"]["split"]["group"]
    torch.save(content, tmp_path / "data.ckpt")
    older = CXRDataModule.load_from_checkpoint(tmp_path / "data.ckpt", weights_only=True, cache_dir=elsewhere)
    older.setup("test")
    pd.testing.assert_frame_equal(older.records, data.records)
    assert list(elsewhere.glob("same-pictures*"))


def test_a_source_is_left_out_with_all_that_its_patients_have_elsewhere(
    picture_folder: PictureFolder, tmp_path: Path
) -> None:
    root = picture_folder({"one/bright": 12, "one/dark": 12, "two/dark": 10})
    (root / "one" / "dark" / "copy.png").write_bytes((root / "two" / "dark" / "dark-000.png").read_bytes())
    options: dict[str, Any] = {
        "sources": {
            name: {"kind": "class_folders", "root": str(root / name), "patient": "none"} for name in ("one", "two")
        },
        "cache_dir": tmp_path / "cache",
        "image_size": 16,
        "split": {"kind": "leave_one_out", "column": "source", "value": "two"},
    }
    data = CXRDataModule(**options)
    data.setup("fit")
    assert ((data.records["split"] == "test") == (data.records["source"] == "two")).all()
    assert data.leaks == []
    assert data.dropped[["source", "image", "reason"]].to_numpy().tolist() == [
        ["one", "dark/copy.png", "patient stands in the source left out"]
    ]
    accounting = data.accounting.set_index("source")
    assert accounting.loc["one", "kept"] + 1 == accounting.loc["one", "rows"] == 25
    assert data.class_counts["test"] == {"bright": 0, "dark": 10}

    # A checkpoint holds the split of what was kept, and meets the same records again.
    again = CXRDataModule(**options)
    again.load_state_dict(data.state_dict())
    again.setup("test")
    pd.testing.assert_frame_equal(again.records, data.records)


def test_unreadable_images_are_dropped_rows_and_too_many_are_refused(
    make_data: Callable[..., CXRDataModule], picture_folder: PictureFolder, tmp_path: Path
) -> None:
    data = make_data(max_unreadable=0.05)
    (broken,) = (tmp_path / "pictures").rglob("dark-007.png")
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    data.setup()
    assert len(data.records) == 43
    (line,) = data.dropped.itertuples()
    assert (line.source, line.image, line.reason) == ("own", "dark/dark-007.png", "unreadable")
    account = data.accounting.iloc[0]
    assert account["kept"] + account["unreadable"] == account["rows"] == 44
    for batch in data.val_dataloader():
        for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
            expected = Preparation(16).apply(read_grey(data.records["path"][index]))
            assert np.array_equal(image[0].numpy(), expected)
    with pytest.raises(DataError, match=r"1 of 44 images are unreadable.*dark-007\.png"):
        make_data(max_unreadable=0.0).setup()


def test_balance_reaches_batches_and_weights(make_data: Callable[..., CXRDataModule]) -> None:
    data = make_data(balance={"sampler": "balanced_batches"})
    data.setup()
    assert data.class_weights is None
    for batch in data.train_dataloader():
        assert batch["label"].tolist().count(0) == 2
    weighted = make_data(balance={"weighting": "inverse_frequency"})
    weighted.setup()
    assert weighted.class_weights is not None
    counts = weighted.class_counts["train"]
    assert weighted.class_weights[0] * counts["bright"] == pytest.approx(weighted.class_weights[1] * counts["dark"])


def test_predefined_folders_that_share_a_picture_are_a_leak(picture_folder: PictureFolder, tmp_path: Path) -> None:
    root = picture_folder({"train/a": 8, "train/b": 8, "test/a": 4, "test/b": 4})
    pictures = {part: sorted((root / part / "a").iterdir()) for part in ("train", "test")}
    pictures["test"][0].write_bytes(pictures["train"][0].read_bytes())
    data = CXRDataModule(
        {"own": {"kind": "class_folders", "root": str(root)}},
        cache_dir=tmp_path / "cache",
        split={"kind": "predefined"},
        image_size=16,
        progress=False,
    )
    data.setup()
    assert len(data.leaks) == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split": {"sead": 1}}, r"data\.split\.sead"),
        ({"augment": {"flip": 0.5}}, r"augment\.flip"),
        ({"balance": {"sampler": "oversample", "weighting": "inverse_frequency"}}, "allow_both"),
        ({"batch_size": 0}, r"data\.batch_size: 0"),
        ({"max_unreadable": 2.0}, r"data\.max_unreadable"),
        ({"aspect": "stretch"}, "aspect"),
    ],
)
def test_wrong_settings_end_before_anything_is_read(
    make_data: Callable[..., CXRDataModule], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        make_data(**options)


def test_a_positive_class_that_does_not_exist(make_data: Callable[..., CXRDataModule]) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.positive: 'covid' is not one of the classes bright, dark"):
        make_data(positive="covid").setup()


TWO_PROCESSES = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_datamodule import CXRDataModule, Watcher, quiet_trainer
folder = sys.argv[2]
data = CXRDataModule(
    {"own": {"kind": "class_folders", "root": folder + "/pictures"}}, cache_dir=folder + "/cache", image_size=16,
    batch_size=4, progress=False,
)
watcher = Watcher()
trainer = quiet_trainer(folder, strategy="ddp", devices=2, max_epochs=1, num_sanity_val_steps=0)
trainer.fit(watcher, datamodule=data)
order = {split: watcher.order(split) for split in ("train", "val")}
sides = {split: data.records.index[data.records["split"] == split].tolist() for split in ("train", "val")}
torch.save({"order": order, "sides": sides}, f"{folder}/{trainer.global_rank}.pt")
"""


def test_two_processes_share_the_records(picture_folder: PictureFolder, tmp_path: Path) -> None:
    # As Lightning is left to itself: without being told that the batches are dealt out already.
    picture_folder({"bright": 14, "dark": 31})
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = ["-c", TWO_PROCESSES, str(Path(__file__).parent), str(tmp_path)]
    programs = [start(*words, cwd=tmp_path, **shared, LOCAL_RANK=str(rank)) for rank in range(2)]
    assert [program.wait() for program in programs] == [0, 0], programs[0].said + programs[1].said
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["sides"] == second["sides"]
    sides = first["sides"]
    trained = [first["order"]["train"], second["order"]["train"]]
    assert [len(batches) for batches in trained] == [len(sides["train"]) // 8] * 2
    flat = [record for batches in trained for batch in batches for record in batch]
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(sides["train"])
    validated = [record for each in (first, second) for batch in each["order"]["val"] for record in batch]
    assert sorted(validated) == sides["val"]
