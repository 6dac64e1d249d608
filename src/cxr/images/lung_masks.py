"""Where are the lungs in these images, as far as somebody has drawn them?

The masks are those that come with covid-chestxray-dataset: ``annotations/lungVAE-masks/<image>_mask.png`` beside the
folder of the images, drawn by the network of Selvan R, Dam EB, Detlefsen NS et al. (2020), "Lung Segmentation from
Chest X-rays using Variational Data Imputation". Some carry their suffix twice. Any collection with such a folder is
served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cxr.images.decode import read_grey
from cxr.images.opening import UnreadableImageError
from cxr.images.prepare import Preparation

FOLDER = PurePosixPath("annotations/lungVAE-masks")
_ENDING = "_mask"
_ORIENTATION = 274  # EXIF 2.3


@dataclass(frozen=True)
class MaskFiles:
    """Which image has a mask, and what became of every file.

    Args:
        path_of: row number of the records -> mask file.
        num_files: PNG files in the folders; those in `path_of` and those left out add up to it.
        left_out: reason -> files.
    """

    path_of: Mapping[int, Path]
    num_files: int
    left_out: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class LungMasks:
    """The lungs of some images, as these were prepared.

    Args:
        rows: (M,) row numbers of the records.
        inside: (M, S, S) whether a pixel of the prepared image lies in a lung.
        left_out: reason -> masks that were asked for and cannot be used.
    """

    rows: NDArray[np.int64]
    inside: NDArray[np.bool_]
    left_out: Mapping[str, int]


def find_lung_masks(records: pd.DataFrame) -> MaskFiles:
    """Match the mask files to the records by name; only the heads of files are read.

    A mask is used where it has the size of its image. The masks do not say whether a picture that is turned by its
    EXIF orientation was turned before they were drawn, so that those of such pictures are left out.

    Args:
        records: (N,) rows of a manifest: columns ``image`` (below the root of the collection) and ``path``.
    """
    rows_of_root: dict[Path, dict[str, list[int]]] = {}
    for row, (image, path) in enumerate(zip(records["image"], records["path"], strict=True)):
        depth = len(PurePosixPath(image).parts)
        parents = Path(path).parents
        if depth <= len(parents):
            rows_of_root.setdefault(parents[depth - 1], {}).setdefault(Path(path).stem, []).append(row)

    found: dict[int, Path] = {}
    left_out: Counter[str] = Counter()
    num_files = 0
    for root, rows_of_stem in sorted(rows_of_root.items()):
        for mask in sorted((root / FOLDER).glob("*.png")):
            num_files += 1
            stem = mask.name
            while stem.endswith(".png"):
                stem = stem.removesuffix(".png")
            rows = rows_of_stem.get(stem.removesuffix(_ENDING), [])
            reason = None
            if not stem.endswith(_ENDING):
                reason = "not named as a mask"
            elif not rows:
                reason = "of no image here"
            elif len(rows) > 1:
                reason = "of several images"
            elif rows[0] in found:
                reason = "second mask of an image"
            else:
                reason = _misfit(Path(str(records["path"].iloc[rows[0]])), mask)
            if reason is None:
                found[rows[0]] = mask
            else:
                left_out[reason] += 1
    return MaskFiles(dict(sorted(found.items())), num_files, dict(left_out))


def _misfit(image_path: Path, mask_path: Path) -> str | None:
    try:
        with Image.open(image_path) as image, Image.open(mask_path) as mask:
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) != 1
            same_size = image.size == mask.size
    except Exception:  # Pillow's readers raise whatever a damaged head makes them stumble over
        return "unreadable"
    if turned:
        return "image turned by its EXIF orientation"
    return None if same_size else "another size than its image"


def prepare_lung_masks(files: MaskFiles, rows: NDArray[np.int64], preparation: Preparation) -> LungMasks:
    """Bring masks to the square just as their images were brought.

    Args:
        files: from `find_lung_masks`.
        rows: row numbers out of ``files.path_of``.
        preparation: that of the images. A prepared pixel lies in a lung if at least half of it is white in the mask,
            which also settles the few grey pixels at the borders of some masks.
    """
    kept, masks = [], []
    left_out: Counter[str] = Counter()
    for row in rows:
        try:
            grey = read_grey(files.path_of[int(row)])
        except UnreadableImageError as error:
            left_out[error.reason] += 1
            continue
        mask = preparation.apply(grey) >= 128
        if not mask.any():
            left_out["no lung in the picture"] += 1
            continue
        kept.append(int(row))
        masks.append(mask)
    inside = np.array(masks, bool).reshape(len(masks), preparation.size, preparation.size)
    return LungMasks(np.array(kept, np.int64), inside, dict(left_out))
