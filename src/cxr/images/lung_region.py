"""Where in a prepared radiograph do the lungs lie, when nothing is known of it but that it is a frontal chest?

The outline is the same for every image: one that followed the lungs of each would itself show their shape, and only
some images of some collections come with masks (`cxr.images.lung_masks`). It holds what at least 5 % of the lungVAE
masks of covid-chestxray-dataset (123 of its frontal radiographs) cover, once mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxr.images.prepare import Aspect

# For each preparation (row, inner edge, outer edge), in 64ths of the side: rows from the top, edges from the midline.
_OUTLINE: Final[Mapping[Aspect, tuple[tuple[int, int, int], ...]]] = {
    "crop": (
        (1, 5, 15), (3, 2, 20), (5, 0, 23), (10, 0, 27), (16, 0, 31), (22, 1, 32), (32, 3, 32), (42, 6, 32),
        (50, 9, 32), (55, 19, 32), (60, 30, 32),
    ),
    "pad": (
        (3, 3, 14), (6, 1, 19), (9, 0, 22), (14, 0, 25), (19, 0, 27), (29, 2, 29), (38, 4, 30), (44, 6, 31),
        (49, 9, 31), (53, 19, 31), (57, 24, 30),
    ),
}  # fmt: skip


def lung_region(size: int, aspect: Aspect) -> NDArray[np.bool_]:
    """The pixels of a prepared image that belong to the lungs of most people.

    Args:
        size: side of the prepared image in pixels.
        aspect: how it was brought to the square.

    Returns:
        (size, size), the same left and right.
    """
    rows, inner, outer = np.array(_OUTLINE[aspect], np.float64).T / 64
    middles = (np.arange(size) + 0.5) / size
    from_midline = np.abs(middles - 0.5)[None, :]
    edges = [np.interp(middles, rows, edge)[:, None] for edge in (inner, outer)]
    inside = (rows[0] <= middles) & (middles <= rows[-1])
    return np.asarray(inside[:, None] & (edges[0] <= from_midline) & (from_midline <= edges[1]))
