from __future__ import annotations

import pandas as pd
import pytest

from cxr.audit.same_patient import join_groups
from cxr.audit.same_pictures import COLUMNS
from cxr.sources.manifest import make_records


def records(groups: str) -> pd.DataFrame:
    """A record for each letter, which names its group."""
    return make_records({"image": f"{number}.png", "group": f"s/{name}"} for number, name in enumerate(groups))


def pairs(*rows: tuple[int, int]) -> pd.DataFrame:
    return pd.DataFrame([(one, other, "near_duplicate", 0.99, 1.0) for one, other in rows], columns=list(COLUMNS))


@pytest.mark.parametrize(
    ("groups", "found", "expected", "joined"),
    [
        ("aabb", [], "aabb", []),
        ("aabb", [(0, 1)], "aabb", []),  # one patient's own pictures join nobody
        ("aabb", [(1, 2)], "aaaa", [("s/a", ("s/a", "s/b"), (0,))]),
        ("cba", [(0, 1), (1, 2)], "aaa", [("s/a", ("s/a", "s/b", "s/c"), (0, 1))]),  # through a third
        ("dcba", [(0, 1), (2, 3)], "ccaa", [("s/a", ("s/a", "s/b"), (1,)), ("s/c", ("s/c", "s/d"), (0,))]),
    ],
)
def test_patients_are_joined_through_the_pictures_that_they_share(
    groups: str, found: list[tuple[int, int]], expected: str, joined: list[tuple[str, tuple[str, ...], tuple[int, ...]]]
) -> None:
    names, joins = join_groups(records(groups), pairs(*found))
    assert names.tolist() == [f"s/{name}" for name in expected]
    assert [(join.group, join.groups, join.pairs) for join in joins] == joined
