"""What does a file say of its picture before a pixel is decoded?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cxr.errors import ConfigurationError
from cxr.sources.dicom_file import looks_like_dicom, read_header, require_pydicom

FACTS = ("width", "height", "aspect", "format", "mode", "bytes per pixel")


def read_file_facts(paths: Sequence[str]) -> pd.DataFrame:
    """Read the heads of image files.

    Args:
        paths: (N,).

    Returns:
        (N,) rows, columns ``FACTS``: width and height in pixels as stored, aspect = width / height, format and mode in
        Pillow's words, bytes of the file per pixel. The format of a DICOM file is its transfer syntax, its mode how the
        pixels are meant and their bits. Where a head cannot be read the whole row is missing.

    Raises:
        ConfigurationError: a DICOM file, without the extra that reads it.
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
        with path.open("rb") as file:
            num_bytes = path.stat().st_size
            if looks_like_dicom(file.read(132)):
                width, height, kind, mode = _dicom_facts(file)
            else:
                file.seek(0)
                with Image.open(file) as image:
                    (width, height), kind, mode = image.size, str(image.format), image.mode
            return width, height, width / height, kind, mode, num_bytes / (width * height)
    except ConfigurationError:
        raise
    except Exception:  # Pillow's readers raise whatever a damaged head makes them stumble over
        return (None,) * len(FACTS)


def _dicom_facts(file: BinaryIO) -> tuple[int, int, str, str]:
    require_pydicom("a DICOM file")
    header = read_header(file, ["Columns", "Rows", "PhotometricInterpretation", "BitsStored"])
    width, height = header.whole("Columns"), header.whole("Rows")
    if width is None or height is None:
        raise ValueError("the header names no size")
    mode = f"{header.text('PhotometricInterpretation')} {header.whole('BitsStored')}"
    return width, height, header.transfer_syntax.name, mode
