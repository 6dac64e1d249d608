from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cxr.evaluation.shortcuts.pictures import JPEG_QUALITY, alterations
from cxr.images.lung_region import lung_region

MEAN = np.random.default_rng(1).integers(60, 70, (64, 64), dtype=np.uint8)


def pictures(num: int = 3, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (num, size, size), dtype=np.uint8)


@pytest.mark.parametrize("aspect", ["crop", "pad"])
def test_what_one_alteration_takes_the_other_leaves(aspect: str) -> None:
    whole, lungs = pictures(), lung_region(64, aspect)  # type: ignore[arg-type]
    alter = alterations(aspect, MEAN)  # type: ignore[arg-type]
    without, only = alter["without lungs"](whole), alter["lungs only"](whole)
    assert (without[:, ~lungs] == whole[:, ~lungs]).all()
    assert (without[:, lungs] == MEAN[lungs]).all()
    assert (only[:, lungs] == whole[:, lungs]).all()
    assert (only[:, ~lungs] == MEAN[~lungs]).all()
    assert (whole == pictures()).all()  # the pictures themselves stay


def test_a_border_is_a_sixteenth_wide_and_never_nothing() -> None:
    left = alterations("crop", MEAN)["border only"](pictures()) != MEAN
    assert not left[:, 4:-4, 4:-4].any()
    assert left[:, :4].mean() > 0.9  # but where the picture is as bright as the mean
    assert left[:, :, -4:].mean() > 0.9
    assert alterations("crop", np.zeros((5, 5), np.uint8))["border only"](pictures(size=5)).any()


def test_re_encoded_pictures_are_what_a_jpeg_of_one_quality_gives() -> None:
    whole = pictures()
    for picture, found in zip(whole, alterations("crop", MEAN)["re-encoded"](whole), strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
        assert np.array_equal(found, np.asarray(Image.open(file)))


def test_half_the_size_leaves_no_finer_detail() -> None:
    fine = np.zeros((1, 64, 64), np.uint8)
    fine[:, ::2, ::2] = fine[:, 1::2, 1::2] = 200
    coarse = np.zeros((1, 64, 64), np.uint8)
    coarse[:, :, 32:] = 200
    alter = alterations("crop", MEAN)["re-encoded at half size"]
    assert alter(fine).shape == fine.shape
    assert np.ptp(alter(fine)) < 20 < 150 < np.ptp(alter(coarse))
