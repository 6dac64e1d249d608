"""Do two pictures show the same thing where they are laid over each other?

Laid over each other by the placing of their marks, which is refined by searching over shifts and scales for the largest
normalised cross-correlation. Plain grey values would not do: any two radiographs laid chest on chest correlate. Both
are therefore freed of their coarse shading and brought to even local contrast, which leaves ribs, vessels, letters and
grain: what is common to copies only. That also makes brightness, contrast and gamma drop out.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

_COARSE: Final = 48  # side of the common grid, in its points: for finding the place ...
_FINE: Final = 96  # ... and for the verdict
# Side of the grid, how many of its points the placing may be off by, the factors its scale may be off by, along which
# axes (x, y) - both at once, then each for itself, since copies are stretched -, and the correlation below which
# looking closer is vain: of 2,200 planted copies that were found none had less than 0.67 and 0.69.
_STEPS: Final = (
    (_COARSE, 6, (0.94, 0.97, 1.0, 1.03, 1.06), ((True, True),), 0.55),
    (_FINE, 4, (0.985, 1.0, 1.015), ((True, False), (False, True)), 0.6),
)
_MARGIN: Final = 4  # points of the fine grid
_TILES: Final = 6  # along an axis, ...
_TILE_SIDE: Final = 12  # ... or as many as are this many points wide
_MIN_SIDE: Final = 24.0  # pixels of either picture: less than this says nothing
_DARK: Final = 1.0  # grey levels: contrast below this is noise, and is not raised to that of the rest


@dataclass(frozen=True)
class Agreement:
    """How well two pictures agree where they overlap.

    Attributes:
        score: normalised cross-correlation of what is common to copies only, 0 to 1: over the whole overlap, or the
            median over its tiles where that is larger (a label or an arrow spoils a few of them).
        grey: normalised cross-correlation of the plain grey values over the overlap, -1 to 1.
        part_of_one, part_of_other: the side of the overlap as a part of the side of each picture's content (square
            root of the ratio of areas), 0 to 1.
    """

    score: float
    grey: float
    part_of_one: float
    part_of_other: float


_SELF: Final = np.array([1.0, 1.0, 0.0, 0.0])
NOTHING: Final = Agreement(0.0, 0.0, 0.0, 0.0)


def correlate(
    one: NDArray[np.uint8],
    other: NDArray[np.uint8],
    content_of_one: NDArray[np.int32],
    content_of_other: NDArray[np.int32],
    placing: NDArray[np.float64],
) -> Agreement:
    """Lays one picture over another, refines how, and compares what both show.

    Args:
        one, other: uint8 (size, size).
        content_of_one, content_of_other: top, bottom, left, right in pixels; what lies outside is not compared.
        placing: scale_x, scale_y, shift_x, shift_y: where the points of the one are in the other, roughly.
    """
    fit = np.array(placing, np.float64)
    for side, reach, scales, axes, hopeless in _STEPS:
        grid = _Grid.over(content_of_one, content_of_other, fit, side)
        if grid is None:
            return NOTHING
        template = _even(_Field.of(one, content_of_one, grid, _SELF).sampled(grid, _SELF, 0), side / 16)
        field = _Field.of(other, content_of_other, grid, fit)
        for along in axes:
            best, placed = -1.0, fit
            for factor in scales:
                scaled = _scaled(fit, grid.centre, np.where(along, factor, 1.0))
                found, moved = _best_shift(template, _even(field.sampled(grid, scaled, reach), side / 16))
                if found > best:
                    best, placed = found, scaled
                    placed[2:] += (moved - reach) * grid.step * scaled[:2]
            if best < hopeless:
                return NOTHING
            fit = placed
    grid = _Grid.over(content_of_one, content_of_other, fit, _FINE)
    if grid is None:
        return NOTHING
    grey_one = _Field.of(one, content_of_one, grid, _SELF).sampled(grid, _SELF, 0)
    field = _Field.of(other, content_of_other, grid, fit)
    grey_other = _aligned(grey_one, field.sampled(grid, fit, _MARGIN))
    even_one, even_other = (
        np.ascontiguousarray(_even(each, _FINE / 32)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN])
        for each in (grey_one, grey_other)
    )
    score = max(_correlation(even_one, even_other), _median_over_tiles(even_one, even_other))
    area = grid.width * grid.height
    return Agreement(
        score=min(1.0, max(0.0, score)),
        grey=_correlation(grey_one, grey_other),
        part_of_one=min(1.0, float(np.sqrt(area / _area(content_of_one)))),
        part_of_other=min(1.0, float(np.sqrt(area * fit[0] * fit[1] / _area(content_of_other)))),
    )


def _area(content: NDArray[np.int32]) -> int:
    top, bottom, left, right = (int(value) for value in content)
    return (bottom - top) * (right - left)


@dataclass(frozen=True)
class _Grid:
    """A grid of points over the part of the one picture that the other shows too."""

    left: float
    top: float
    width: float
    height: float
    columns: int
    rows: int

    @staticmethod
    def over(
        content_of_one: NDArray[np.int32], content_of_other: NDArray[np.int32], fit: NDArray[np.float64], side: int
    ) -> _Grid | None:
        """None where too little is common to both."""
        ranges = []
        for axis, low in ((0, 2), (1, 0)):
            start, end = float(content_of_one[low]), float(content_of_one[low + 1])
            other = (np.array(content_of_other[low : low + 2], np.float64) - 0.5 - fit[2 + axis]) / fit[axis] + 0.5
            start, end = max(start, float(other[0])), min(end, float(other[1]))
            if min(end - start, (end - start) * float(fit[axis])) < _MIN_SIDE:
                return None
            ranges.append((start, end - start))
        (left, width), (top, height) = ranges
        longer = max(width, height)
        return _Grid(
            left, top, width, height, max(12, round(side * width / longer)), max(12, round(side * height / longer))
        )

    @property
    def step(self) -> NDArray[np.float64]:
        return np.array([self.width / self.columns, self.height / self.rows])

    @property
    def centre(self) -> NDArray[np.float64]:
        return np.array([self.left + self.width / 2 - 0.5, self.top + self.height / 2 - 0.5])


def _scaled(fit: NDArray[np.float64], centre: NDArray[np.float64], factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """The placing at other scales and the centre where it was."""
    return np.concatenate([fit[:2] * factor, fit[2:] + fit[:2] * centre * (1 - factor)])


@dataclass(frozen=True)
class _Field:
    """The content of a picture, blurred so far that the points of a grid, or of one of nearly its scale, miss nothing.

    Outside its content a picture goes on as it ends, so that no border is mixed into what is compared.
    """

    grey: NDArray[np.float32]
    left: int
    top: int

    @staticmethod
    def of(picture: NDArray[np.uint8], content: NDArray[np.int32], grid: _Grid, fit: NDArray[np.float64]) -> _Field:
        top, bottom, left, right = (int(value) for value in content)
        grey = picture[top:bottom, left:right].astype(np.float32)
        sigma = 0.5 * np.sqrt(np.maximum((grid.step * fit[:2]) ** 2 - 1.0, 0.0))
        if sigma.max() > 0.3:
            across, down = (max(0.1, float(each)) for each in sigma)
            blurred = cv2.GaussianBlur(grey, (0, 0), sigmaX=across, sigmaY=down, borderType=cv2.BORDER_REPLICATE)
            grey = np.asarray(blurred, np.float32)
        return _Field(grey, left, top)

    def sampled(self, grid: _Grid, fit: NDArray[np.float64], margin: int) -> NDArray[np.float32]:
        """The picture at the points of the grid and a margin around them."""
        step = grid.step * fit[:2]
        first = fit[:2] * (np.array([grid.left, grid.top]) - 0.5 + grid.step * (0.5 - margin)) + fit[2:]
        shape = (grid.columns + 2 * margin, grid.rows + 2 * margin)
        matrix = np.array([[step[0], 0.0, first[0] - self.left], [0.0, step[1], first[1] - self.top]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        points = cv2.warpAffine(self.grey, matrix, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(points, np.float32)


def _even(grey: NDArray[np.float32], coarsest: float) -> NDArray[np.float32]:
    """Without shading coarser than so many points, and with the same local contrast everywhere."""
    fine = _blurred(grey, 0.8) - _smoothed(grey, coarsest)
    contrast = np.sqrt(np.maximum(_smoothed(fine * fine, max(6.0, 1.5 * coarsest)), 0.0)) + np.float32(_DARK)
    return (fine / contrast).astype(np.float32)


def _aligned(grey_one: NDArray[np.float32], grey_other: NDArray[np.float32]) -> NDArray[np.float32]:
    """The other, which comes with a margin, moved over the one to a fraction of a point.

    By the enhanced correlation coefficient (Evangelidis GD, Psarakis EZ (2008), "Parametric image alignment using
    enhanced correlation coefficient maximization"), affine, so that copies that were stretched or turned a little fit.
    """
    warp: NDArray[Any] = np.array([[1, 0, _MARGIN], [0, 1, _MARGIN]], np.float32)
    ends = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 15, 1e-3)
    coarsest = _FINE / 16
    template, field = _even(grey_one, coarsest), _even(grey_other, coarsest)
    no_mask: Any = None
    with contextlib.suppress(cv2.error):  # it does not converge, as happens where nothing is common
        # The last argument turns off a blur of its own, which would cost precision.
        warp = np.asarray(cv2.findTransformECC(template, field, warp.copy(), cv2.MOTION_AFFINE, ends, no_mask, 1)[1])
    shape = (grey_one.shape[1], grey_one.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(grey_other, warp, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _blurred(grey: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)


def _smoothed(grey: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Two running means, of the spread of a Gaussian: where sigma is several points, at a fraction of its cost."""
    side = 2 * round(0.5 * (np.sqrt(6.0 * sigma**2 + 1.0) - 1.0)) + 1
    once = cv2.blur(grey, (side, side), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.blur(once, (side, side), borderType=cv2.BORDER_REPLICATE), np.float32)


def _best_shift(template: NDArray[np.float32], field: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """The largest correlation, and column and row of the field where the template's first point then lies."""
    found = cv2.matchTemplate(field, template, cv2.TM_CCOEFF_NORMED)
    row, column = np.unravel_index(int(np.argmax(found)), found.shape)
    return float(found[row, column]), np.array([column, row], np.float64)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(cv2.matchTemplate(other, one, cv2.TM_CCOEFF_NORMED)[0, 0])


def _median_over_tiles(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    across, down = (max(1, min(_TILES, length // _TILE_SIDE)) for length in reversed(one.shape))
    tiles = [
        _correlation(np.ascontiguousarray(a), np.ascontiguousarray(b))
        for a_row, b_row in zip(np.array_split(one, down), np.array_split(other, down), strict=True)
        for a, b in zip(np.array_split(a_row, across, axis=1), np.array_split(b_row, across, axis=1), strict=True)
    ]
    return float(np.median(tiles))
