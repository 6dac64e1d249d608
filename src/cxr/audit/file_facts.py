"""What does a file say of its picture before a pixel is decoded?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

FACTS = ("width", "height", "aspect", "format", "mode", "bytes per pixel")


def read_file_facts(paths: Sequence[str]) -> pd.DataFrame:
    """Read the heads of image files.

    Args:
        paths: (N,).

    Returns:
        (N,) rows, columns ``FACTS``: width and height in pixels as stored, aspect = width / height, format and mode in
        Pillow's words, bytes of the file per pixel. Where a head cannot be read the whole row is missing.
    """
    # Only the head is read, so that nothing can be too large to decode; what Pillow warns of is no concern here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [_facts(Path(path)) for path in paths]
    return pd.DataFrame(rows, columns=list(FACTS))


def encode_facts(facts: pd.DataFrame) -> NDArray[np.float64]:
    """The facts as numbers: logarithms of sizes, aspect and bytes per pixel; a column for each format and each mode.

    Args:
        facts: (N,) rows of `read_file_facts`, none of them missing.

    Returns:
        (N, 4 + formats + modes).
    """
    logarithms = np.log(facts[["width", "height", "aspect", "bytes per pixel"]].to_numpy(np.float64))
    kinds = pd.get_dummies(facts[["format", "mode"]].astype(str)).to_numpy(np.float64)
    return np.hstack([logarithms, kinds])


def _facts(path: Path) -> tuple[object, ...]:
    try:
        num_bytes = path.stat().st_size
        with Image.open(path) as image:
            width, height = image.size
            return width, height, width / height, image.format, image.mode, num_bytes / (width * height)
    except Exception:  # Pillow's readers raise whatever a damaged head makes them stumble over
        return (None,) * len(FACTS)
