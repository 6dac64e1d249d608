"""What does each configuration come to, its seeds and folds taken together?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from cxr.evaluation.comparison.configurations import Factor, describe, repeat_of, same_configuration
from cxr.evaluation.comparison.finished_runs import FinishedRun
from cxr.evaluation.comparison.paired_tests import SeedSpread, SharedResamples, everyone_in
from cxr.evaluation.comparison.predictions import Predictions, pool
from cxr.evaluation.metrics.measures import measure
from cxr.evaluation.metrics.metric_intervals import BOUNDS
from cxr.evaluation.words import LOWER_IS_BETTER, NAMES, Estimate, read_estimate
from cxr.statistics.resampling import percentile_interval

# metrics.json and predictions are written together; a greater difference says that one of them is of another day.
_SAME = 1e-4


@dataclass(frozen=True)
class ComparedRun:
    """A run with predictions of the split, and its numbers there."""

    run: FinishedRun
    predictions: Predictions
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Summary:
    """A metric of a configuration.

    Args:
        estimate: of one run; or the mean over repeats with its limits over patients, folds pooled.
        mean, deviation, low, high: over the runs: mean, standard deviation, and the 95 % limits of the mean by
            Student's t, cut where the metric ends; None for a single run.
        num_runs: how many runs that is.
    """

    estimate: Estimate
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None
    num_runs: int


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seeds and folds alone.

    Args:
        number: 1 for the best by the metric of the comparison.
        label: its settings as far as others have them otherwise.
        runs: its runs.
        repeats: the same, folds pooled: what is averaged and tested.
        summaries: metric -> what it comes to.
    """

    number: int
    label: str
    runs: tuple[ComparedRun, ...]
    repeats: tuple[Predictions, ...]
    summaries: Mapping[str, Summary]


def measure_run(
    run: FinishedRun, predictions: Predictions, split: str, resamples: SharedResamples, warnings: list[str]
) -> ComparedRun:
    """The numbers of a run: those of its ``metrics.json``, and of its predictions where limits are missing there.

    Args:
        run: the run.
        predictions: what it predicted for the split.
        split: the split or collection.
        resamples: shared by all runs.
        warnings: receives what its evaluation warned of, and where the two files disagree.
    """
    entry = run.metrics[split]
    values = {name: float(worked_out[0]) for name, worked_out in resamples.metrics(predictions, predictions).items()}
    given = {name: read_estimate(name, entry.get(name)) for name in NAMES}
    stale = [
        name
        for name, value in values.items()
        if given[name].value is not None and not abs((given[name].value or 0.0) - value) <= _SAME
    ]
    if stale:
        first = stale[0]
        now = "undefined" if np.isnan(values[first]) else f"{values[first]:.3f}"
        warnings.append(
            f"{run.name}: {NAMES[first]} is {given[first].value:.3f} in metrics.json, and {now} in its predictions, "
            "which count here; evaluate the run again"
        )
    if stale or all(estimate.low is None for estimate in given.values()):
        majority = entry.get("majority_class")
        if majority not in predictions.class_names:
            majority = predictions.class_names[int(np.bincount(predictions.labels).argmax())]
        entry_now = measure(
            predictions.probabilities,
            predictions.labels,
            [str(group) for group in predictions.groups],
            predictions.class_names,
            predictions.positive,
            majority,
            threshold=predictions.threshold,
        )
        given = {name: read_estimate(name, entry_now.get(name)) for name in NAMES}
    metrics = {name: estimate for name, estimate in given.items() if name in values}
    said = entry.get("warnings")
    for warning in said if isinstance(said, list) else []:
        warnings.append(f"{run.name}: {' '.join(str(warning).split())}")
    return ComparedRun(run, predictions, metrics)


def _limits(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Of the value that comes first, from those of the resamples that follow it."""
    found = None if np.isnan(values[0]) else percentile_interval(values[1:])
    # Limits without width say that the resamples are alike, not that the number is certain.
    return (None, None) if found is None or found[0] == found[1] else found


def _limits_of_runs(estimates: Sequence[Estimate]) -> tuple[float | None, float | None, str]:
    """The means of the runs' own limits: what the mean has if all runs err alike, which is the widest it can have."""
    low, high = [each.low for each in estimates], [each.high for each in estimates]
    if None in low or None in high:
        return None, None, ""
    return float(np.mean(low)), float(np.mean(high)), "mean of the limits of the runs"  # type: ignore[arg-type]


def _method(resamples: SharedResamples) -> str:
    return f"patient bootstrap, {resamples.num_resamples:,} resamples"


def rank_configurations(
    runs: Sequence[ComparedRun],
    factors: Sequence[Factor],
    metric: str,
    resamples: SharedResamples,
    warnings: list[str],
    notes: list[str],
) -> list[Configuration]:
    """The runs of each configuration together, the best by the metric first.

    Args:
        runs: all that are compared.
        factors: what the runs vary: the labels name it.
        metric: as in ``metrics.json``; a configuration in which it is undefined comes last.
        resamples: shared by all runs.
        warnings, notes: receive what must be known of repeats.
    """
    by_name = {run.run.name: run for run in runs}
    made = []
    for together in same_configuration([run.run for run in runs]):
        members = tuple(by_name[run.name] for run in together)
        counting = _without_repeated_seeds(members, warnings)
        repeats = _pool_folds(counting, notes)
        names = [name for name in NAMES if all(name in run.metrics for run in members)]
        summaries = {name: _summary(name, counting, repeats, resamples) for name in names}
        label = describe(together[0], factors)
        made.append(Configuration(0, label, members, repeats, summaries))
    worst = float("inf")

    def rank(configuration: Configuration) -> float:
        value = configuration.summaries[metric].estimate.value if metric in configuration.summaries else None
        return worst if value is None else value if metric in LOWER_IS_BETTER else -value

    return [replace(one, number=number) for number, one in enumerate(sorted(made, key=rank), start=1)]


def _without_repeated_seeds(members: Sequence[ComparedRun], warnings: list[str]) -> list[ComparedRun]:
    """Of runs with the same seeds and fold the last: a run that is repeated is no further evidence."""
    last = {repeat_of(run.run): run for run in members} if members[0].run.settings else {0: members[0]}
    if len(last) < len(members):
        names = ", ".join(run.run.name for run in members)
        warnings.append(f"{names}: among these, runs with the same seed repeat each other; only the last one counts")
    return list(last.values())


def _pool_folds(members: Sequence[ComparedRun], notes: list[str]) -> tuple[Predictions, ...]:
    """The predictions of each repeat; folds of one division whose records are disjoint are one set."""
    divisions: dict[object, list[Predictions]] = {}
    for run in members:
        settings = run.run.settings
        divisions.setdefault((settings.get("seed"), settings.get("data.split.seed")), []).append(run.predictions)
    repeats: list[Predictions] = []
    for parts in divisions.values():
        pooled = pool(parts) if len(parts) > 1 else None
        if pooled is not None:
            notes.append(
                f"{', '.join(pooled.names)}: {len(parts)} folds, their {len(pooled.keys):,} predictions are pooled. "
                "The limits over folds are too narrow, for folds share training images (Bengio and Grandvalet 2004)."
            )
        repeats += [pooled] if pooled is not None else parts
    return tuple(repeats)


def _summary(
    name: str, counting: Sequence[ComparedRun], repeats: Sequence[Predictions], resamples: SharedResamples
) -> Summary:
    first = counting[0].metrics[name]
    if len(counting) == 1:
        return Summary(first, None, None, None, None, 1)
    everyone, _ = everyone_in(repeats)
    values = resamples.mean([[repeat] for repeat in repeats], everyone, name)
    low, high, method = (*_limits(values), _method(resamples))
    if low is None:
        low, high, method = _limits_of_runs([run.metrics[name] for run in counting])
    estimate = Estimate(
        name,
        None if np.isnan(values[0]) else float(values[0]),
        low,
        high,
        baseline=first.baseline,
        n=first.n if len(everyone.keys) == len(counting[0].predictions.keys) else None,
        method=method if low is not None else None,
        reason=next((run.metrics[name].reason for run in counting if run.metrics[name].reason is not None), None),
    )
    of_runs = [run.metrics[name].value for run in counting]
    known = np.array([value for value in of_runs if value is not None])
    if len(known) < 2 or len(known) < len(of_runs):
        return Summary(estimate, None, None, None, None, len(counting))
    mean, deviation = float(known.mean()), float(known.std(ddof=1))
    half = float(t.ppf(0.975, len(known) - 1)) * deviation / len(known) ** 0.5
    least, greatest = BOUNDS.get(name, (0.0, 1.0))
    return Summary(estimate, mean, deviation, max(least, mean - half), min(greatest, mean + half), len(known))


def seed_spread(configurations: Sequence[Configuration], metric: str, resamples: SharedResamples) -> SeedSpread | None:
    """What other seeds alone change, from all configurations that were repeated on equal records."""
    squares, freedom = 0.0, 0
    for configuration in configurations:
        same: dict[tuple[object, ...], list[float]] = {}
        for repeat in configuration.repeats:
            values = resamples.metrics(repeat, repeat).get(metric)
            if values is not None and not np.isnan(values[0]):
                same.setdefault(tuple(repeat.keys), []).append(float(values[0]))
        for repeated in same.values():
            squares += float(np.square(np.array(repeated) - np.mean(repeated)).sum())
            freedom += len(repeated) - 1
    return SeedSpread(squares / freedom, freedom) if freedom else None
