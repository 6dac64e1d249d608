"""Augmentation: repeatable, the same on every device, and geometrically what its parameters say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cxr.errors import ConfigurationError
from cxr.pipeline.augmentation import Augmentation, Changes, apply_with_opencv, apply_with_torch

FASTAI_V1: dict[str, Any] = {
    "horizontal_flip": 0.5,
    "rotation_degrees": 10,
    "rotation_prob": 0.75,
    "zoom_max": 1.1,
    "zoom_prob": 0.75,
    "warp": 0.2,
    "warp_prob": 0.75,
    "brightness": 0.1,
    "contrast": 1.25,
    "lighting_prob": 0.75,
}
IDENTITY = torch.arange(256, dtype=torch.uint8)


def smooth(num: int, size: int = 64, seed: int = 0) -> Tensor:
    """Clouds: uint8 (num, 1, size, size)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num, 6, 6), np.uint8)
    fine = [np.asarray(Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC)) for each in coarse]
    return torch.from_numpy(np.stack(fine))[:, None]


def change(augmentation: Augmentation, images: Tensor, **options: int) -> Tensor:
    changes = augmentation.draw(range(len(images)), **{"seed": 0, "epoch": 0, **options})
    return augmentation.apply(images, changes)


def test_the_default_changes_nothing() -> None:
    images = smooth(4)
    assert Augmentation().is_identity
    assert torch.equal(change(Augmentation(), images), images)
    assert Augmentation(rotation_degrees=10, zoom_max=1.1, warp=0.2, contrast=2).is_identity  # probability 0
    assert not Augmentation(**FASTAI_V1).is_identity


def test_changes_depend_on_seed_epoch_and_batch_alone() -> None:
    augmentation, images = Augmentation(**FASTAI_V1), smooth(6)
    first = change(augmentation, images, seed=0, epoch=2)
    # The global state must not matter.
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert torch.equal(change(augmentation, images, seed=0, epoch=2), first)
    assert not torch.equal(change(augmentation, images, seed=0, epoch=3), first)
    assert not torch.equal(change(augmentation, images, seed=1, epoch=2), first)


def test_each_image_has_its_own_changes() -> None:
    images = smooth(1).expand(8, -1, -1, -1).contiguous()
    changed = change(Augmentation(**FASTAI_V1), images)
    assert len({each.numpy().tobytes() for each in changed}) == 8


def test_a_mirror_image_is_exact_and_as_frequent_as_asked() -> None:
    images = smooth(400, size=16)
    changed = change(Augmentation(horizontal_flip=0.3), images)
    flipped = (changed == images.flip(-1)).flatten(1).all(1)
    assert ((changed == images).flatten(1).all(1) ^ flipped).all()
    assert flipped.float().mean() == pytest.approx(0.3, abs=0.1)


def test_rotation_agrees_with_pillow() -> None:
    images = smooth(5, size=96)
    augmentation = Augmentation(rotation_degrees=20, rotation_prob=1)
    changes = augmentation.draw(range(5), seed=0, epoch=0)
    changed = augmentation.apply(images, changes)
    for image, result, matrix in zip(images, changed, changes.homographies, strict=True):
        degrees = np.rad2deg(np.arctan2(float(matrix[1, 0]), float(matrix[0, 0])))
        assert abs(degrees) <= 20
        expected = np.asarray(Image.fromarray(image[0].numpy()).rotate(degrees, Image.Resampling.BILINEAR))
        inside = (slice(20, -20), slice(20, -20))
        assert np.abs(expected[inside].astype(int) - result[0].numpy()[inside]).max() <= 2


def test_magnification_shows_a_part_of_the_picture_anywhere_in_it() -> None:
    augmentation = Augmentation(zoom_max=1.5, zoom_prob=1)
    matrices = augmentation.draw(range(500), seed=0, epoch=0).homographies
    widths, centres = matrices[:, 0, 0], matrices[:, :2, 2]
    assert widths.min() >= 1 / 1.5 - 1e-6
    assert widths.max() <= 1
    assert (centres.abs() + widths[:, None]).max() <= 1 + 1e-6  # never beyond the border
    assert centres.min() < -0.2
    assert centres.max() > 0.2


def corners_of(matrices: Tensor) -> Tensor:
    """Where the four corners of the new picture lie in the old one, (B, 4, 2)."""
    square = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]])
    places = torch.einsum("bij,cj->bci", matrices, square)
    return places[..., :2] / places[..., 2:]


@pytest.mark.parametrize("warp", [0.2, 0.49])
def test_a_warp_lengthens_or_shortens_each_side_about_its_middle(warp: float) -> None:
    matrices = Augmentation(warp=warp, warp_prob=1).draw(range(300), seed=0, epoch=0).homographies
    top_left, top_right, bottom_left, bottom_right = corners_of(matrices).unbind(1)
    # Opposite ends of a side move symmetrically, by at most the share.
    assert torch.allclose(top_left[:, 0], -top_right[:, 0], atol=1e-4)
    assert torch.allclose(bottom_left[:, 0], -bottom_right[:, 0], atol=1e-4)
    assert torch.allclose(top_left[:, 1], -bottom_left[:, 1], atol=1e-4)
    for values in (top_right[:, 0], bottom_right[:, 0], bottom_left[:, 1], bottom_right[:, 1]):
        assert values.min() >= 1 - warp - 1e-4
        assert values.max() <= 1 + warp + 1e-4
    # The picture never folds: the denominator keeps its sign over the whole square.
    depth = matrices[:, 2, 2] - matrices[:, 2, 0].abs() - matrices[:, 2, 1].abs()
    assert depth.min() > 0


def test_outside_the_picture_lies_its_reflection() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).mul(4).expand(64, 64)[None, None].contiguous()
    shift = torch.eye(3)[None].clone()
    shift[0, 0, 2] = 0.5  # a quarter of the width to the right
    changed = Augmentation.apply(ramp, Changes(shift, IDENTITY[None]))
    expected = torch.cat([ramp[..., 16:], ramp[..., 48:].flip(-1)], dim=-1)
    assert torch.equal(changed, expected)


def test_brightness_moves_mid_grey_and_contrast_spreads_around_it() -> None:
    mid = 128
    tables = Augmentation(brightness=0.1, lighting_prob=1).draw(range(300), seed=0, epoch=0).tables.int()
    moved = (tables[:, mid] - mid) / 255
    assert moved.abs().max() <= 0.1 + 0.003
    assert moved.abs().max() > 0.08
    tables = Augmentation(contrast=1.25, lighting_prob=1).draw(range(300), seed=0, epoch=0).tables.int()
    assert (tables[:, mid] - mid).abs().max() <= 1
    odds = np.log(64 / 191)
    steepest, flattest = (255 / (1 + np.exp(-odds * factor)) for factor in (1.25, 0.8))
    assert tables[:, 64].min() == pytest.approx(steepest, abs=1)
    assert tables[:, 64].max() == pytest.approx(flattest, abs=1)
    assert (tables[:, 0] == 0).all()  # black and white stay
    assert (tables[:, 255] == 255).all()
    assert (tables.diff(dim=1) >= 0).all()


def test_switching_one_change_off_leaves_the_others() -> None:
    whole = Augmentation(**FASTAI_V1).draw(range(20), seed=0, epoch=0)
    unlit = Augmentation(**{**FASTAI_V1, "lighting_prob": 0}).draw(range(20), seed=0, epoch=0)
    assert torch.equal(whole.homographies, unlit.homographies)
    assert not torch.equal(whole.tables, unlit.tables)


@pytest.mark.parametrize(
    ("name", "value"),
    [("warp", 0.5), ("brightness", 0.5), ("zoom_max", 0.9), ("contrast", 0.8), ("rotation_prob", 1.1), ("warp", -0.1)],
)
def test_values_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"augment\.{name}: {value}"):
        Augmentation(**{name: value})


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [128, 225])
def test_both_ways_of_applying_agree(device: str, size: int) -> None:
    augmentation, images = Augmentation(**FASTAI_V1), smooth(16, size=size)
    changes = augmentation.draw(range(16), seed=0, epoch=0)
    there = Changes(changes.homographies.to(device), changes.tables.to(device))
    by_torch = apply_with_torch(images.to(device), there).cpu()
    difference = by_torch.int() - apply_with_opencv(images, changes).int()
    assert difference.abs().max() <= 1
    assert not torch.equal(by_torch, images)


class Crossings(TorchDispatchMode):
    """Notes every operation that takes something of the processor's and gives something of another device's."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, got = ({each.device.type for each in tree_leaves(part) if isinstance(each, Tensor)}
                      for part in ((args, kwargs), result))  # fmt: skip
        if "cpu" in given and got - {"cpu"}:
            self.names.append(str(func))
        return result


def test_on_a_device_nothing_is_fetched_that_it_would_have_to_wait_for() -> None:
    # A device that only knows shapes: what would be copied to a GPU is copied to it, too.
    images, augmentation = smooth(4), Augmentation(**FASTAI_V1)
    changes = augmentation.draw(range(4), seed=0, epoch=0)
    with Crossings() as crossings:
        there = Changes(changes.homographies.to("meta"), changes.tables.to("meta"))
        batch = images.to("meta")
    assert len(crossings.names) == 3  # the batch and its changes
    with Crossings() as crossings:
        changed = augmentation.apply(batch, there)
    assert crossings.names == []
    assert (changed.device.type, changed.dtype, changed.shape) == ("meta", torch.uint8, images.shape)


def test_an_image_that_comes_several_times_is_changed_anew_each_time() -> None:
    augmentation = Augmentation(rotation_degrees=30, rotation_prob=1)
    batches = [[7, 1, 7], [2, 7, 5], [7, 2, 5]]
    drawn = [augmentation.draw(batch, seed=0, epoch=0).homographies for batch in batches]
    of_seven = [
        made[place] for batch, made in zip(batches, drawn, strict=True) for place in range(3) if batch[place] == 7
    ]
    assert len({tuple(matrix.flatten().tolist()) for matrix in of_seven}) == 4
