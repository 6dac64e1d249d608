"""Which marks does a picture carry by which any part of it can be found again?

Chest radiographs all look alike as wholes, so that no descriptor of the whole tells a copy from another patient, and
a crop has another whole. Small places do tell: where ribs, vessels, clavicles and letters cross. The marks are the
strongest extrema of the difference of Gaussians, described by the gradients around them (SIFT: Lowe DG (2004),
"Distinctive image features from scale-invariant keypoints"), upright, since copies are not turned, with the square root
of RootSIFT (Arandjelović R, Zisserman A (2012), "Three things everyone should know to improve object retrieval"), and
reduced to their first principal components.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

DETECTION_SIZE: Final = 128
"""Side of the square in which marks are sought. The coarser marks of 128 px survive crops better than those of 256 px,
at a sixth of the cost."""

MARKS_PER_IMAGE: Final = 100
DIMENSIONS: Final = 32

_MIN_CONTRAST: Final = 0.005  # an eighth of OpenCV's: a flat radiograph has marks too; only the strongest are kept
_FLAT: Final = 8  # grey levels
_RIM: Final = 2  # pixels
_IMAGES_FOR_AXES: Final = 500
_BATCH: Final = 64


class Pictures(Protocol):
    """What is read of a list of pictures: a NumPy array uint8 (num_pictures, size, size), or rows of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | slice, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, eq=False)
class Marks:
    """The marks of a list of pictures, those of one picture together and in the order of the pictures.

    Attributes:
        picture: int32 (num_marks,), the picture that each mark stands in.
        place: float32 (num_marks, 3): x, y and diameter, in pixels of the pictures.
        vectors: float16 (num_marks, DIMENSIONS), compared by Euclidean distance.
        content: int32 (num_pictures, 4): top, bottom, left and right of what :func:`find_content` leaves of each.
    """

    picture: NDArray[np.int32]
    place: NDArray[np.float32]
    vectors: NDArray[np.float16]
    content: NDArray[np.int32]


def find_content(pixels: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """What is left of a picture when flat rows and columns are cut off at its sides: padding, borders, black ground.

    A row is flat where all but its darkest and brightest twenty-fifth stay within 8 grey levels, so that a label
    in a border does not keep it. Where something was cut off, two pixels more go: resizing and compression have mixed
    the border into them, and such a rim would be the strongest edge of the picture.

    Args:
        pixels: uint8 (height, width).

    Returns:
        top, bottom, left, right; the whole, where less than an eighth of a side would be left.
    """
    height, width = pixels.shape
    top, bottom = _extent(pixels)
    left, right = _extent(pixels[top:bottom].T)
    first, last = _extent(pixels[top:bottom, left:right])  # rows that only padding at the sides kept from being flat
    top, bottom = top + first, top + last
    top, left = (start + _RIM if start > 0 else 0 for start in (top, left))
    bottom, right = (end - _RIM if end < length else end for end, length in ((bottom, height), (right, width)))
    if bottom - top < height // 8 or right - left < width // 8:
        return 0, height, 0, width
    return top, bottom, left, right


def _extent(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    length = pixels.shape[1]
    low, high = length // 25, length - 1 - length // 25
    ordered = np.sort(pixels, axis=1)  # radix sort on bytes: several times faster than np.percentile
    rows = np.flatnonzero(ordered[:, high].astype(np.int16) - ordered[:, low] > _FLAT)
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, len(pixels))


def describe(pixels: Pictures, *, num_workers: int, progress: bool = True) -> Marks:
    """Finds and describes the marks of pictures.

    Args:
        pixels: the pictures; may be mapped from a file, for they are read once, in order, and a few more often.
        num_workers: threads.
        progress: shows a bar on a terminal.
    """
    with ThreadPoolExecutor(num_workers, thread_name_prefix="describe") as pool:
        sample = np.linspace(0, len(pixels) - 1, min(len(pixels), _IMAGES_FOR_AXES)).astype(np.int64)
        axes = _Axes.fit(np.concatenate([found[1] for found in pool.map(lambda i: _marks(pixels[int(i)]), sample)]))

        def reduced(start: int) -> list[tuple[NDArray[np.float32], NDArray[np.float16], tuple[int, int, int, int]]]:
            batch = [_marks(picture) for picture in pixels[start : start + _BATCH]]
            return [(place, axes.reduce(vectors), content) for place, vectors, content in batch]

        starts = range(0, len(pixels), _BATCH)
        console = Console(stderr=True)
        batches = track(
            pool.map(reduced, starts),
            "Describing pictures",
            total=len(starts),
            console=console,
            disable=not (progress and console.is_terminal),
        )
        found = [marks for batch in batches for marks in batch]
    picture = np.repeat(np.arange(len(found), dtype=np.int32), [len(place) for place, _, _ in found])
    return Marks(
        picture,
        np.concatenate([place for place, _, _ in found]),
        np.concatenate([vectors for _, vectors, _ in found]),
        np.array([content for _, _, content in found], np.int32),
    )


@dataclass(frozen=True, eq=False)
class _Axes:
    mean: NDArray[np.float32]
    directions: NDArray[np.float32]

    @staticmethod
    def fit(vectors: NDArray[np.float32]) -> _Axes:
        mean = vectors.mean(axis=0) if len(vectors) else np.zeros(128, np.float32)
        centred = (vectors - mean).astype(np.float64)
        _, directions = np.linalg.eigh(centred.T @ centred)
        return _Axes(mean, directions[:, : -DIMENSIONS - 1 : -1].astype(np.float32))

    def reduce(self, vectors: NDArray[np.float32]) -> NDArray[np.float16]:
        reduced: NDArray[np.float16] = ((vectors - self.mean) @ self.directions).astype(np.float16)
        return reduced


def _marks(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, int, int, int]]:
    """Places (x, y, diameter) and unreduced vectors of one picture, and its content."""
    top, bottom, left, right = content = find_content(pixels)
    scale = DETECTION_SIZE / len(pixels)
    reduced = cv2.resize(pixels[top:bottom, left:right], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    sift = cv2.SIFT.create(nfeatures=2 * MARKS_PER_IMAGE, contrastThreshold=_MIN_CONTRAST)
    points: list[cv2.KeyPoint] = []
    seen: set[tuple[float, ...]] = set()
    # OpenCV lists a point once per dominant direction; upright, these are one and the same.
    for point in sorted(sift.detect(reduced, None), key=lambda p: (-p.response, p.pt, p.size)):
        key = (*point.pt, point.size)
        if key not in seen:
            seen.add(key)
            point.angle = 0.0
            points.append(point)
        if len(points) == MARKS_PER_IMAGE:
            break
    if not points:
        return np.zeros((0, 3), np.float32), np.zeros((0, 128), np.float32), content
    described, vectors = sift.compute(reduced, points)
    place = np.array([(*point.pt, point.size) for point in described], np.float32)
    # The centre of the first pixel is 0 in both squares.
    place[:, :2] = (place[:, :2] + 0.5) / scale - 0.5 + (left, top)
    place[:, 2] /= scale
    root: NDArray[np.float32] = np.sqrt(vectors / np.maximum(vectors.sum(axis=1, keepdims=True), 1e-6))
    return place, root, content
