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


def alterations(aspect: Aspect, mean: Pictures) -> Mapping[str, Callable[[Pictures], Pictures]]:
    """What is done to prepared pictures (N, size, size), by name; what is taken away becomes that of the mean picture.

    The mean is the same for every picture, so that it says nothing of any one of them, and it is the least strange
    sight: black, which no training showed, makes a network fail whatever it reads. What may stand for a part that is
    taken away: Covert, Lundberg and Lee, "Explaining by removing: a unified framework for model explanation", 2021.

    - ``without lungs``: without the region where nearly all lungs lie; ``lungs only``: without all else.
    - ``border only``: only a border of a sixteenth of the side is left.
    - ``re-encoded``: every picture through a JPEG of one size and quality, so that nothing is left of what its own file
      did to it; ``re-encoded at half size``: through one of half the side, so that pictures from small and from large
      files are equally sharp.

    Args:
        aspect: how the pictures were brought to the square.
        mean: uint8 (size, size), the mean of the pictures.
    """
    size = len(mean)
    lungs = lung_region(size, aspect)
    width = max(1, round(size / 16))
    border = np.ones((size, size), bool)
    border[width : size - width, width : size - width] = False
    return {
        "without lungs": lambda pictures: np.where(lungs, mean, pictures),
        "lungs only": lambda pictures: np.where(lungs, pictures, mean),
        "border only": lambda pictures: np.where(border, pictures, mean),
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
