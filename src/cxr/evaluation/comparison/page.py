"""What does one page show of a comparison, so that a person can judge it without the runs?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cxr.evaluation.comparison.comparison import Comparison, PairedTest, conclude
from cxr.evaluation.comparison.configurations import is_full_grid, show_value
from cxr.evaluation.comparison.repeated_runs import ComparedRun
from cxr.evaluation.comparison.search_section import draw_searches
from cxr.evaluation.comparison.sweep_figures import MAX_FACTORS, draw_main_effects, draw_parallel_coordinates
from cxr.evaluation.comparison.table import (
    cost_of,
    run_names,
    sentences_of,
    show_p,
    show_parameters,
    show_seconds,
    show_spread,
    signed,
)
from cxr.evaluation.report.figures import picture_of
from cxr.evaluation.report.page_template import template
from cxr.evaluation.report.parts import Number, Part, Section, Strip, Table, strip
from cxr.evaluation.words import ABSENT, LOWER_IS_BETTER, NAMES, Estimate, counted, number, title_of, with_limits
from cxr.files import write_atomically

WIDE = 480  # CSS pixels from which a figure is not read at the width of a phone
GROUPS = (
    ("Order and probability", ("auroc", "macro_auroc", "average_precision", "brier", "log_loss")),
    ("Answers", ("accuracy", "balanced_accuracy", "f1", "mcc")),
    ("Rates", ("sensitivity", "specificity", "ppv", "npv")),
)


def write_page(comparison: Comparison, output_dir: Path) -> list[Path]:
    """Write ``comparison.html`` and the figures of the sweep into a folder.

    One file: the figures are part of it, and lie beside it as PNG too; no script, no network.

    Returns:
        The page, then the figures.
    """
    figures = _draw(comparison, output_dir / "figures")
    search, of_searches = draw_searches(comparison.searches, output_dir / "figures")
    output_dir.mkdir(parents=True, exist_ok=True)
    page = output_dir / "comparison.html"
    write_atomically(page, _render(comparison, figures, search))
    return [page, *figures, *of_searches]


def _render(comparison: Comparison, figures: Sequence[Path], search: Section) -> str:
    runs, configurations = len(comparison.runs), len(comparison.configurations)
    sections = [
        _configurations(comparison),
        _tests(comparison),
        _sweep(comparison, figures),
        search,
        _metrics(comparison),
        _runs(comparison),
        _excluded(comparison),
        _method(comparison),
    ]
    what = counted(configurations, "configuration")
    return str(
        template("sections.html.j2").render(
            footer="Written by cxr from what lies in the run directories. Research only: no medical device.",
            title=f"{title_of(comparison.split)}: {what} compared",
            subtitle=f"{counted(runs, 'run')}, ranked by {NAMES[comparison.metric]}. "
            f"Written {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')} by cxr {version('cxr')}.",
            sentence=conclude(comparison),
            facts=[text for text in (comparison.matching, *comparison.notes) if text],
            warnings=[text[0].upper() + text[1:] + "." for text in comparison.warnings],
            sections=[section for section in sections if section.parts],
        )
    )


def _draw(comparison: Comparison, folder: Path) -> list[Path]:
    name, title = comparison.metric, NAMES[comparison.metric]
    values = {run.run.name: run.metrics[name].value for run in comparison.runs if name in run.metrics}
    known = {run: value for run, value in values.items() if value is not None}
    effects, lines = folder / f"main_effects_{name}.png", folder / f"parallel_coordinates_{name}.png"
    drawn = []
    if draw_main_effects(comparison.factors, known, effects, metric=title, full_grid=is_full_grid(comparison.factors)):
        drawn.append(effects)
    if draw_parallel_coordinates(
        comparison.factors, known, lines, metric=title, lower_is_better=name in LOWER_IS_BETTER
    ):
        drawn.append(lines)
    return drawn


def _configurations(comparison: Comparison) -> Section:
    metric, title = comparison.metric, NAMES[comparison.metric]
    section = Section("configurations", "Configurations", f"The best in {title} first.")
    found = [one.summaries[metric].estimate if metric in one.summaries else None for one in comparison.configurations]
    if not found:
        return section
    start, end = _scale([estimate for estimate in found if estimate is not None])
    repeated = any(len(one.runs) > 1 for one in comparison.configurations)
    columns = ["", "settings", "run", Number(f"{title} (95 %)"), Number("")]
    columns += [Number("mean ± sd over runs (95 % by t)")] if repeated else []
    rows: list[list[str | Strip]] = []
    for one, estimate in zip(comparison.configurations, found, strict=True):
        row: list[str | Strip] = [str(one.number), one.label, run_names(one)]
        row += [ABSENT, ""] if estimate is None else [with_limits(estimate), strip(estimate, start, end)]
        rows.append([*row, show_spread(one.summaries.get(metric))] if repeated else row)
    baseline = next((each.baseline for each in found if each is not None and each.baseline is not None), None)
    note = f"Lines from {number(start, digits=2)} to {number(end, digits=2)}"
    note += f"; dashed: the baseline, {number(baseline)}." if baseline is not None else "."
    if repeated:
        note += (
            " Limits in brackets are over patients; those after ± are over the runs of the configuration, by "
            "Student's t."
        )
    section.add(Part(tables=[Table("", columns, rows, note)]))
    return section


def _tests(comparison: Comparison) -> Section:
    section = Section("differences", "Differences", comparison.family)
    for metric in dict.fromkeys(test.metric for test in comparison.tests):
        tests = [test for test in comparison.tests if test.metric == metric]
        largest = max((max(map(abs, _limits(test))) for test in tests if _limits(test)), default=0.0)
        end = math.ceil(20 * largest) / 20 or 0.05
        columns = ["pair", Number("first less second (95 %)"), Number("")]
        ways = {test.difference.method for test in tests if test.corrected is not None}
        columns += [Number("p"), Number("p (Holm)"), "verdict", *(["by"] if len(ways) > 1 else [])]
        rows = [_test_row(test, end)[: len(columns)] for test in tests]
        patients = sorted({test.difference.num_patients for test in tests if test.difference.num_images})
        of = f" On {patients[0]:,} patients." if len(patients) == 1 else ""
        by = f" By {ways.pop()}." if len(ways) == 1 else ""
        note = f"Lines from {number(-end, digits=2)} to {number(end, digits=2)}; dashed: no difference.{of}{by}"
        section.add(Part(tables=[Table(f"Differences in {NAMES[metric]}", columns, rows, note)]))
    return section


def _test_row(test: PairedTest, end: float) -> list[str | Strip]:
    found = test.difference
    pair = f"{test.first.number}\N{NO-BREAK SPACE}vs\N{NO-BREAK SPACE}{test.second.number}"
    if found.value is None:
        return [pair, ABSENT, "", ABSENT, ABSENT, sentences_of(test), found.method]
    shown = signed(found.value)
    if found.low is not None and found.high is not None:
        shown += f" ({signed(found.low)} to {signed(found.high)})"
    estimate = Estimate(test.metric, found.value, found.low, found.high)
    drawn = strip(estimate, -end, end, mark=0.0)
    return [pair, shown, drawn, show_p(found.p), show_p(test.corrected), sentences_of(test), found.method]


def _limits(test: PairedTest) -> list[float]:
    found = test.difference
    return [value for value in (found.value, found.low, found.high) if value is not None]


def _sweep(comparison: Comparison, figures: Sequence[Path]) -> Section:
    section = Section("sweep", "What the settings do", "Each run of the sweep, by what was varied.")
    title = NAMES[comparison.metric]
    said = {
        "main_effects": f"{title} against each setting: a point for every run, and the mean at each value.",
        "parallel_coordinates": f"Each line is a run, from its settings to its {title}.",
    }
    pictures = []
    for path in figures:
        caption = next(text for start, text in said.items() if path.name.startswith(start))
        pictures.append(picture_of(path, caption, wide=WIDE))
    left_out = [factor.name for factor in comparison.factors[MAX_FACTORS:]]
    sentences = [f"Not drawn: {', '.join(left_out)}."] if left_out and pictures else []
    section.add(Part(pictures=pictures, sentences=sentences))
    return section


def _metrics(comparison: Comparison) -> Section:
    section = Section("metrics", "All metrics", "With 95 % limits over patients.")
    for caption, group in GROUPS:
        held = [name for name in group if any(name in one.summaries for one in comparison.configurations)]
        rows = [
            [
                str(one.number),
                one.label,
                *(with_limits(one.summaries[n].estimate) if n in one.summaries else ABSENT for n in held),
            ]
            for one in comparison.configurations
        ]
        if held:
            columns = ["", "settings", *(Number(NAMES[name]) for name in held)]
            section.add(Part(tables=[Table(caption, columns, rows, _undefined(comparison, held))]))
    return section


def _undefined(comparison: Comparison, names: Sequence[str]) -> str:
    """Why some cells hold no number."""
    of: dict[str, list[str]] = {}
    for name in names:
        for one in comparison.configurations:
            found = one.summaries[name].estimate if name in one.summaries else None
            if found is not None and found.value is None and found.reason is not None:
                of.setdefault(f"{found.title} ({found.reason})", []).append(str(one.number))
    return "; ".join(f"{what} undefined for {', '.join(numbers)}" for what, numbers in of.items())


def _runs(comparison: Comparison) -> Section:
    section = Section("runs", "Runs", "What each run cost, and what it came to.")
    repeats = list(comparison.repeat_keys)
    columns = ["run", Number("configuration"), *repeats, Number(NAMES[comparison.metric])]
    columns += [
        Number("parameters"),
        Number("epochs"),
        Number("best epoch"),
        Number("wall time"),
        Number("s per epoch"),
        Number("training images per s"),
    ]
    rows = [
        [
            run.run.name,
            str(one.number),
            *(show_value(run.run.settings.get(key)) for key in repeats),
            *_cost(comparison, run),
        ]
        for one in comparison.configurations
        for run in one.runs
    ]
    note = "Wall time of the training with its validation, without the start of the program."
    section.add(Part(tables=[Table("", columns, rows, note)] if rows else []))
    return section


def _cost(comparison: Comparison, run: ComparedRun) -> list[str]:
    metric, cost = run.metrics.get(comparison.metric), cost_of(run, comparison.split)
    best = run.run.metrics[comparison.split].get("epoch")
    numbers = [cost.get(name) for name in ("seconds_per_epoch", "train_images_per_second")]
    return [
        ABSENT if metric is None else number(metric.value),
        show_parameters(cost["parameters"]),
        ABSENT if run.run.epochs is None else str(run.run.epochs),
        str(best + 1) if isinstance(best, int) else ABSENT,
        show_seconds(run.run.seconds),
        *(f"{each:,.1f}" if isinstance(each, (int, float)) else ABSENT for each in numbers),
    ]


def _excluded(comparison: Comparison) -> Section:
    section = Section("excluded", "Not compared", "Runs that were found and have no numbers here, and why.")
    rows = [[run.name, run.status, reason] for run, reason in comparison.excluded]
    section.add(Part(tables=[Table("", ["run", "status", "reason"], rows)] if rows else []))
    return section


def _method(comparison: Comparison) -> Section:
    section = Section("method", "How it was done")
    ways = sorted({test.difference.method for test in comparison.tests if test.corrected is not None})
    over = sorted(
        {
            one.estimate.method
            for each in comparison.configurations
            for one in each.summaries.values()
            if one.estimate.method
        }
    )
    sentences = [
        f"Limits of the metrics: {'; '.join(over)}." if over else "",
        f"Tests: {'; '.join(ways)}. Both sides are measured on the same resamples of the same patients."
        if ways
        else "",
        "Runs that differ in seed, data.split.seed and data.split.fold alone are one configuration: they are averaged, "
        "and never called different. Where a configuration was repeated, the spread of its seeds is part of every "
        "difference.",
        "'No difference shown' is not 'no difference': the limits say how large it may be.",
    ]
    section.add(Part(sentences=[text for text in sentences if text] if comparison.configurations else []))
    return section


def _scale(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Round ends that all values and limits lie between."""
    known = [v for each in estimates for v in (each.value, each.low, each.high, each.baseline) if v is not None]
    if not known:
        return 0.0, 1.0
    start, end = math.floor(20 * min(known)) / 20, math.ceil(20 * max(known)) / 20
    return start, end if end > start else start + 0.05
