from __future__ import annotations

import numpy as np
import pytest

from cxr.evaluation.saliency.lung_share import lung_share, share_inside


@pytest.fixture
def inside() -> np.ndarray:
    masks = np.zeros((12, 10, 10), bool)
    masks[:, 2:6, 1:6] = True  # a fifth of the image
    return masks


GROUPS = [f"p{number // 2}" for number in range(12)]


def test_share_is_the_part_of_the_map_that_lies_inside() -> None:
    maps = np.array([[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    masks = np.array([[[False, True], [True, True]]] * 2)
    shares = share_inside(maps, masks)
    assert shares[0] == 0.75
    assert np.isnan(shares[1])


def test_a_blind_map_gets_the_area_and_does_not_pass(inside: np.ndarray) -> None:
    found = lung_share(np.ones((12, 10, 10), np.float32), inside, GROUPS)
    assert found["area_share"] == pytest.approx(0.2)
    assert found["lung_share"]["value"] == pytest.approx(0.2)
    assert found["passed"] is False


def test_maps_in_the_lungs_pass_and_maps_outside_do_not(inside: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    mostly = np.where(inside, 1.0, 0.1) * generator.uniform(0.5, 1, inside.shape)
    found = lung_share(mostly, inside, GROUPS)
    assert found["passed"] is True
    assert found["lung_share"]["low"] <= found["lung_share"]["value"] <= found["lung_share"]["high"]
    assert found["lung_share"]["n"] == 12
    assert found["lung_share"]["patients"] == 6
    assert lung_share(1 - mostly / 2, inside, GROUPS)["passed"] is False


def test_maps_without_evidence_are_left_out_and_counted(inside: np.ndarray) -> None:
    maps = np.where(inside, 1.0, 0.0)
    maps[3:5] = 0
    found = lung_share(maps, inside, GROUPS)
    assert found["lung_share"]["value"] == 1.0
    assert (found["lung_share"]["n"], found["without_evidence"]) == (10, 2)


def test_too_few_patients_have_no_interval_and_no_verdict(inside: np.ndarray) -> None:
    found = lung_share(np.where(inside, 1.0, 0.0), inside, ["p", "q"] * 6)
    assert found["lung_share"]["value"] == 1.0
    assert found["lung_share"]["low"] is None
    assert "2 patients" in found["lung_share"]["reason"]
    assert found["passed"] is None


def test_no_image_at_all_is_undefined() -> None:
    found = lung_share(np.empty((0, 4, 4)), np.empty((0, 4, 4), bool), [])
    assert found["lung_share"]["value"] is None
    assert found["area_share"] is None
    assert found["passed"] is None
