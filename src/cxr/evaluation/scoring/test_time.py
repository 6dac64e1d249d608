"""Which views of an image are answered, and their answers averaged?  Test-time augmentation."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cxr.errors import ConfigurationError

KINDS = ("none", "flip", "crops")
# Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks", 2012: crops of
# 224 from 256 pixels, which is seven eighths, in the four corners and the centre.
_CROP_SHARE = 7 / 8


def views(images: Tensor, kind: str) -> list[Tensor]:
    """What the network is shown of each image.

    Args:
        images: (B, 1, H, W), uint8 or float.
        kind: ``none``: the image; ``flip``: also its mirror image (left and right change sides: the heart lies on the
            wrong one); ``crops``: the image, and its four corners and its centre, each of seven eighths of its side,
            brought to the full size.

    Returns:
        1, 2 or 6 tensors (B, 1, H, W).

    Raises:
        ConfigurationError: another kind.
    """
    if kind == "none":
        return [images]
    if kind == "flip":
        return [images, images.flip(-1)]
    if kind == "crops":
        height, width = images.shape[-2:]
        size = [max(1, round(height * _CROP_SHARE)), max(1, round(width * _CROP_SHARE))]
        crops = F.five_crop(images.to(torch.float32), size)
        return [images, *(F.resize(crop, [height, width], antialias=True) for crop in crops)]
    raise ConfigurationError(f"tta={kind}: one of {', '.join(KINDS)}")
