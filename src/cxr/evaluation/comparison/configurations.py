"""What sets the runs apart, and which of them repeat one configuration with another seed or fold?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxr.evaluation.comparison.finished_runs import RECORDS, FinishedRun

# Runs that differ in these alone repeat one configuration.
# What is left out is a fold of its own kind.
REPEAT_KEYS = ("seed", "data.split.seed", "data.split.fold", "data.split.value")
# What a run is called, where things lie and who watches: no part of what was trained.
HOUSEKEEPING = re.compile(
    r"name|(paths|logger)\..*|data\.(name|root|download|num_workers)|trainer\.log_every_n_steps"
    r"|data\.sources\.[^.]+\.(root|images|address)"
)
NOT_SET = "(not set)"


@dataclass(frozen=True)
class Factor:
    """Something that a sweep varies.

    Args:
        name: the last part of its key, longer where that would be another's name too.
        also: keys that vary together with it, so that their effects cannot be told apart.
        values: name of the run -> value.
    """

    name: str
    also: tuple[str, ...]
    values: Mapping[str, Any]

    @property
    def levels(self) -> list[Any]:
        """The distinct values: numbers by size, the rest in the order in which they come."""
        distinct = list(dict.fromkeys(self.values.values()))
        return sorted(distinct) if self.is_numeric else distinct

    @property
    def is_numeric(self) -> bool:
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values.values())


def same_configuration(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """Runs that differ in nothing but their seeds and folds, together; in the order of the first of each.

    A run without a ``config.yaml`` is like no other, and neither is one that was interrupted like one that ran to
    its end.
    """
    together: dict[object, list[FinishedRun]] = {}
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if not _apart(key)}
        # repr tells 1 from True and 1.0, which are equal and mean other settings.
        known = (run.status == "interrupted", *sorted((key, repr(value)) for key, value in settings.items()))
        together.setdefault(known if run.settings else run.name, []).append(run)
    return list(together.values())


def repeat_of(run: FinishedRun) -> tuple[Any, ...]:
    """Which repeat of its configuration a run is: its seeds and its fold."""
    return tuple(run.settings.get(key) for key in REPEAT_KEYS)


def differing_keys(runs: Sequence[FinishedRun]) -> list[str]:
    """The settings in which the runs differ, in the order of the configuration; seeds, names and paths left out."""
    with_settings = [run.settings for run in runs if run.settings]
    known = dict.fromkeys(key for settings in with_settings for key in settings)
    # A run that failed before it had its records does not have other records.
    return [
        key
        for key in known
        if not _apart(key)
        and len({repr(settings.get(key, NOT_SET)) for settings in with_settings if key in settings or key != RECORDS})
        > 1
    ]


def differing_repeats(runs: Sequence[FinishedRun]) -> list[str]:
    """Which of the seeds and the fold differ between the runs."""
    with_settings = [run.settings for run in runs if run.settings]
    return [key for key in REPEAT_KEYS if len({repr(settings.get(key)) for settings in with_settings}) > 1]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Key -> the shortest of its endings that no other of the keys has."""
    names = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        others = [other for other in keys if other != key]
        names[key] = next(
            (end for end in endings if not any(other == end or other.endswith(f".{end}") for other in others)), key
        )
    return names


def find_factors(runs: Sequence[FinishedRun]) -> list[Factor]:
    """What the runs vary; keys whose values always change together make one factor.

    A sampler and class weights are two answers to one question, unequal classes, and make the factor ``balance``.
    """
    runs = [run for run in runs if run.settings]
    keys = differing_keys(runs)
    columns: dict[str, dict[str, Any]] = {
        key: {run.name: run.settings.get(key, NOT_SET) for run in runs} for key in keys
    }
    both = ("balance.sampler", "balance.weighting")
    if all(key in columns for key in both):
        sampler, weighting = (columns.pop(key) for key in both)
        columns["balance"] = {name: balance_in_words(sampler[name], weighting[name]) for name in sampler}
    names = short_names(list(columns))
    together: dict[tuple[int, ...], list[str]] = {}
    for key, values in columns.items():
        numbers: dict[str, int] = {}
        pattern = tuple(numbers.setdefault(repr(value), len(numbers)) for value in values.values())
        together.setdefault(pattern, []).append(key)
    return [
        Factor(names[first], tuple(names[key] for key in others), columns[first])
        for first, *others in together.values()
    ]


def is_full_grid(factors: Sequence[Factor]) -> bool:
    """Whether every combination of the factors was run equally often: only then is a mean over the others fair."""
    if not factors:
        return True
    counts: dict[tuple[str, ...], int] = {}
    for name in factors[0].values:
        cell = tuple(repr(factor.values[name]) for factor in factors)
        counts[cell] = counts.get(cell, 0) + 1
    combinations = 1
    for factor in factors:
        combinations *= len({repr(value) for value in factor.values.values()})
    return len(counts) == combinations and len(set(counts.values())) == 1


def show_value(value: Any) -> str:
    """A setting as a person would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def balance_in_words(sampler: Any, weighting: Any) -> str:
    """What is done about unequal classes, in a word: ``none``, ``oversample``, ``inverse_frequency``, or two."""
    used = [show_value(value) for value in (sampler, weighting) if value not in ("none", NOT_SET)]
    return " + ".join(used) or "none"


def describe(run: FinishedRun, factors: Sequence[Factor]) -> str:
    """What a run has that other runs have otherwise, in one line; its name where that is nothing."""
    if not run.settings:
        return run.name
    parts = [f"{factor.name}={show_value(factor.values[run.name])}" for factor in factors]
    parts += ["interrupted"] if run.status == "interrupted" else []
    return ", ".join(parts) or run.name


def _apart(key: str) -> bool:
    return key in REPEAT_KEYS or HOUSEKEEPING.fullmatch(key) is not None
