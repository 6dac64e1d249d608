"""Is the square the same picture: centred, unstretched, antialiased?"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cxr.errors import ConfigurationError
from cxr.images.prepare import MAX_SIZE, Preparation

Grey = NDArray[np.uint8]


def disc(height: int, width: int, radius: float) -> Grey:
    """A white disc in the exact centre, drawn with soft edges."""
    rows, columns = np.mgrid[:height, :width].astype(float)
    distance = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2)
    return np.rint(255 * np.clip(radius + 0.5 - distance, 0, 1)).astype(np.uint8)


def moments(square: Grey) -> tuple[float, float, float, float]:
    """Centre (row, column) and spread along both axes, in pixels."""
    weights = square.astype(float) / square.sum()
    rows, columns = np.mgrid[: square.shape[0], : square.shape[1]]
    row, column = (weights * rows).sum(), (weights * columns).sum()
    return row, column, (weights * (rows - row) ** 2).sum() ** 0.5, (weights * (columns - column) ** 2).sum() ** 0.5


SHAPES = [(300, 300), (301, 300), (200, 333), (333, 200), (401, 180), (37, 90), (90, 37)]


@pytest.mark.parametrize("size", [64, 65, 224])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("aspect", ["crop", "pad"])
def test_centred_disc_stays_centred_round_and_of_the_right_size(aspect: str, shape: tuple[int, int], size: int) -> None:
    image = disc(*shape, min(shape) * 0.3)
    square = Preparation(size, aspect).apply(image)  # type: ignore[arg-type]
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    row, column, *spreads = moments(square)
    assert abs(row - (size - 1) / 2) < 0.02
    assert abs(column - (size - 1) / 2) < 0.02
    # Scaling multiplies the spread; a triangle of half-width h, in old pixels, adds a variance of h * h / 6.
    scale = size / (min(shape) if aspect == "crop" else max(shape))
    for spread, before in zip(spreads, moments(image)[2:], strict=True):
        expected = scale * (before**2 + max(1, 1 / scale) ** 2 / 6) ** 0.5
        assert abs(spread / expected - 1) < 0.003


@pytest.mark.parametrize("aspect", ["crop", "pad"])
@pytest.mark.parametrize("side", [40, 500])
def test_gradient_keeps_its_mean_and_its_slope(aspect: str, side: int) -> None:
    gradient = np.broadcast_to(np.linspace(20, 220, side), (side, side)).round().astype(np.uint8)
    square = Preparation(100, aspect).apply(gradient).astype(float)  # type: ignore[arg-type]
    assert abs(square.mean() - gradient.mean()) < 0.3
    slope = np.polyfit(np.arange(10, 90), square[50, 10:90], 1)[0]
    assert abs(slope - 200 / 100 * side / (side - 1)) < 0.06


def test_crop_keeps_the_middle_and_pad_keeps_everything() -> None:
    striped = np.zeros((60, 180), np.uint8)
    striped[:, :60], striped[:, 60:120], striped[:, 120:] = 50, 150, 250
    cropped = Preparation(30, "crop").apply(striped)
    assert (cropped[:, 1:-1] == 150).all()
    padded = Preparation(30, "pad").apply(striped)
    assert (padded[:10] == 0).all()
    assert (padded[20:] == 0).all()
    assert padded[15, [4, 15, 25]].tolist() == [50, 150, 250]
    assert np.array_equal(Preparation(30, "pad").apply(striped.T.copy()), padded.T)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64, 65])
def test_borders_of_pad_are_black_equal_and_sharp(shape: tuple[int, int], size: int) -> None:
    square = Preparation(size, "pad").apply(np.full(shape, 200, np.uint8))
    assert set(np.unique(square)) <= {0, 200}
    filled = np.flatnonzero(square.any(axis=1 if shape[0] < shape[1] else 0))
    assert filled[0] == size - 1 - filled[-1]
    assert abs(len(filled) - size * min(shape) / max(shape)) < 2


def test_shrinking_is_antialiased() -> None:
    lines = np.zeros((512, 512), np.uint8)
    lines[::2] = 255
    square = Preparation(64).apply(lines)
    assert np.abs(square[2:-2].astype(float) - 127.5).max() < 3  # picking pixels would give only 0 or only 255


def test_small_images_are_enlarged_smoothly() -> None:
    square = Preparation(80).apply(np.array([[0, 200], [0, 200]], np.uint8))
    steps = np.diff(square[40].astype(int))
    assert steps.min() >= 0
    assert 0 < steps.max() <= 6
    assert (square[40, 0], square[40, -1]) == (0, 200)


def test_an_image_of_the_right_size_is_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96)).astype(np.uint8)
    for aspect in ("crop", "pad"):
        assert np.array_equal(Preparation(96, aspect).apply(image), image)  # type: ignore[arg-type]


def test_views_and_read_only_arrays_are_taken() -> None:
    image = disc(90, 60, 20)
    image.flags.writeable = False
    assert np.array_equal(Preparation(32).apply(image.T), Preparation(32).apply(np.ascontiguousarray(image.T)))


@pytest.mark.parametrize("aspect", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (2, 100_000)])
def test_slivers_neither_fail_nor_take_gigabytes(aspect: str, shape: tuple[int, int]) -> None:
    square = Preparation(64, aspect).apply(np.full(shape, 90, np.uint8))  # type: ignore[arg-type]
    assert square.shape == (64, 64)
    assert square.max() == 90


def test_settings_are_plain_and_come_back() -> None:
    preparation = Preparation(64, "pad")
    assert preparation.as_dict() == {"size": 64, "aspect": "pad"}
    assert Preparation(**preparation.as_dict()) == preparation  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, MAX_SIZE + 1, 64.0, "64", True])
def test_size_out_of_range(size: object) -> None:
    with pytest.raises(ConfigurationError, match="image_size"):
        Preparation(size)  # type: ignore[arg-type]


def test_unknown_aspect_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"aspect: 'padd'.*pad"):
        Preparation(64, "padd")  # type: ignore[arg-type]
