"""How do training images vary: what happens to each image of a batch, and in one pass?

The changes are those of fastai 1 (Howard and Gugger 2020, "fastai: A Layered API for Deep Learning"): mirror image,
symmetric perspective, rotation, magnification, brightness and contrast. All changes of place are one homography per
image, applied by one bilinear interpolation; outside the picture lies its reflection. Brightness and contrast are a
table of 256 entries per image. Its random crop along the longer side of a picture has no counterpart, because prepared
images are square already; the magnification looks at a random part of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cxr.errors import ConfigurationError

_MAX_WARP = 0.5  # from here on a picture can fold over itself
_MAX_BRIGHTNESS = 0.5  # moves mid-grey to black or white


@dataclass(frozen=True)
class Changes:
    """What is done to the images of one batch, drawn by `Augmentation.draw`.

    Args:
        homographies: float32 (B, 3, 3), from a place in the new picture to its place in the old one; both pictures
            are the square from (-1, -1) to (1, 1), x to the right and y downwards.
        tables: uint8 (B, 256), the new grey value of each old one.
    """

    homographies: Tensor
    tables: Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a batch; the defaults change nothing.

    Args:
        horizontal_flip: probability of a mirror image.
        rotation_degrees: largest rotation either way, 0 to 180.
        rotation_prob: probability of a rotation.
        zoom_max: largest magnification, at least 1; the part that is seen lies anywhere in the picture, so that this
            is the random crop, too.
        zoom_prob: probability of a magnification.
        warp: each of the four sides of the picture becomes longer or shorter by at most this share, 0 to below 0.5.
        warp_prob: probability of a warp.
        brightness: mid-grey moves by at most this share of the grey range, 0 to below 0.5; black and white stay.
        contrast: largest factor of contrast, at least 1; its inverse is the smallest. Brightness adds to the log-odds
            of the grey value, contrast multiplies them, so that no value leaves the range.
        lighting_prob: probability of a change of brightness, and of one of contrast.

    Raises:
        ConfigurationError: a value out of its range.
    """

    horizontal_flip: float = 0.0
    rotation_degrees: float = 0.0
    rotation_prob: float = 0.0
    zoom_max: float = 1.0
    zoom_prob: float = 0.0
    warp: float = 0.0
    warp_prob: float = 0.0
    brightness: float = 0.0
    contrast: float = 1.0
    lighting_prob: float = 0.0

    def __post_init__(self) -> None:
        bounds = {"rotation_degrees": (0, 180), "zoom_max": (1, math.inf), "contrast": (1, math.inf)}
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = bounds.get(field.name, (0, 1))
            if not low <= value <= high or value == math.inf:
                span = f"{low} or more" if high == math.inf else f"from {low} to {high}"
                raise ConfigurationError(f"augment.{field.name}: {value} is not {span}")
        for name, limit in (("warp", _MAX_WARP), ("brightness", _MAX_BRIGHTNESS)):
            if getattr(self, name) >= limit:
                raise ConfigurationError(f"augment.{name}: {getattr(self, name)} is not below {limit}")

    @property
    def is_identity(self) -> bool:
        """Whether no image is ever changed."""
        return not (
            self.horizontal_flip
            or (self.rotation_degrees and self.rotation_prob)
            or (self.zoom_max > 1 and self.zoom_prob)
            or (self.warp and self.warp_prob)
            or ((self.brightness or self.contrast > 1) and self.lighting_prob)
        )

    def draw(self, index: Sequence[int], *, seed: int, epoch: int) -> Changes:
        """Draw the changes of one batch; they depend on the arguments alone, not on worker, device or earlier batches.

        An image that comes several times in an epoch is changed anew each time, because it lies among others.

        Args:
            index: (B,) record indices of the batch, in its order.
            seed, epoch: 0 or more.
        """
        rng = np.random.default_rng([seed, epoch, *index])
        num = len(index)
        # All numbers are drawn whether used or not: switching one change off leaves the others as they were.
        flipped, rotated, zoomed, warped, brightened, contrasted = rng.random((6, num))
        angle, zoom, brightness, contrast = rng.uniform(-1, 1, (4, num))
        focus = rng.uniform(-1, 1, (2, num))
        sides = rng.uniform(-1, 1, (4, num))

        homographies = (
            _mirror(flipped < self.horizontal_flip)
            @ _magnification(np.where(zoomed < self.zoom_prob, 1 + (self.zoom_max - 1) * (zoom + 1) / 2, 1), focus)
            @ _rotation(np.where(rotated < self.rotation_prob, np.deg2rad(self.rotation_degrees) * angle, 0))
            @ _warp(np.where(warped < self.warp_prob, self.warp * sides, 0))
        )
        tables = _lighting(
            np.where(brightened < self.lighting_prob, self.brightness * brightness, 0),
            np.where(contrasted < self.lighting_prob, self.contrast**contrast, 1),
        )
        return Changes(torch.from_numpy(homographies.astype(np.float32)), torch.from_numpy(tables))

    @staticmethod
    def apply(images: Tensor, changes: Changes) -> Tensor:
        """Change a batch.

        Args:
            images: uint8 (B, 1, H, W).
            changes: of B images, on the same device.

        Returns:
            uint8 (B, 1, H, W), on every device.
        """
        return apply_with_opencv(images, changes) if images.device.type == "cpu" else apply_with_torch(images, changes)


def apply_with_torch(images: Tensor, changes: Changes) -> Tensor:
    """`Augmentation.apply` on any device, the whole batch at once."""
    lit = changes.tables.gather(1, images.flatten(1).long()).view(images.shape).float()
    # Where the centres of the pixels lie in -1..1; counted on the device, because a copy from ordinary memory makes
    # the processor wait until the device has done all that it was given before.
    columns, rows = (
        (torch.arange(size, device=images.device) * 2 + 1) / size - 1 for size in (images.shape[3], images.shape[2])
    )
    # Homogeneous coordinates (B, 3, H, W) of each pixel: a term per column and a term per row.
    of_column = changes.homographies[:, :, 0, None, None] * columns
    of_row = changes.homographies[:, :, 1, None, None] * rows[:, None] + changes.homographies[:, :, 2, None, None]
    places = of_column + of_row
    grid = (places[:, :2] / places[:, 2:]).permute(0, 2, 3, 1)
    return F.grid_sample(lit, grid, "bilinear", "reflection", align_corners=False).round_().to(torch.uint8)


def apply_with_opencv(images: Tensor, changes: Changes) -> Tensor:
    """`Augmentation.apply` on a CPU, image by image in fixed point: uint8 in, uint8 out."""
    height, width = images.shape[-2:]
    out = torch.empty_like(images)
    # From the numbers of pixels to -1..1, where the homographies are at home.
    to_square = np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
    in_pixels = np.linalg.inv(to_square) @ changes.homographies.numpy().astype(np.float64) @ to_square
    batch = (images.numpy()[:, 0], in_pixels, changes.tables.numpy(), out.numpy()[:, 0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for image, homography, table, place in zip(*batch, strict=True):
        lit = cv2.LUT(image, table)
        cv2.warpPerspective(lit, homography, (width, height), place, flags, cv2.BORDER_REFLECT)
    return out


def _identity(num: int) -> NDArray[np.float64]:
    return np.tile(np.eye(3), (num, 1, 1))


def _mirror(flipped: NDArray[np.bool_]) -> NDArray[np.float64]:
    matrices = _identity(len(flipped))
    matrices[:, 0, 0] = np.where(flipped, -1, 1)
    return matrices


def _magnification(zoom: NDArray[np.float64], focus: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part that is seen is 1 / zoom wide, and lies inside the picture wherever ``focus`` (2, B) in -1..1 says."""
    matrices = _identity(len(zoom))
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1 / zoom
    matrices[:, :2, 2] = ((1 - 1 / zoom) * focus).T
    return matrices


def _rotation(radians: NDArray[np.float64]) -> NDArray[np.float64]:
    matrices = _identity(len(radians))
    matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(radians)
    matrices[:, 1, 0] = np.sin(radians)
    matrices[:, 0, 1] = -matrices[:, 1, 0]
    return matrices


def _warp(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """The homography that takes the square to a quadrilateral whose top, bottom, left and right are 1 + ``sides`` long.

    Args:
        sides: (4, B), in -0.5..0.5.
    """
    top, bottom, left, right = 1 + sides
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    target = np.stack(
        [np.stack([-top, -left]), np.stack([top, -right]), np.stack([-bottom, left]), np.stack([bottom, right])]
    )  # (4 corners, 2 coordinates, B)
    num = sides.shape[1]
    # Each corner gives two equations for the eight unknown entries; the ninth is 1.
    equations, values = np.zeros((num, 8, 8)), np.zeros((num, 8))
    for corner, (x, y) in enumerate(square):
        for axis in range(2):
            row = 2 * corner + axis
            equations[:, row, 3 * axis : 3 * axis + 3] = (x, y, 1)
            equations[:, row, 6] = -x * target[corner, axis]
            equations[:, row, 7] = -y * target[corner, axis]
            values[:, row] = target[corner, axis]
    solution = np.linalg.solve(equations, values[..., None])[..., 0]
    return np.concatenate([solution, np.ones((num, 1))], axis=1).reshape(num, 3, 3)


def _lighting(brightness: NDArray[np.float64], contrast: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(B, 256) new grey values: log-odds of the old one, times contrast, plus the log-odds of 0.5 + brightness."""
    grey = np.arange(256) / 255
    with np.errstate(divide="ignore"):
        odds = np.log(grey) - np.log1p(-grey)  # -inf and inf: black and white stay
    shift = np.log(0.5 + brightness) - np.log(0.5 - brightness)
    tables: NDArray[np.float64] = 255 / (1 + np.exp(-(contrast[:, None] * odds + shift[:, None])))
    return np.rint(tables).astype(np.uint8)
