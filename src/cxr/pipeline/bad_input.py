"""Is what was read sound enough to go on with, and what is wrong where it is not?"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, get_args

import pandas as pd

from cxr.errors import ConfigurationError, DataError
from cxr.files import write_atomically
from cxr.sources.manifest import BAD_REASONS, UNREADABLE, Manifest
from cxr.sources.spreadsheet import to_csv

OnBad = Literal["skip", "fail"]
_NAMED: Final = 3  # rows that an error names; all of them are in the table that goes with it


class BadInputError(DataError):
    """Rows or files are bad, and the run does not go on without them.

    Args:
        message: one line.
        dropped: every row that is not used, bad or not, as `cxr.sources.manifest.Manifest.dropped`.
    """

    def __init__(self, message: str, dropped: pd.DataFrame) -> None:
        super().__init__(message, dropped)  # all arguments, so that the error survives pickling
        self.message = message
        self.dropped = dropped

    def __str__(self) -> str:
        return self.message


def check_policy(on_bad: str, max_unreadable: float) -> None:
    """Refuse what is no policy.

    Raises:
        ConfigurationError: ``on_bad`` is not one of ``OnBad``, or ``max_unreadable`` not from 0 to 1.
    """
    if on_bad not in get_args(OnBad):
        raise ConfigurationError(f"data.on_bad: {on_bad!r} is not one of {', '.join(get_args(OnBad))}")
    if not 0 <= max_unreadable <= 1:
        raise ConfigurationError(f"data.max_unreadable: {max_unreadable} is not from 0 to 1")


def require_sound(manifest: Manifest, on_bad: str, max_unreadable: float) -> None:
    """Refuse a collection that is worse than the policy allows.

    Args:
        manifest: what is left, and what was dropped, each with its reason; bad are those of ``BAD_REASONS``.
        on_bad: 'fail': nothing may be bad; 'skip': what is bad is left out, counted and named.
        max_unreadable: share of the files without a picture, among these and the records that are left, above which
            'skip' refuses all the same: then something else is wrong.

    Raises:
        BadInputError: naming how many, why, the first few, and what to do.
    """
    dropped = manifest.dropped
    if on_bad == "fail":
        bad = dropped[dropped["reason"].isin(BAD_REASONS)]
        if len(bad):
            raise BadInputError(
                f"data.on_bad=fail: {len(bad)} of {manifest.rows} rows are bad ({_counts(bad)}; {_first(bad)}); mend "
                "them, or leave them out with data.on_bad=skip",
                dropped,
            )
    unreadable = dropped[dropped["reason"] == UNREADABLE]
    num_files = len(manifest.records) + len(unreadable)
    if len(unreadable) > max_unreadable * num_files:
        raise BadInputError(
            f"data.max_unreadable: {len(unreadable)} of {num_files} images are unreadable, more than the share of "
            f"{max_unreadable:g} ({_counts(unreadable)}; {_first(unreadable)}); mend the files, or allow more",
            dropped,
        )


@contextmanager
def naming_all_bad(dropped_path: Callable[[], Path] | None) -> Iterator[None]:
    """Where bad input ends what is done within, all of it stands in a table, and the error says where.

    Args:
        dropped_path: gives the path of the table, where one is needed; None in a process that writes nothing.
    """
    try:
        yield
    except BadInputError as error:
        if dropped_path is None:
            raise
        path = dropped_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_csv(error.dropped))
        raise BadInputError(f"{error}; all of them: {os.path.relpath(path)}", error.dropped) from error


def describe_unreadable(manifest: Manifest) -> str | None:
    """How many files gave no picture and why, in a sentence; None where all did."""
    unreadable = manifest.dropped[manifest.dropped["reason"] == UNREADABLE]
    return f"{len(unreadable)} unreadable files: {_counts(unreadable)}" if len(unreadable) else None


def _counts(bad: pd.DataFrame) -> str:
    """How often each reason: of a file without a picture why it has none."""
    counts = Counter(_why(row) for row in bad.to_dict("records"))
    # The commonest first, and where two are equally common the order of the alphabet, on every run.
    return ", ".join(
        f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    )


def _first(bad: pd.DataFrame) -> str:
    named = []
    for row in bad.head(_NAMED).to_dict("records"):
        name = row["image"] if row["image"] is not None else f"row {row['row']}"
        named.append(f"{row['source']}/{name}: {_why(row)}")
    more = len(bad) - len(named)
    return "; ".join([*named, *([f"and {more} more"] if more else [])])


def _why(row: Mapping[Hashable, Any]) -> str:
    is_unreadable = row["reason"] == UNREADABLE and isinstance(row["detail"], str)
    return str(row["detail"] if is_unreadable else row["reason"])
