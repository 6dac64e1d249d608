"""Which pictures and patients stand on two sides of a split?"""

from __future__ import annotations

from typing import Final

import pandas as pd

COLUMNS: Final = (
    "image_a",
    "image_b",
    "source_a",
    "source_b",
    "kind",
    "score",
    "split_a",
    "split_b",
    "label_a",
    "label_b",
    "label_differs",
    "view_differs",
    "patient_a",
    "patient_b",
)

Pair = tuple[int, int, str, float | None]  # two rows, kind, score


def find_leaks(records: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Every pair of records on two sides of the split that shows one picture, and every patient who stands on two.

    Args:
        records: a manifest with ``split``; ``group`` holds what must not be divided.
        pairs: as `cxr.audit.same_pictures.SamePictures.pairs`.

    Returns:
        One row per leak, columns ``COLUMNS``. ``kind`` is that of the pair of pictures; ``patient``, without a score,
        for a group that no such pair shows to be divided: it is named by the first image that it has on each of two
        sides.
    """
    splits, groups = records["split"].to_numpy(object), records["group"].to_numpy(object)
    leaks: list[Pair] = [pair for pair in as_tuples(pairs) if splits[pair[0]] != splits[pair[1]]]
    shown = {groups[row] for leak in leaks for row in leak[:2]}
    firsts: dict[object, dict[object, int]] = {}
    for row, (group, split) in enumerate(zip(groups, splits, strict=True)):
        firsts.setdefault(group, {}).setdefault(split, row)
    for group, sides in sorted(firsts.items(), key=lambda item: str(item[0])):
        if len(sides) > 1 and group not in shown:
            one, *others = sides.values()
            leaks += [(one, other, "patient", None) for other in others]
    return describe_pairs(records, leaks)


def as_tuples(pairs: pd.DataFrame) -> list[Pair]:
    """`cxr.audit.same_pictures.SamePictures.pairs` as rows, kind and score."""
    columns = (pairs[name].tolist() for name in ("row_a", "row_b", "kind", "score"))
    return [(int(one), int(other), str(kind), float(score)) for one, other, kind, score in zip(*columns, strict=True)]


def describe_pairs(records: pd.DataFrame, pairs: list[Pair]) -> pd.DataFrame:
    """Pairs of rows, their kind and score, as a table that a person can read; columns ``COLUMNS``."""
    columns = {
        name: records[name].to_numpy(object) for name in ("image", "source", "split", "label", "view", "patient")
    }

    def row(one: int, other: int, kind: str, score: float | None) -> dict[str, object]:
        both = {name: (values[one], values[other]) for name, values in columns.items()}
        sides = {f"{name}_{side}": both[name][number] for name in both for number, side in enumerate("ab")}
        differ = {f"{name}_differs": _differ(*both[name]) for name in ("label", "view")}
        return {**sides, **differ, "kind": kind, "score": score}

    table = pd.DataFrame([row(*pair) for pair in pairs], columns=list(COLUMNS))
    return table.astype({"score": float})


def _differ(one: object, other: object) -> bool | None:
    """None where one of them is not known."""
    return None if one is None or other is None else one != other
