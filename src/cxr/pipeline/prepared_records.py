"""Which records have a picture, and what does a list of record indices bring?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cxr.images.cache import PreparedImages
from cxr.sources.manifest import UNREADABLE, Manifest


class PreparedRecords(Dataset[dict[str, Tensor]]):
    """Batches by record index, straight from the prepared pixels.

    Args:
        images: the prepared images, one row per record, none of them unreadable.
        labels: (N,) class of each record, -1 = unlabelled.
    """

    def __init__(self, images: PreparedImages, labels: NDArray[np.int64]) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Sequence[int]) -> dict[str, Tensor]:
        """``image`` uint8 (B, 1, H, W), ``label`` int64 (B,), ``index`` int64 (B,) for B record indices."""
        records = np.asarray(index, np.int64)
        # take copies whole rows; torch's advanced indexing moves single bytes and takes ten times as long.
        pixels = np.take(np.asarray(self.images.pixels), self.images.rows[records], axis=0)
        return {
            "image": torch.from_numpy(pixels)[:, None],
            "label": torch.from_numpy(self.labels[records]),
            "index": torch.from_numpy(records),
        }


def without_unreadable(
    manifest: Manifest, images: PreparedImages
) -> tuple[Manifest, PreparedImages, NDArray[np.bool_]]:
    """Move the records whose image gave no picture to the dropped rows, with the reason 'unreadable'.

    Args:
        manifest: N records.
        images: their N prepared images.

    Returns:
        The manifest and the images that are left, and a mask (N,) of what stays.
    """
    stays = images.rows >= 0
    if stays.all():
        return manifest, images, stays
    reason_of = dict(images.unreadable)
    left = manifest.drop(~stays, UNREADABLE, [reason_of.get(path) for path in manifest.records["path"]])
    return left, replace(images, rows=images.rows[stays], unreadable=[]), stays
