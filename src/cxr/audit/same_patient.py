"""Which patients must be one person, by the pictures that they share?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Join:
    """Groups of a manifest that became one.

    Args:
        group: the name that all have now: the first of theirs in alphabetical order.
        groups: those that were joined, sorted.
        pairs: (P,) rows of the pairs that hold them together.
    """

    group: str
    groups: tuple[str, ...]
    pairs: tuple[int, ...]


def join_groups(records: pd.DataFrame, pairs: pd.DataFrame) -> tuple[pd.Series[str], list[Join]]:
    """Connect the groups of a manifest through the pairs of records that show the same picture.

    Args:
        records: a manifest of N records; ``group`` is read.
        pairs: as `cxr.audit.same_pictures.SamePictures.pairs`.

    Returns:
        The group of every record, with the index of ``records``, and what was joined, sorted by name.
    """
    names, codes = np.unique(records["group"].to_numpy(str), return_inverse=True)
    one, other = codes[pairs["row_a"].to_numpy(np.int64)], codes[pairs["row_b"].to_numpy(np.int64)]
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(len(names), len(names)))
    num_groups, components = connected_components(graph, directed=False)
    # Names are sorted: the first of each component gives it its name.
    first = np.full(num_groups, len(names))
    np.minimum.at(first, components, np.arange(len(names)))
    joined = np.flatnonzero(np.bincount(components, minlength=num_groups) > 1)
    crossing = one != other
    joins = [
        Join(
            str(names[first[component]]),
            tuple(names[components == component].tolist()),
            tuple(np.flatnonzero(crossing & (components[one] == component)).tolist()),
        )
        for component in sorted(joined.tolist(), key=first.__getitem__)
    ]
    return pd.Series(names[first[components[codes]]], records.index, dtype=object, name="group"), joins
