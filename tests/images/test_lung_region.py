from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cxr.images.lung_masks import find_lung_masks, prepare_lung_masks
from cxr.images.lung_region import lung_region
from cxr.images.prepare import Preparation
from cxr.sources.reading import read_sources

REAL = os.environ.get("CXR_REAL_DATA")


@pytest.mark.parametrize("aspect", ["crop", "pad"])
def test_left_and_right_are_alike_and_the_size_does_not_matter(aspect: str) -> None:
    region = lung_region(64, aspect)  # type: ignore[arg-type]
    assert (region == region[:, ::-1]).all()
    larger = lung_region(512, aspect)  # type: ignore[arg-type]
    assert abs(float(region.mean()) - float(larger.mean())) < 0.01
    # Where tags and letters stand, and where the ribs end, is outside.
    assert not any(region[row, column] for row in (0, 3, -1, -4) for column in (0, 3, -1, -4))


@pytest.mark.real_data
@pytest.mark.skipif(REAL is None, reason="CXR_REAL_DATA is not set")
@pytest.mark.parametrize("aspect", ["crop", "pad"])
def test_the_region_holds_the_lungs_that_another_network_has_drawn(aspect: str, tmp_path: Path) -> None:
    manifest = read_sources(
        {"covid_chestxray": {"kind": "covid_chestxray"}},
        data_dir=str(REAL),
        cache_dir=tmp_path,
        views=["PA", "AP"],
        download=False,
        progress=False,
    )
    files = find_lung_masks(manifest.records)
    masks = prepare_lung_masks(files, np.array(list(files.path_of)), Preparation(64, aspect))  # type: ignore[arg-type]
    assert len(masks.rows) > 100
    region = lung_region(64, aspect)  # type: ignore[arg-type]
    held = (masks.inside & region).sum(axis=(1, 2)) / masks.inside.sum(axis=(1, 2))
    assert (held >= 0.95).mean() >= 0.95
    assert held.min() > 0.9
    assert region.mean() < 0.75
