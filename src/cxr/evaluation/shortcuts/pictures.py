"""Which altered pictures is the network asked about?"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr.images.decode import decode_grey
from cxr.images.lung_region import lung_region
from cxr.images.prepare import Aspect, Preparation

Pictures = NDArray[np.uint8]
JPEG_QUALITY = 75  # the default of libjpeg, and what much of the web stores


def alterations(size: int, aspect: Aspect) -> Mapping[str, Callable[[Pictures], Pictures]]:
    """What is done to prepared pictures (N, size, size), by name; what is taken away becomes black.

    - ``without lungs``: the region where nearly all lungs lie is black; ``lungs only``: all else is.
    - ``border only``: only a border of a sixteenth of the side is left.
    - ``re-encoded``: every picture through a JPEG of one size and quality, so that nothing is left of what its own file
      did to it; ``re-encoded at half size``: through one of half the side, so that pictures from small and from large
      files are equally sharp.

    Args:
        size: side of the prepared pictures in pixels.
        aspect: how they were brought to the square.
    """
    lungs = lung_region(size, aspect)
    width = max(1, round(size / 16))
    border = np.ones((size, size), bool)
    border[width : size - width, width : size - width] = False
    return {
        "without lungs": lambda pictures: np.where(lungs, np.uint8(0), pictures),
        "lungs only": lambda pictures: np.where(lungs, pictures, np.uint8(0)),
        "border only": lambda pictures: np.where(border, pictures, np.uint8(0)),
        "re-encoded": lambda pictures: _re_encoded(pictures, size),
        "re-encoded at half size": lambda pictures: _re_encoded(pictures, max(1, size // 2)),
    }


def _re_encoded(pictures: Pictures, stored_size: int) -> Pictures:
    stored, shown = Preparation(stored_size), Preparation(pictures.shape[1])
    made = np.empty_like(pictures)
    for place, picture in enumerate(pictures):
        file = io.BytesIO()
        Image.fromarray(stored.apply(picture)).save(file, "JPEG", quality=JPEG_QUALITY)
        made[place] = shown.apply(decode_grey(file.getvalue(), "a picture in memory"))
    return made
