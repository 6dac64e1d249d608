"""Does all that holds on a CPU hold on a GPU?  Needs a CUDA device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from cxr.evaluation.evaluate import evaluate_run
from cxr.pipeline.augmentation import Augmentation, Changes
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

GPUS, DEVICE = 1, "cuda"
ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "experiment=demo",
    "data.sources.phantom.num_patients=40",
    "data.sources.phantom.size=64",
    "data.image_size=64",
    "data.batch_size=8",
    "model.name=resnet10t",
    "augment=fastai_v1",
    "logger=csv",
    "trainer.max_epochs=2",
    f"trainer.gpus={GPUS}",
]
CHANGES = {"horizontal_flip": 0.5, "rotation_degrees": 10.0, "rotation_prob": 1.0, "brightness": 0.1} | {
    "lighting_prob": 1.0
}

Trained = tuple[Path, str]


def train(folder: Path, *words: str) -> Trained:
    """The run of a tiny training, and what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "CXR_"))}
    command = [sys.executable, str(ROOT / "train.py"), *TINY, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean, timeout=280)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "outputs" / "demo").iterdir()
    return run, " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("auto"))


def test_auto_becomes_float16_is_said_and_is_logged(trained: Trained) -> None:
    run, printed = trained
    assert f"{DEVICE}, precision 16-mixed" in printed
    logged = [path.read_text(encoding="utf-8") for path in (run / "tracking").rglob("*.yaml")]
    assert any("16-mixed" in text for text in logged)
    assert pd.read_csv(run / "history.csv")["train/loss"].notna().all()


def test_bfloat16_is_taken(tmp_path: Path) -> None:
    run, printed = train(tmp_path, "trainer.precision=bf16-mixed")
    assert f"{DEVICE}, precision bf16-mixed" in printed
    assert pd.read_csv(run / "history.csv")["val/loss"].notna().all()


def test_clipping_goes_together_with_float16(tmp_path: Path) -> None:
    # A fused optimizer would unscale the gradients itself, after they were clipped.
    run, _ = train(tmp_path, "trainer.gradient_clip_val=1.0", "trainer.precision=16-mixed")
    assert pd.read_csv(run / "history.csv")["train/loss"].notna().all()


def test_a_checkpoint_opens_where_there_is_no_gpu(trained: Trained) -> None:
    run, _ = trained
    code = (
        "import sys, torch; from cxr.training.module import CXRModule; assert not torch.cuda.is_available();"
        "module = CXRModule.load_from_checkpoint(sys.argv[1], weights_only=True).eval();"
        "assert module(torch.zeros(1, 1, 64, 64, dtype=torch.uint8)).isfinite().all()"
    )
    command = [sys.executable, "-c", code, str(run / "checkpoints" / "best.ckpt")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_evaluation_gives_the_numbers_of_the_cpu(trained: Trained, tmp_path: Path) -> None:
    """To 1e-4: all is float32, and only the order of summation differs."""
    run, _ = trained
    found = []
    for gpus in (0, GPUS):
        place = tmp_path / str(gpus)
        cache = run.parents[1] / "cache"
        evaluate_run(run, gpus=gpus, output_dir=place, cache_dir=cache, progress=False, report=False, num_resamples=100)
        found.append(pd.read_csv(place / "predictions" / "test.csv"))
    on_cpu, on_gpu = found
    assert on_cpu["image"].tolist() == on_gpu["image"].tolist()
    assert len(on_cpu) > 5
    assert np.abs(on_cpu["prob_covid"] - on_gpu["prob_covid"]).max() < 1e-4


def test_runs_with_one_seed_are_equal(tmp_path: Path) -> None:
    weights = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        run, _ = train(tmp_path / name, "trainer.deterministic=true")
        weights.append(
            torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
        )
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_augmentation_gives_the_pixels_of_the_cpu() -> None:
    """To one grey level, by which fixed point and float32 may round apart."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (8, 1, 6, 6), np.uint8)).float()
    images = torch.nn.functional.interpolate(coarse, size=(96, 96), mode="bilinear").to(torch.uint8)
    changes = Augmentation(**CHANGES).draw(range(8), seed=0, epoch=0)
    there = Changes(changes.homographies.to(DEVICE), changes.tables.to(DEVICE))
    changed = Augmentation.apply(images.to(DEVICE), there)
    assert changed.device.type == DEVICE
    difference = changed.cpu().int() - Augmentation.apply(images, changes).int()
    assert difference.abs().max() <= 1
    assert not torch.equal(changed.cpu(), images)


class Watch(pl.Callback):
    """Looks at the layout of what a convolution is given, and makes every wait for the device an error meanwhile."""

    def __init__(self) -> None:
        self.layouts: list[bool] = []
        self.num_steps = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.num_steps += 1
        if batch_idx == 0:
            convolutions = [part for part in pl_module.modules() if isinstance(part, torch.nn.Conv2d)]
            for part in (convolutions[0], convolutions[-1]):
                part.register_forward_pre_hook(
                    lambda layer, given: self.layouts.extend(
                        each.is_contiguous(memory_format=torch.channels_last) for each in (given[0], layer.weight)
                    )
                )
        # The first steps set up what is set up once; the last asks how the loss goes, at the end of the epoch.
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("error" if 2 <= batch_idx < trainer.num_training_batches - 1 else "default")


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_steps_are_channels_last_and_do_not_wait_for_the_device(precision: str, tmp_path: Path) -> None:
    data = CXRDataModule(
        {"phantom": {"kind": "phantom", "num_patients": 60, "size": 64}},
        cache_dir=tmp_path / "cache",
        classes={"covid": ["COVID-19"], "other": ["rest"]},
        image_size=64,
        batch_size=8,
        augment=CHANGES,
        progress=False,
    )
    data.setup("fit")
    module = CXRModule("resnet10t", class_names=data.class_names, positive="covid", image_size=64, pretrained=False)
    trainer = build_trainer(
        run_dir=RunDirectory.create(tmp_path, "run"), max_epochs=1, gpus=GPUS, precision=precision, progress=False
    )
    watch = Watch()
    trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    try:
        trainer.fit(module, data)
    finally:
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert watch.num_steps > 5
    assert watch.layouts
    assert all(watch.layouts)


def test_a_compiled_network_leaves_plain_names_and_can_be_evaluated(tmp_path: Path) -> None:
    run, _ = train(tmp_path, "model.compile=true")
    assert pd.read_csv(run / "history.csv")["val/auroc"].notna().all()
    weights = torch.load(run / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    assert not [name for name in weights if "_orig_mod" in name]
    result = evaluate_run(run, split="val", gpus=GPUS, report=False)
    assert result.entry is not None
    assert result.entry["auroc"]["n"] > 0
