"""What is there to be seen of a prepared picture for somebody who does not look at the lungs?

All features are of pictures of ``SIZE`` pixels, and those that are pictures themselves are reduced to ``GRID`` x
``GRID`` cells, each the mean of its pixels: what a linear model can make something of with a few hundred images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZE = 64
GRID = 16


def grey_levels(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean, standard deviation, 5th and 95th percentile of the grey levels: (N, 4) of (N, SIZE, SIZE)."""
    flat = pictures.reshape(len(pictures), -1)
    low, high = np.percentile(flat, [5, 95], axis=1)
    return np.stack([flat.mean(axis=1), flat.std(axis=1), low, high], axis=1)


def cells(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The picture as a thumbnail: (N, GRID, GRID) of (N, SIZE, SIZE)."""
    side = SIZE // GRID
    means: NDArray[np.float64] = pictures.reshape(len(pictures), GRID, side, GRID, side).mean(axis=(2, 4))
    return means


def border_cells(thumbnails: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outermost ring of cells, a sixteenth of the side wide: (N, 4 GRID - 4) of (N, GRID, GRID)."""
    ring = np.ones((GRID, GRID), bool)
    ring[1:-1, 1:-1] = False
    return thumbnails[:, ring]


def blacked_out(pictures: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The pictures (N, SIZE, SIZE) with a region made black: (SIZE, SIZE) of all, or (N, SIZE, SIZE) of each."""
    return np.where(region, np.uint8(0), pictures)
