from __future__ import annotations

import pytest
import torch

from cxr.errors import ConfigurationError
from cxr.evaluation.scoring.test_time import views

IMAGE = torch.arange(2 * 32 * 32, dtype=torch.float32).reshape(2, 1, 32, 32) % 251


def test_without_augmentation_the_image_itself_is_shown() -> None:
    (shown,) = views(IMAGE, "none")
    assert shown is IMAGE


def test_the_mirror_image_changes_left_and_right_only() -> None:
    image, mirror = views(IMAGE, "flip")
    assert torch.equal(image, IMAGE)
    assert torch.equal(mirror[..., 0], IMAGE[..., -1])
    assert torch.equal(mirror.flip(-1), IMAGE)


def test_crops_show_the_corners_and_the_centre_at_full_size() -> None:
    ramp = torch.linspace(0, 255, 64).repeat(64, 1)[None, None]  # grows to the right
    image, upper_left, upper_right, lower_left, lower_right, centre = views(ramp.to(torch.uint8), "crops")
    assert all(each.shape == image.shape for each in (upper_left, upper_right, lower_left, lower_right, centre))
    means = [float(each.float().mean()) for each in (upper_left, centre, upper_right)]
    assert means == sorted(means)
    assert means[0] < means[1] < means[2]
    assert torch.allclose(upper_left, lower_left)
    assert torch.allclose(upper_right, lower_right)
    assert float(centre.min()) >= 0
    assert float(centre.max()) <= 255


def test_another_kind_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"tta=rotate: one of none, flip, crops"):
        views(IMAGE, "rotate")
