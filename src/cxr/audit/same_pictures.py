"""Which records show the same picture?

A pair has the first of these kinds that holds: ``path`` (one file listed twice), ``bytes`` (files with equal SHA-256),
``pixels`` (files of any format that decode to equal grey pixels), ``near_duplicate`` (the same picture encoded again,
resized, stretched, made brighter or darker, labelled, or with a border), ``crop`` (one shows a part of the other, or
both show the same part of a third). Mirror images are not found, and neither are copies turned by more than a few
degrees.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from cxr.audit.candidates import find_candidates
from cxr.audit.correlation import Agreement, correlate
from cxr.audit.descriptors import Pictures, describe
from cxr.errors import DataError
from cxr.images.cache import PreparedImages, prepare_images, usable_cores
from cxr.images.decode import read_grey
from cxr.images.opening import UnreadableImageError
from cxr.images.prepare import Preparation

SIZE: Final = 256
"""Side of the prepared squares in pixels: a part of half the side still fills the 96 points that it is judged by."""

THRESHOLD: Final = 0.9
"""The score from which two pictures are the same: no two patients of the 5,840 images of chest_xray that were laid over
each other reached it (the highest had 0.890). Copies that were re-encoded, resized or cropped alone lie above 0.9 but
for a few; a border or several changes at once can bring a copy below."""

WHOLE: Final = 0.95
"""The part of both sides above which a pair is a near-duplicate, and below which it is a crop."""

KINDS: Final = ("path", "bytes", "pixels", "near_duplicate", "crop")
COLUMNS: Final = ("row_a", "row_b", "kind", "score", "scale")

MIN_PART: Final = 0.6
"""The part of its side that at least one of the two must have in common with the other. Less may be no more than the
same word in large letters on the pictures of two people."""

_CHUNK: Final = 32


@dataclass(frozen=True, eq=False)
class SamePictures:
    """The pairs of records that show the same picture.

    Attributes:
        pairs: columns ``COLUMNS``, sorted by rows: ``row_a`` < ``row_b``, positions in the records from 0; ``kind``,
            one of ``KINDS``; ``score``, 0 to 1, 1 where paths, bytes or pixels are equal; ``scale``, 0 to 1, how
            much of the side the part takes in the picture that shows more (1 unless the kind is ``crop``).
            Of m records with equal pixels the m - 1 pairs with the first of them are listed, and a near-duplicate or
            crop of all m is listed once, with the first: connected, they hold all that belongs together.
        num_images: records looked at.
        num_pictures: different pictures (by pixels) among them.
        num_candidates: pairs of pictures that were laid over each other.
        unreadable: path and reason of every image that gave no picture; these are compared by path and bytes only.
    """

    pairs: pd.DataFrame
    num_images: int
    num_pictures: int
    num_candidates: int
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """The number of pairs of each of ``KINDS``."""
        return {kind: int((self.pairs["kind"] == kind).sum()) for kind in KINDS}


@dataclass(frozen=True, eq=False)
class PicturePairs:
    """Pairs of pictures that are the same, one < other.

    Attributes:
        one, other: int32 (num_pairs,).
        agreement: one per pair.
        num_candidates: how many pairs were laid over each other.
    """

    one: NDArray[np.int32]
    other: NDArray[np.int32]
    agreement: list[Agreement]
    num_candidates: int


def find_same_pictures(
    records: pd.DataFrame, cache_dir: str | Path, *, num_workers: int | None = None, progress: bool = True
) -> SamePictures:
    """Finds the records that show the same picture.

    The same records give the same pairs, in whatever order they stand.

    Args:
        records: the records of a manifest; ``path`` and ``sha256`` are read.
        cache_dir: where the prepared images are kept; built at ``SIZE`` where they are missing.
        num_workers: threads; None: one per usable core.
        progress: shows bars on a terminal.

    Raises:
        DataError: a record without fingerprint, a file that is not the one that was fingerprinted, a full disk.
    """
    paths, sha256 = [str(path) for path in records["path"]], list(records["sha256"])
    for path, digest in zip(paths, sha256, strict=True):
        if not isinstance(digest, str):
            raise DataError(f"{path}: has no fingerprint, it could not be read; drop the record or restore the file")
    workers = num_workers if num_workers is not None else usable_cores()
    images = prepare_images(paths, sha256, Preparation(SIZE, "pad"), cache_dir, num_workers=workers, progress=progress)

    pairs: dict[tuple[int, int], tuple[str, float, float]] = {}
    first_of: dict[str, int] = {}  # the first record with these bytes
    for rows in _equal(paths):
        pairs.update({(rows[0], row): ("path", 1.0, 1.0) for row in rows[1:]})
    for rows in _equal(sha256):
        first_of[sha256[rows[0]]] = rows[0]
        pairs.update({(rows[0], row): ("bytes", 1.0, 1.0) for row in rows[1:] if (rows[0], row) not in pairs})

    # In the order of their content, so that nothing depends on the order of the records.
    digests = [digest for digest in sorted(first_of) if images.rows[first_of[digest]] >= 0]
    firsts = [first_of[digest] for digest in digests]
    pictures = []
    for rows in _equal_pixels(firsts, paths, images):
        pictures.append(rows[0])
        pairs.update({_ordered(rows[0], row): ("pixels", 1.0, 1.0) for row in rows[1:]})

    found = match_pictures(_Rows(images, pictures), num_workers=workers, progress=progress)
    for one, other, agreement in zip(found.one, found.other, found.agreement, strict=True):
        scale = min(agreement.part_of_one, agreement.part_of_other)
        kind = "near_duplicate" if scale >= WHOLE else "crop"
        pair = _ordered(pictures[one], pictures[other])
        pairs[pair] = kind, agreement.score, scale if kind == "crop" else 1.0
    table = pd.DataFrame([(*rows, *what) for rows, what in sorted(pairs.items())], columns=list(COLUMNS))
    table = table.astype({"row_a": np.int64, "row_b": np.int64, "kind": object, "score": float, "scale": float})
    return SamePictures(table, len(records), len(pictures), found.num_candidates, images.unreadable)


def match_pictures(
    pixels: Pictures, *, num_workers: int, progress: bool = True, threshold: float = THRESHOLD
) -> PicturePairs:
    """Finds the pairs among prepared pictures that show the same.

    Args:
        pixels: the pictures, all different; may be mapped from a file.
        num_workers: threads.
        progress: shows bars on a terminal.
        threshold: the lowest score of a pair.
    """
    if len(pixels) < 2:
        return PicturePairs(np.zeros(0, np.int32), np.zeros(0, np.int32), [], 0)
    cores, threads = cv2.getNumThreads(), num_workers
    cv2.setNumThreads(1)  # the threads are ours; OpenCV's own would fight with them over small images
    try:
        marks = describe(pixels, num_workers=threads, progress=progress)
        candidates = find_candidates(marks, pixels.shape[1])

        def judged(start: int) -> list[Agreement]:
            return [
                correlate(pixels[one], pixels[other], marks.content[one], marks.content[other], placing)
                for one, other, placing in zip(
                    candidates.one[start : start + _CHUNK],
                    candidates.other[start : start + _CHUNK],
                    candidates.placing[start : start + _CHUNK],
                    strict=True,
                )
            ]

        starts = range(0, len(candidates.one), _CHUNK)
        console = Console(stderr=True)
        with ThreadPoolExecutor(threads, thread_name_prefix="correlate") as pool:
            chunks = track(
                pool.map(judged, starts),
                "Comparing pictures",
                total=len(starts),
                console=console,
                disable=not (progress and console.is_terminal),
            )
            agreement = [each for chunk in chunks for each in chunk]
    finally:
        cv2.setNumThreads(cores)
    same = np.flatnonzero(
        [each.score >= threshold and max(each.part_of_one, each.part_of_other) >= MIN_PART for each in agreement]
    )
    return PicturePairs(candidates.one[same], candidates.other[same], [agreement[k] for k in same], len(candidates.one))


class _Rows:
    """Some of the prepared images, in an order of one's own, without a copy of their pixels."""

    def __init__(self, images: PreparedImages, records: Sequence[int]) -> None:
        self._pixels = images.pixels
        self._rows = images.rows[list(records)]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._rows), *self._pixels.shape[1:]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | slice) -> NDArray[np.uint8]:
        return self._pixels[self._rows[key]]


def _ordered(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def _equal(keys: Iterable[str]) -> list[list[int]]:
    """The positions of each key."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return list(rows.values())


def _equal_pixels(firsts: Sequence[int], paths: Sequence[str], images: PreparedImages) -> list[list[int]]:
    """The records (one for each content) by picture; within a picture in the order of the records."""
    alike: dict[bytes, list[int]] = defaultdict(list)
    for record in firsts:
        alike[hashlib.sha256(images.pixels[images.rows[record]]).digest()].append(record)
    groups = []
    for records in alike.values():
        if len(records) == 1:
            groups.append(records)
            continue
        # Equal when small says nothing yet of the originals: decode these few once more.
        exact: dict[tuple[tuple[int, ...], bytes], list[int]] = defaultdict(list)
        for record in records:
            try:
                grey = read_grey(paths[record])
            except UnreadableImageError as error:
                raise DataError(f"{error}; it could be read a moment ago: run again") from error
            exact[grey.shape, grey.tobytes()].append(record)
        groups += [sorted(members) for members in exact.values()]
    return groups
