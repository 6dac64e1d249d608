"""How do several runs compare?  Their numbers on the same records, repeats averaged, differences tested."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from cxr.errors import ConfigurationError
from cxr.evaluation.comparison.configurations import Factor, differing_keys, differing_repeats, find_factors
from cxr.evaluation.comparison.finished_runs import FinishedRun
from cxr.evaluation.comparison.paired_tests import Difference, SeedSpread, SharedResamples, compare
from cxr.evaluation.comparison.predictions import BY_CONTENT, read_all
from cxr.evaluation.comparison.repeated_runs import (
    ComparedRun,
    Configuration,
    measure_run,
    rank_configurations,
    seed_spread,
)
from cxr.evaluation.comparison.search_record import Search, find_searches
from cxr.evaluation.words import LOWER_IS_BETTER, NAMES, counted
from cxr.pipeline.splits import SPLITS
from cxr.statistics.many_comparisons import holm

NUM_RESAMPLES = 2000
MAX_ALL_PAIRS = 10  # configurations up to which every pair is shown; of more, each against the best
LEVEL = 0.05
MAX_LISTED = 4  # differences named in the conclusion
FEW_PATIENTS = 30


@dataclass(frozen=True)
class PairedTest:
    """One difference between two configurations, first less second; `corrected` is p after Holm, with all others."""

    metric: str
    first: Configuration
    second: Configuration
    difference: Difference
    corrected: float | None

    @property
    def better(self) -> Configuration | None:
        """The better of the two, where they differ."""
        if self.corrected is None or self.corrected >= LEVEL or self.difference.value is None:
            return None
        first_is_better = (self.difference.value > 0) != (self.metric in LOWER_IS_BETTER)
        return self.first if first_is_better else self.second

    @property
    def verdict(self) -> str:
        if self.corrected is None:
            return f"not tested: {self.difference.reason}"
        return "no difference shown" if self.better is None else f"{self.better.number} is better"


@dataclass(frozen=True)
class Comparison:
    """All that was found.

    Args:
        split: what the runs are compared on.
        metric: by which they are ranked.
        configurations: the best first.
        excluded: runs that are not compared, and why.
        keys: settings in which any of the runs differ, those not compared included.
        repeat_keys: which of the seeds and the fold differ.
        factors: what the compared runs vary, for the figures.
        tests: pairs of configurations, in `metric` first, then in accuracy.
        family: how the tests were chosen and corrected, in words.
        matching: how many records the runs share, in words.
        warnings, notes: sentences; the former put the numbers in doubt.
        searches: to which the runs belong.
    """

    split: str
    metric: str
    configurations: Sequence[Configuration]
    excluded: Sequence[tuple[FinishedRun, str]]
    keys: Sequence[str]
    repeat_keys: Sequence[str]
    factors: Sequence[Factor]
    tests: Sequence[PairedTest]
    family: str
    matching: str
    warnings: Sequence[str]
    notes: Sequence[str]
    searches: Sequence[Search] = ()

    @property
    def runs(self) -> list[ComparedRun]:
        return [run for configuration in self.configurations for run in configuration.runs]


def compare_runs(
    found: Sequence[FinishedRun],
    *,
    split: str | None = None,
    metric: str = "auroc",
    reference: str | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Compare runs on what they predicted for the same records.

    Args:
        found: all runs, those included that came to nothing; see `find_runs`.
        split: 'test', 'val', 'train' or the name of a collection; None: test where every run has been evaluated on
            it, else val.
        metric: ranks the runs and is tested, besides accuracy.
        reference: name or path of a run against whose configuration all others are tested; None: all pairs, or, of
            more than ``MAX_ALL_PAIRS`` configurations, each against the best.
        num_resamples: of the bootstrap over patients.

    Raises:
        ConfigurationError: a split, metric or reference that is not there; the line names the nearest.
    """
    if metric not in NAMES:
        raise ConfigurationError(f"--metric {metric}: {_nearest(metric, list(NAMES))}")
    usable = [run for run in found if run.reason is None]
    split, notes = _choose_split(split, usable)
    predictions, problems, matched_by, without_hash = read_all(usable, split)
    excluded = [
        (run, problems[run.name] if run.reason is None else run.reason) for run in found if run.name not in predictions
    ]
    resamples = SharedResamples(num_resamples)
    warnings: list[str] = []
    runs = [
        measure_run(run, predictions[run.name], split, resamples, warnings) for run in usable if run.name in predictions
    ]
    matching = _matching(runs, matched_by, split, without_hash, warnings)
    factors = find_factors([run.run for run in runs])
    configurations = rank_configurations(runs, factors, metric, resamples, warnings, notes)
    spread = {name: seed_spread(configurations, name, resamples) for name in dict.fromkeys((metric, "accuracy"))}
    pairs, family, total = _choose_pairs(configurations, reference, metric, warnings)
    tests: list[PairedTest] = []
    for name in spread:
        differences = [compare(a.repeats, b.repeats, name, resamples, spread[name]) for a, b in pairs]
        corrected = holm([difference.p for difference in differences], total)
        tests += [
            PairedTest(name, a, b, difference, p)
            for (a, b), difference, p in zip(pairs, differences, corrected, strict=True)
        ]
    warnings += _cautions(configurations, split, spread[metric], tests)
    # A search ends hopeless trials by intention; what else is missing puts the comparison in doubt.
    missing = sum(run.status != "pruned" for run, _ in excluded)
    if missing:
        warnings.append(f"{counted(missing, 'run')} of {len(found)} not compared; the reasons are listed")
    searches = find_searches(run.path.parent for run in found)
    return Comparison(
        split=split,
        metric=metric,
        configurations=configurations,
        excluded=excluded,
        keys=differing_keys(found),
        repeat_keys=differing_repeats([run.run for run in runs]),
        factors=factors,
        tests=tests,
        family=family,
        matching=matching,
        warnings=list(dict.fromkeys(warnings)),
        notes=[*notes, *(f"{search.summary}." for search in searches)],
        searches=searches,
    )


def conclude(comparison: Comparison) -> str:
    """What a person takes home, in one or two sentences."""
    configurations, title = comparison.configurations, NAMES[comparison.metric]
    if not configurations:
        return f"No run can be compared on {comparison.split}."
    if len(configurations) == 1:
        runs = counted(len(configurations[0].runs), "run")
        return f"One configuration, {runs}: there are no configurations to tell apart, and none is called different."
    tests = [test for test in comparison.tests if test.metric == comparison.metric]
    tested = [test for test in tests if test.corrected is not None]
    if not tested:
        return f"No pair of configurations could be tested in {title}: {tests[0].difference.reason}."
    differing = [test for test in tested if test.better is not None]
    if not differing:
        which = "the two configurations" if len(configurations) == 2 else f"any of the {len(tested)} pairs tested"
        return (
            f"No difference shown in {title} between {which}. That is not equality: the limits of each difference "
            "say how large it may still be."
        )
    listed = []
    for test in differing[:MAX_LISTED]:
        worse = test.second if test.better is test.first else test.first
        listed.append(f"{test.verdict} than {worse.number}")
    more = f"; and {len(differing) - MAX_LISTED} more" if len(differing) > MAX_LISTED else ""
    best = f"Configuration 1 is {configurations[0].label}."
    if len(configurations) == 2:
        return f"The two configurations differ in {title}: {listed[0]}. {best}"
    pairs = counted(len(tested), "pair")
    return f"{len(differing)} of {pairs} of configurations differ in {title}: {'; '.join(listed)}{more}. {best}"


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"there is none; {f'did you mean {close[0]}? ' if close else ''}one of {', '.join(known)}"


def _choose_split(split: str | None, usable: Sequence[FinishedRun]) -> tuple[str, list[str]]:
    known = sorted({name for run in usable for name in run.splits})
    if split is not None:
        if usable and split not in known:
            raise ConfigurationError(f"--split {split}: {_nearest(split, known)}")
        return split, []
    if usable and all("test" in run.splits for run in usable):
        return "test", []
    evaluated = sum("test" in run.splits for run in usable)
    why = f"only {evaluated} of {len(usable)} runs have" if evaluated else "no run has"
    return "val", [f"Compared on the validation split: {why} been evaluated on the test split."]


def _matching(
    runs: Sequence[ComparedRun], matched_by: str, split: str, without_hash: Mapping[str, int], warnings: list[str]
) -> str:
    if without_hash and split in SPLITS:
        names = ", ".join(list(without_hash)[:3]) + (", ..." if len(without_hash) > 3 else "")
        warnings.append(f"no hash of every image in split.csv of {names}: records are matched by {matched_by}")
    if not runs:
        return ""
    sets = [set(run.predictions.keys) for run in runs]
    common, every = set.intersection(*sets), set.union(*sets)
    by = f"matched by {matched_by}"
    patients = len(set(runs[0].predictions.groups))
    if len(runs) == 1:
        return f"{counted(len(every), 'image')} of {counted(patients, 'patient')}."
    if len(common) == len(every):
        return (
            f"All {len(runs)} runs scored the same {counted(len(every), 'image')} of "
            f"{counted(patients, 'patient')}, {by}."
        )
    smallest, largest = min(map(len, sets)), max(map(len, sets))
    sizes = f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"
    folds = ("data.split.fold", "data.split.value")
    if len({tuple(run.run.settings.get(key) for key in folds) for run in runs}) == 1:
        names = "images of other content" if matched_by == BY_CONTENT else "images of other names"
        warnings.append(
            f"the runs scored different images ({names}): numbers beside each other are not of the same records; "
            "the tests use what each pair shares"
        )
    return f"The runs scored {sizes} images each, {len(every):,} in all; {len(common):,} are common to all, {by}."


def _choose_pairs(
    configurations: Sequence[Configuration], reference: str | None, metric: str, warnings: list[str]
) -> tuple[list[tuple[Configuration, Configuration]], str, int]:
    """Which configurations are tested against each other, that in words, and for how many tests is corrected."""
    count = len(configurations)
    every = count * (count - 1) // 2
    if reference is not None:
        chosen = _find_reference(configurations, reference)
        pairs = [(one, chosen) for one in configurations if one is not chosen]
        return (
            pairs,
            f"Each configuration against {chosen.number}, as asked; corrected for {len(pairs)} (Holm).",
            len(pairs),
        )
    if count <= MAX_ALL_PAIRS:
        return list(combinations(configurations, 2)), f"All {every} pairs; p corrected for as many (Holm).", every
    best = configurations[0]
    warnings.append(
        f"configuration {best.number} was picked as the best by looking at these very numbers: its own number, and "
        f"its lead, are too good; p is corrected for all {every} pairs that could have been picked"
    )
    family = (
        f"More than {MAX_ALL_PAIRS} configurations: each against the best in {NAMES[metric]}, which was picked by "
        f"looking; p corrected for all {every} pairs (Holm). --reference names another."
    )
    return [(best, one) for one in configurations[1:]], family, every


def _find_reference(configurations: Sequence[Configuration], reference: str) -> Configuration:
    path = Path(reference).expanduser().resolve()
    for configuration in configurations:
        for run in configuration.runs:
            if run.run.name == reference or run.run.path == path:
                return configuration
    names = [run.run.name for configuration in configurations for run in configuration.runs]
    raise ConfigurationError(f"--reference {reference}: no run that is compared; {_nearest(reference, names)}")


def _cautions(
    configurations: Sequence[Configuration], split: str, spread: SeedSpread | None, tests: Sequence[PairedTest]
) -> list[str]:
    cautions = []
    if len(configurations) > 1 and spread is None:
        cautions.append(
            "no configuration was trained with a second seed: a difference is one between these trained networks, and "
            "another seed may turn it; train several (seed=0,1,2) to speak of the configurations"
        )
    if split == "val" and configurations:
        cautions.append(
            "the validation images have chosen the epoch of every run: their numbers are too good, for each of them"
        )
    if split == "test" and len(configurations) > 1:
        cautions.append(
            "whoever chooses a configuration by its test numbers has no test set left: choose on val, report test"
        )
    fewest = min((test.difference.num_patients for test in tests if test.corrected is not None), default=FEW_PATIENTS)
    if fewest < FEW_PATIENTS:
        cautions.append(f"only {fewest} patients: limits and p are rough")
    return cautions
