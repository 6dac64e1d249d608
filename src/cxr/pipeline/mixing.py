"""Which images of a training batch are mixed with each other, and what part of each stays?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxr.errors import ConfigurationError


@dataclass(frozen=True)
class Mixture:
    """What is mixed with what in one batch, drawn by `Mixing.draw`.

    Args:
        partners: int64 (B,), place in the batch of the image that is mixed into each.
        shares: float32 (B,) in 0..1, the part of each image, and of its label, that stays; 1 where nothing is mixed in.
        blends: float32 (B,), the weight of each image in the mean with its partner; 1 where a box is pasted instead.
        boxes: int64 (B, 4), top, bottom, left and right of the box that is pasted, pixels; empty where none is.
    """

    partners: Tensor
    shares: Tensor
    blends: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Mixing:
    """Mixup and cutmix of the images of a batch; the defaults mix nothing.

    Mixup takes the weighted mean of two images (Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk
    Minimization", 2018), cutmix pastes a box of one into the other (Yun, Han, Oh, Chun, Choe and Yoo, "CutMix:
    Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019). Labels are mixed by the same
    shares. Where both are on, an image is treated in one of the two ways, as likely as in the other.

    Args:
        mixup_alpha: the weight is drawn from Beta(alpha, alpha); 0: no mixup.
        cutmix_alpha: the part of the picture outside the box is drawn from Beta(alpha, alpha); 0: no cutmix.
        mix_prob: probability that an image is mixed at all, where one of the two is on.

    Raises:
        ConfigurationError: a value out of its range.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_prob: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigurationError(f"augment.{name}: {getattr(self, name)} is not 0 or more")
        if not 0 <= self.mix_prob <= 1:
            raise ConfigurationError(f"augment.mix_prob: {self.mix_prob} is not from 0 to 1")

    @property
    def is_identity(self) -> bool:
        """Whether no image is ever mixed."""
        return self.mix_prob == 0 or (self.mixup_alpha == 0 and self.cutmix_alpha == 0)

    def draw(self, index: Sequence[int], image_size: tuple[int, int], *, seed: int, epoch: int) -> Mixture:
        """Draw the mixture of one batch; it depends on the arguments alone, not on worker, device or earlier batches.

        Args:
            index: (B,) record indices of the batch, in its order. A batch of one image is not mixed.
            image_size: height and width, pixels.
            seed, epoch: 0 or more.
        """
        # Its own stream, so that the augmentation of a batch is the same whether it is mixed or not.
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, *index], spawn_key=(1,)))
        num, (height, width) = len(index), image_size
        chosen, cut_rather = rng.random((2, num))
        centres = rng.random((2, num)) * [[height], [width]]
        # Each image is given the one before it in a random order: never itself.
        order = rng.permutation(num)
        partners = np.empty(num, np.int64)
        partners[order] = np.roll(order, 1)
        is_mixed = (chosen < self.mix_prob) & (partners != np.arange(num))
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            is_cut = cut_rather < 0.5
        else:
            is_cut = np.full(num, self.cutmix_alpha > 0)

        blends = rng.beta(self.mixup_alpha, self.mixup_alpha, num) if self.mixup_alpha > 0 else np.ones(num)
        blends = np.where(is_mixed & ~is_cut, blends, 1)
        outside = rng.beta(self.cutmix_alpha, self.cutmix_alpha, num) if self.cutmix_alpha > 0 else np.ones(num)
        half = np.sqrt(1 - np.where(is_mixed & is_cut, outside, 1)) * [[height], [width]] / 2
        edges = np.stack([centres - half, centres + half], axis=1)  # (height and width, low and high, B)
        edges = np.clip(np.rint(edges), 0, [[[height]], [[width]]]).astype(np.int64)
        # What is pasted is counted in whole pixels: a box near the border is smaller than it was drawn.
        areas = (edges[0, 1] - edges[0, 0]) * (edges[1, 1] - edges[1, 0])
        shares = np.where(is_cut, 1 - areas / (height * width), blends)
        return Mixture(
            torch.from_numpy(partners),
            torch.from_numpy(shares.astype(np.float32)),
            torch.from_numpy(blends.astype(np.float32)),
            torch.from_numpy(np.ascontiguousarray(edges.reshape(4, num).T)),
        )

    @staticmethod
    def apply(images: Tensor, mixture: Mixture) -> Tensor:
        """Mix a batch.

        Args:
            images: uint8 (B, 1, H, W).
            mixture: of B images, on the same device.

        Returns:
            uint8 (B, 1, H, W), a tensor of its own.
        """
        others = images[mixture.partners]
        blended = (
            torch.lerp(others.float(), images.float(), mixture.blends[:, None, None, None]).round_().to(torch.uint8)
        )
        # Counted on the device, because a copy from ordinary memory would make the processor wait for it.
        rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
        top, bottom, left, right = mixture.boxes.T[:, :, None]
        inside_rows, inside_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return torch.where(inside, others, blended)
