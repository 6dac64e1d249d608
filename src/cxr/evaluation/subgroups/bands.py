"""Into which bands does a column of the manifest divide the images?"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import ConfigurationError

COLUMNS: Final = ("sex", "age", "view", "source", "country")
MISSING: Final = "missing"
MAX_VALUES: Final = 8  # values of a column that are told apart; all others are counted together
# Years from which each band counts: children are no small adults, whatever else is asked.
_AGE_BANDS: Final = ((0, "under 18"), (18, "18-39"), (40, "40-59"), (60, "60-79"), (80, "80 and over"))
_OLDEST: Final = 120
_QUARTERS: Final = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Bands:
    """A column, divided.

    Args:
        names: the bands in the order in which they are shown; empty where nothing is known.
        codes: (N,) place in `names` of each image, -1 = missing.
        note: what else must be known of the missing ones.
    """

    names: list[str]
    codes: NDArray[np.int64]
    note: str | None = None


def bands_of(records: pd.DataFrame, column: str) -> Bands:
    """Divide the images by a column.

    Ages, in years, fall into the bands under 18, 18-39, 40-59, 60-79, 80 and over, also where a band holds nobody.
    Other numbers of more than ``MAX_VALUES`` values are cut at their quartiles. Of other columns the commonest
    ``MAX_VALUES`` values stand for themselves. Empty cells are missing, and so are ages outside 0 to 120.

    Args:
        records: (N,) rows of a manifest.
        column: one of its columns.

    Raises:
        ConfigurationError: there is no such column.
    """
    if column not in records.columns:
        known = [str(name) for name in records.columns]
        nearest = difflib.get_close_matches(column, known, n=1, cutoff=0.0)
        raise ConfigurationError(
            f"subgroups: the images have no column {column!r}" + (f"; nearest: {nearest[0]!r}" if nearest else "")
        )
    places, cells = pd.factorize(records[column].astype(object))
    spelt = [*(_text(cell) for cell in cells), None]  # an empty cell has the place -1
    texts = [spelt[place] for place in places]
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(np.float64)
    if column == "age":
        return _age_bands(texts, numbers)
    values = Counter(text for text in texts if text is not None)
    is_number = np.isfinite(numbers)
    if values and int(is_number.sum()) == values.total():
        if len(values) > MAX_VALUES:
            return _quarters(numbers, is_number)
        return _as_bands(texts, sorted(values, key=float))
    ordered = sorted(values, key=lambda value: (-values[value], value))
    # One value too many stands for itself: "1 other value" would say less in the same room.
    return _as_bands(texts, ordered if len(ordered) <= MAX_VALUES + 1 else ordered[:MAX_VALUES])


def _text(cell: Any) -> str | None:
    if isinstance(cell, (float, np.floating)):
        return f"{cell:.15g}" if np.isfinite(cell) else None
    text = " ".join(str(cell).split())
    return text if text else None


def _age_bands(texts: Sequence[str | None], ages: NDArray[np.float64]) -> Bands:
    plausible = (ages >= 0) & (ages <= _OLDEST)
    strange = sum(text is not None for text in texts) - int(plausible.sum())
    note = f"ages outside 0 to {_OLDEST} years, counted as {MISSING}: {strange}" if strange else None
    codes = np.full(len(ages), -1, dtype=np.int64)
    codes[plausible] = np.searchsorted([start for start, _ in _AGE_BANDS], ages[plausible], side="right") - 1
    return Bands([name for _, name in _AGE_BANDS] if plausible.any() else [], codes, note)


def _quarters(numbers: NDArray[np.float64], is_known: NDArray[np.bool_]) -> Bands:
    known = numbers[is_known]
    exact = np.unique(np.quantile(known, _QUARTERS, method="inverted_cdf"))
    exact = exact[exact < known.max()]
    # Cuts of three digits can be read; more only where bands would else fall together.
    for digits in range(3, 18):
        cuts = np.unique([float(f"{cut:.{digits}g}") for cut in exact])
        places = np.searchsorted(cuts, known, side="left")
        if len(np.unique(places)) == len(exact) + 1:
            break
    codes = np.full(len(numbers), -1, dtype=np.int64)
    codes[is_known] = places
    ends = [f"{cut:.{max(digits, 15)}g}" for cut in cuts]
    if not ends:
        return Bands([f"up to {known.max():.15g}"], codes)
    between = [f"over {low} to {high}" for low, high in pairwise(ends)]
    return Bands([f"up to {ends[0]}", *between, f"over {ends[-1]}"], codes)


def _as_bands(texts: Sequence[str | None], names: Sequence[str]) -> Bands:
    number = {name: place for place, name in enumerate(names)}
    others = {text for text in texts if text is not None and text not in number}
    codes = np.array([-1 if text is None else number.get(text, len(names)) for text in texts], dtype=np.int64)
    together = f"{len(others)} other values"
    # A cell of the data may hold the very words that are used here.
    shown = [f'"{name}"' if name in (MISSING, together) else name for name in names]
    return Bands([*shown, together] if others else shown, codes)
