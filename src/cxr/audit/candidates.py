"""Which pairs of pictures agree on where their marks stand, and so are worth a closer look?

Every mark asks for its nearest neighbours among the marks of all pictures. Each neighbour in another picture is a vote
for one placing of the one picture in the other: a scale and a shift. A pair is a candidate where several marks vote for
nearly the same placing (Jégou H, Douze M, Schmid C (2008), "Hamming embedding and weak geometric consistency for large
scale image search"). Neither step looks at all pairs: a mark is compared with those in a few cells of an inverted file
(faiss), and a picture keeps only its best candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from cxr.audit.descriptors import DIMENSIONS, Marks

NEIGHBOURS: Final = 4  # the mark itself is the first
MIN_VOTES: Final = 3
CANDIDATES_PER_PICTURE: Final = 12

_CELLS_PROBED: Final = 8
_QUERIES_AT_ONCE: Final = 2**17
_MAX_LOG2_SCALE: Final = 1.4  # a part of half the side, and what the sizes of marks are off by
_SCALE_BIN: Final = 0.4  # in log2
_SHIFT_BIN: Final = 0.16  # as a part of the side of the square


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of pictures, one < other, and how the marks place the one in the other.

    Attributes:
        one, other: int32 (num_pairs,).
        votes: int32 (num_pairs,), how many marks of the one agree.
        placing: float64 (num_pairs, 4): scale_x, scale_y, shift_x, shift_y; the point (x, y) of the one is at
            (scale_x x + shift_x, scale_y y + shift_y) of the other, in pixels.
    """

    one: NDArray[np.int32]
    other: NDArray[np.int32]
    votes: NDArray[np.int32]
    placing: NDArray[np.float64]


def find_candidates(marks: Marks, size: int) -> Candidates:
    """Pairs of pictures whose marks agree.

    Args:
        marks: the marks of all pictures.
        size: side of the pictures in pixels.
    """
    one, other = _nearest_pairs(marks)
    swapped = marks.picture[one] > marks.picture[other]
    one, other = np.where(swapped, other, one), np.where(swapped, one, other)
    return _vote(one, other, marks, size)


def _nearest_pairs(marks: Marks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Marks of different pictures of which one is among the nearest neighbours of the other."""
    num_marks = len(marks.vectors)
    if num_marks == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    num_cells = max(1, min(num_marks // 50, round(4 * math.sqrt(num_marks))))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(DIMENSIONS), DIMENSIONS, num_cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    # A rough division is enough: what counts is that equals fall into one cell. The seed is faiss's own constant.
    index.cp.niter, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 5, 1, 20
    sample = np.linspace(0, num_marks - 1, min(num_marks, 20 * num_cells)).astype(np.int64)
    index.train(marks.vectors[sample].astype(np.float32))
    starts = range(0, num_marks, _QUERIES_AT_ONCE)
    for start in starts:
        index.add(marks.vectors[start : start + _QUERIES_AT_ONCE].astype(np.float32))
    index.nprobe = _CELLS_PROBED
    ones, others = [], []
    for start in starts:
        queries = marks.vectors[start : start + _QUERIES_AT_ONCE].astype(np.float32)
        _, neighbours = index.search(queries, NEIGHBOURS)
        one = np.repeat(np.arange(start, start + len(queries)), NEIGHBOURS)
        other = neighbours.ravel()
        kept = (other >= 0) & (marks.picture[one] != marks.picture[other])
        kept &= np.abs(np.log2(marks.place[one, 2] / marks.place[other, 2])) < _MAX_LOG2_SCALE
        ones.append(one[kept])
        others.append(other[kept])
    return np.concatenate(ones), np.concatenate(others)


def _vote(one: NDArray[np.int64], other: NDArray[np.int64], marks: Marks, size: int) -> Candidates:
    num_marks = max(1, len(marks.picture))
    codes = np.unique(one * num_marks + other)  # two marks may have found each other
    matches = np.stack([codes // num_marks, codes % num_marks], axis=1)
    pictures = marks.picture[matches].astype(np.int64)
    pair = pictures[:, 0] * (int(marks.picture[-1]) + 1 if len(marks.picture) else 1) + pictures[:, 1]
    order = np.argsort(pair, kind="stable")
    pair, matches, pictures = pair[order], matches[order], pictures[order]
    if len(pair):  # pairs that no bin can give enough votes
        _, position, count = np.unique(pair, return_inverse=True, return_counts=True)
        enough = count[position] >= MIN_VOTES
        pair, matches, pictures = pair[enough], matches[enough], pictures[enough]

    place, target = marks.place[matches[:, 0]].astype(np.float64), marks.place[matches[:, 1]].astype(np.float64)
    log_scale = np.log2(target[:, 2] / place[:, 2])
    centre = (size - 1) / 2
    # Where the centre of the one falls in the other, measured in the mean scale of both so that it is fair to either.
    shift = (target[:, :2] + (centre - place[:, :2]) * 2.0 ** log_scale[:, None] - centre) / 2.0 ** (
        log_scale[:, None] / 2
    )
    bins = np.stack([log_scale / _SCALE_BIN, shift[:, 0] / (size * _SHIFT_BIN), shift[:, 1] / (size * _SHIFT_BIN)], 1)

    found: dict[int, tuple[int, NDArray[np.int64]]] = {}
    for offset in (0.0, 0.5):  # what one division into bins cuts apart, the other does not
        keys = np.concatenate([pair[:, None], np.floor(bins + offset).astype(np.int64)], axis=1)
        order = np.lexsort((keys[:, 3], keys[:, 2], keys[:, 1], keys[:, 0]))
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)]) if len(keys) else np.zeros(0, int)
        ends = np.r_[starts[1:], len(keys)]
        enough = ends - starts >= MIN_VOTES
        for start, end in zip(starts[enough], ends[enough], strict=True):
            members = order[start:end]
            votes = min(len(np.unique(matches[members, 0])), len(np.unique(matches[members, 1])))
            key = int(keys[start, 0])
            if votes >= MIN_VOTES and votes > found.get(key, (0, members))[0]:
                found[key] = votes, members

    voters = [found[key][1] for key in sorted(found)]
    num_votes = np.array([found[key][0] for key in sorted(found)], np.int32)
    ends_of = np.array([pictures[each[0]] for each in voters], np.int32).reshape(-1, 2)
    kept = _best_of_each(ends_of, num_votes)
    placing = [_fit(place[voters[k], :2], target[voters[k], :2], float(np.median(log_scale[voters[k]]))) for k in kept]
    return Candidates(ends_of[kept, 0], ends_of[kept, 1], num_votes[kept], np.array(placing, np.float64).reshape(-1, 4))


def _best_of_each(ends: NDArray[np.int32], votes: NDArray[np.int32]) -> NDArray[np.int64]:
    """The pairs that are among the best of at least one of their pictures."""
    both = np.concatenate([ends[:, 0], ends[:, 1]])
    number = np.tile(np.arange(len(ends)), 2)
    order = np.lexsort((number, -np.tile(votes, 2), both))
    ordered = both[order]
    first = np.searchsorted(ordered, ordered)
    kept = np.arange(len(order)) - first < CANDIDATES_PER_PICTURE
    return np.unique(number[order[kept]])


def _fit(place: NDArray[np.float64], target: NDArray[np.float64], log_scale: float) -> tuple[float, ...]:
    """Scale of each axis and shift, least squares, without the marks that stand far off."""
    inside = np.ones(len(place), dtype=bool)
    scale = np.full(2, 2.0**log_scale)
    shift = np.median(target - scale * place, axis=0)
    for _ in range(3):
        spread = place[inside].std(axis=0)
        if spread.max() > 8.0:  # below, marks that stand together tell less of the scale than their own sizes
            centred = place[inside] - place[inside].mean(axis=0)
            moved = target[inside] - target[inside].mean(axis=0)
            if inside.sum() >= 6 and spread.min() > 12.0:
                fitted = (centred * moved).sum(axis=0) / (centred**2).sum(axis=0)
            else:
                fitted = np.full(2, (centred * moved).sum() / (centred**2).sum())
            if (np.abs(np.log2(np.maximum(fitted, 1e-3)) - log_scale) < 1.0).all():
                scale = fitted
        shift = np.median(target[inside] - scale * place[inside], axis=0)
        off = np.abs(target - scale * place - shift).max(axis=1)
        close = off < max(6.0, 2.0 * float(np.median(off)))
        if close.sum() < 2 or (close == inside).all():
            break
        inside = close
    return (*scale, *shift)
