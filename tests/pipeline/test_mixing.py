"""Mixup and cutmix: what a mixed image is made of, and that its share says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from cxr.errors import ConfigurationError
from cxr.pipeline.datamodule import CXRDataModule
from cxr.pipeline.mixing import Mixing
from cxr.training.module import CXRModule

INDEX = [3, 14, 15, 92, 65, 35, 89, 79]
SIZE = (24, 20)


def flat_images() -> Tensor:
    """Each of one grey value: 0, 30, 60, ..."""
    return (30 * torch.arange(len(INDEX))).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, *SIZE).contiguous()


def test_a_mixture_depends_on_seed_epoch_and_batch_alone() -> None:
    mixing = Mixing(mixup_alpha=0.4, cutmix_alpha=1.0, mix_prob=0.7)
    first = mixing.draw(INDEX, SIZE, seed=0, epoch=2)
    torch.manual_seed(99)
    again = mixing.draw(INDEX, SIZE, seed=0, epoch=2)
    assert all(torch.equal(vars(first)[name], vars(again)[name]) for name in vars(first))
    for other in (
        mixing.draw(INDEX, SIZE, seed=1, epoch=2),
        mixing.draw(INDEX, SIZE, seed=0, epoch=3),
        mixing.draw(INDEX[::-1], SIZE, seed=0, epoch=2),
    ):
        assert not torch.equal(first.shares, other.shares)


def test_mixup_is_the_weighted_mean_of_two_images() -> None:
    images = flat_images()
    mixture = Mixing(mixup_alpha=1.0).draw(INDEX, SIZE, seed=0, epoch=0)
    assert sorted(mixture.partners.tolist()) == list(range(len(INDEX)))
    assert (mixture.partners != torch.arange(len(INDEX))).all(), "no image is mixed with itself"
    assert ((mixture.shares > 0) & (mixture.shares < 1)).all()
    mixed = Mixing.apply(images, mixture)
    assert mixed.dtype == torch.uint8
    own, other = images[:, 0, 0, 0].double(), images[mixture.partners][:, 0, 0, 0].double()
    expected = mixture.shares * own + (1 - mixture.shares) * other
    torch.testing.assert_close(mixed.double().mean((1, 2, 3)), expected.double(), rtol=0, atol=0.5)
    assert (mixed.flatten(1).amax(1) == mixed.flatten(1).amin(1)).all()
    assert torch.equal(images, flat_images()), "the batch that was given stays"


def test_cutmix_pastes_one_box_and_the_share_counts_its_pixels() -> None:
    images = flat_images()
    sizes = set()
    for epoch in range(20):
        mixture = Mixing(cutmix_alpha=1.0).draw(INDEX, SIZE, seed=0, epoch=epoch)
        mixed = Mixing.apply(images, mixture)
        for place, (image, share) in enumerate(zip(mixed, mixture.shares.tolist(), strict=True)):
            pasted = image[0] == images[mixture.partners[place], 0, 0, 0]
            assert (pasted | (image[0] == images[place, 0, 0, 0])).all(), "nothing is blended"
            assert share == pytest.approx(1 - pasted.double().mean().item())
            rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
            if len(rows):
                box = pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                assert box.all(), "what is pasted is one box"
                sizes.add(tuple(box.shape))
    assert len(sizes) > 20


def test_an_image_is_mixed_as_often_as_is_asked_for_and_in_both_ways() -> None:
    mixing = Mixing(mixup_alpha=1.0, cutmix_alpha=1.0, mix_prob=0.25)
    mixtures = [mixing.draw(INDEX, SIZE, seed=0, epoch=epoch) for epoch in range(500)]
    shares = torch.cat([each.shares for each in mixtures])
    blends = torch.cat([each.blends for each in mixtures])
    # 4000 images; a box may be too small to hold a pixel. Five standard deviations are 0.034.
    assert float((shares < 1).float().mean()) == pytest.approx(0.25, abs=0.034)
    assert float((blends < 1).float().mean()) == pytest.approx(0.125, abs=0.027)
    assert torch.equal(shares[blends < 1], blends[blends < 1])


def test_what_is_not_mixed_stays_as_it_is() -> None:
    images = torch.randint(0, 256, (len(INDEX), 1, *SIZE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mixture = Mixing(mixup_alpha=1.0, cutmix_alpha=1.0, mix_prob=0.5).draw(INDEX, SIZE, seed=3, epoch=0)
    whole = mixture.shares == 1
    assert whole.any()
    assert not whole.all()
    assert torch.equal(Mixing.apply(images, mixture)[whole], images[whole])
    alone = Mixing(mixup_alpha=1.0).draw([7], SIZE, seed=0, epoch=0)
    assert alone.shares.tolist() == [1.0], "an image alone has nothing to be mixed with"


@pytest.mark.parametrize("options", [{"mixup_alpha": -1.0}, {"cutmix_alpha": float("inf")}, {"mix_prob": 1.5}])
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=f"augment.{next(iter(options))}"):
        Mixing(**options)


class Watched(CXRModule):
    """Keeps what its loss was computed from."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:  # type: ignore[override]
        self.seen = [*getattr(self, "seen", []), {**batch, "logits": self(batch["image"]).detach()}]
        self.losses = [*getattr(self, "losses", []), super().training_step(batch, batch_idx)]
        return self.losses[-1]


def fit(root: Path, folder: Path, **augment: float) -> tuple[Watched, pl.Trainer]:
    data = CXRDataModule(
        {"a": {"kind": "class_folders", "root": str(root)}},
        cache_dir=folder,
        image_size=32,
        batch_size=8,
        look_for_copies=False,
        augment=augment,
        split={"val_fraction": 0.25, "test_fraction": 0.0},
    )
    data.setup("fit")
    torch.manual_seed(0)
    module = Watched(
        "test_resnet", class_names=data.class_names, positive=data.positive, image_size=32, pretrained=False
    )
    module.network.eval()  # the answers to an image do not depend on the others
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, datamodule=data)
    return module, trainer


def test_mixed_images_count_in_the_loss_and_in_no_other_metric(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = picture_folder({"covid": 20, "other": 20})
    module, trainer = fit(root, tmp_path, mixup_alpha=1.0, cutmix_alpha=1.0, mix_prob=0.5)
    batch = {name: torch.cat([each[name] for each in module.seen]) for name in module.seen[0]}
    log_p = batch["logits"].log_softmax(1)
    own, other = (-log_p.gather(1, batch[name][:, None])[:, 0] for name in ("label", "partner_label"))
    expected = batch["share"] * own + (1 - batch["share"]) * other
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float(expected.mean()), rel=1e-4)
    whole = batch["share"] == 1
    assert 0 < int(whole.sum()) < len(whole)
    right = log_p.argmax(1)[whole] == batch["label"][whole]
    assert float(trainer.callback_metrics["train/accuracy"]) == pytest.approx(float(right.float().mean()))

    module, trainer = fit(root, tmp_path, mixup_alpha=0.2)  # all are mixed: there is nothing to score
    assert "train/loss" in trainer.callback_metrics
    assert not {"train/accuracy", "train/auroc"} & set(trainer.callback_metrics)
    assert {"val/accuracy", "val/auroc", "val/loss"} <= set(trainer.callback_metrics)


def test_mixing_leaves_the_augmentation_as_it_was(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder({"covid": 12, "other": 12})
    changes = {"rotation_degrees": 20.0, "rotation_prob": 1.0}
    plain, _ = fit(root, tmp_path, **changes)
    mixed, _ = fit(root, tmp_path, **changes, cutmix_alpha=1.0, mix_prob=0.5)
    for before, after in zip(plain.seen, mixed.seen, strict=True):
        assert torch.equal(before["index"], after["index"])
        whole = after["share"] == 1
        assert torch.equal(before["image"][whole], after["image"][whole])


def test_a_range_test_is_given_the_batches_of_the_training(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder({"covid": 12, "other": 12})
    changes = {"rotation_degrees": 20.0, "rotation_prob": 1.0, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}
    module, trainer = fit(root, tmp_path, **changes)
    data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
    data.trainer = None  # from the first epoch on
    for seen, given in zip(module.seen, data.training_batches(torch.device("cpu")), strict=False):
        for name in ("image", "label", "partner_label", "share"):
            assert torch.equal(seen[name], given[name])
