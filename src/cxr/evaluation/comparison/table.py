"""What does a person read of a comparison on the terminal, and a spreadsheet in its files?"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cxr.evaluation.comparison.comparison import Comparison, PairedTest, conclude
from cxr.evaluation.comparison.configurations import NOT_SET, REPEAT_KEYS, short_names, show_value
from cxr.evaluation.comparison.finished_runs import FinishedRun
from cxr.evaluation.comparison.repeated_runs import ComparedRun, Configuration, Summary
from cxr.evaluation.words import ABSENT, NAMES, number, visible, with_limits
from cxr.files import write_atomically
from cxr.sources.spreadsheet import defuse

MAX_SETTINGS = 6  # columns of settings on the terminal; the files hold them all
MAX_TESTS = 45  # rows of tests on the terminal
Cell = str | float | int | None


def comparison_tables(comparison: Comparison) -> Group:
    """The tables for the terminal: warnings and the conclusion, configurations, tests, and what is not compared."""
    parts: list[RenderableType] = [Text(f"warning: {visible(text)}", style="bold red") for text in comparison.warnings]
    parts += [Text(visible(text)) for text in (comparison.matching, *comparison.notes) if text]
    if comparison.configurations:
        parts += [_configurations_table(comparison)]
    if comparison.tests:
        parts += [_tests_table(comparison), Text(comparison.family)]
    if comparison.excluded:
        parts += [_excluded_table(comparison)]
    parts.append(Text(visible(conclude(comparison)), style="bold"))
    return Group(*parts)


def write_tables(comparison: Comparison, output_dir: Path) -> list[Path]:
    """Write ``comparison.csv`` (a row per run), and of the configurations and the tests a file each.

    Text that begins like a formula gets an apostrophe in front, numbers stay numbers.

    Returns:
        The files.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    files = {
        "comparison.csv": _run_rows(comparison),
        "comparison_configurations.csv": _configuration_rows(comparison),
        "comparison_tests.csv": _test_rows(comparison),
    }
    for name, rows in files.items():
        # Text always in quotes: a carriage return within a name would else end the row.
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer.writerow([_defused(column) for column in columns])
        writer.writerows([_defused(row.get(column)) for column in columns] for row in rows)
        write_atomically(output_dir / name, text.getvalue())
    return [output_dir / name for name in files]


def show_seconds(seconds: float | None) -> str:
    """'48 s', '12 min', '3 h 05 min'; a dash for none."""
    if seconds is None:
        return ABSENT
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def show_p(p: float | None) -> str:
    """A p-value as it is printed."""
    if p is None:
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float) -> str:
    """A difference: with a sign, '0.000' without."""
    shown = number(value)
    return f"+{shown}" if value > 0 and float(f"{value:.3f}") else shown


def show_spread(summary: Summary | None) -> str:
    """'0.912 ± 0.010 (n = 3; 0.887 to 0.937)': mean and standard deviation over runs; a dash for one run."""
    if summary is None or summary.mean is None:
        return ABSENT
    return (
        f"{number(summary.mean)} ± {number(summary.deviation)} "
        f"(n = {summary.num_runs}; {number(summary.low)} to {number(summary.high)})"
    )


def run_names(configuration: Configuration) -> str:
    return ", ".join(run.run.name for run in configuration.runs)


def sentences_of(test: PairedTest) -> str:
    """The verdict of a test and what must be known of it."""
    return "; ".join((test.verdict, *test.difference.notes))


def _configurations_table(comparison: Comparison) -> Table:
    shown, names = comparison.keys[:MAX_SETTINGS], short_names(comparison.keys)
    left_out = len(comparison.keys) - len(shown)
    title = f"Configurations on {comparison.split}, the best first"
    title += f" ({left_out} more settings differ: see comparison.csv)" if left_out else ""
    table = Table(title=Text(visible(title)), title_justify="left", title_style="bold")
    second = "balanced_accuracy" if comparison.metric != "balanced_accuracy" else "accuracy"
    table.add_column("", justify="right")
    for key in shown:
        table.add_column(Text(visible(names[key])))
    table.add_column("run")
    for metric in (comparison.metric, second):
        table.add_column(f"{NAMES[metric]} (95 %)")
    repeated = any(len(configuration.runs) > 1 for configuration in comparison.configurations)
    if repeated:
        table.add_column(f"{NAMES[comparison.metric]} over runs")
    table.add_column("parameters", justify="right")
    table.add_column("epochs", justify="right")
    table.add_column("time", justify="right")
    for one in comparison.configurations:
        settings = one.runs[0].run.settings
        cells = [str(one.number), *(show_value(settings.get(key, NOT_SET)) for key in shown), run_names(one)]
        for metric in (comparison.metric, second):
            cells.append(with_limits(one.summaries[metric].estimate) if metric in one.summaries else ABSENT)
        if repeated:
            cells.append(show_spread(one.summaries.get(comparison.metric)))
        cells += [_parameters(one, comparison.split), _epochs(one), show_seconds(_mean_seconds(one))]
        table.add_row(*(Text(visible(cell)) for cell in cells))
    return table


def _tests_table(comparison: Comparison) -> Table:
    left_out = max(0, len(comparison.tests) - MAX_TESTS)
    title = "Differences between configurations, first less second"
    title += f" ({left_out} more: see comparison_tests.csv)" if left_out else ""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("metric", "pair", "difference (95 %)", "p", "p (Holm)", "verdict", "by"):
        table.add_column(name)
    for test in comparison.tests[:MAX_TESTS]:
        found = test.difference
        shown = ABSENT if found.value is None else signed(found.value)
        if found.low is not None and found.high is not None:
            shown += f" ({signed(found.low)} to {signed(found.high)})"
        pair = f"{test.first.number} vs {test.second.number}"
        cells = [NAMES[test.metric], pair, shown, show_p(found.p), show_p(test.corrected)]
        table.add_row(*(Text(visible(cell)) for cell in (*cells, sentences_of(test), found.method)))
    return table


def _excluded_table(comparison: Comparison) -> Table:
    table = Table(title="Not compared", title_justify="left", title_style="bold")
    for name in ("run", "status", "reason"):
        table.add_column(name, overflow="fold")
    for run, reason in comparison.excluded:
        table.add_row(*(Text(visible(cell)) for cell in (run.name, run.status, reason)))
    return table


def show_parameters(number: Cell) -> str:
    """'23.5 million', '4,210'; a dash for none."""
    if not isinstance(number, int):
        return ABSENT
    return f"{number / 1e6:,.1f} million" if number >= 1e5 else f"{number:,}"


def _parameters(configuration: Configuration, split: str) -> str:
    shown = dict.fromkeys(show_parameters(cost_of(run, split)["parameters"]) for run in configuration.runs)
    return ", ".join(shown)


def _epochs(configuration: Configuration) -> str:
    known = sorted({run.run.epochs for run in configuration.runs if run.run.epochs is not None})
    return ABSENT if not known else str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _mean_seconds(configuration: Configuration) -> float | None:
    known = [run.run.seconds for run in configuration.runs if run.run.seconds is not None]
    return sum(known) / len(known) if known else None


def _run_rows(comparison: Comparison) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for configuration in comparison.configurations:
        for run in configuration.runs:
            row = _beginning(run.run, configuration.number, "", comparison.keys)
            row |= {"split": comparison.split, "images": len(run.predictions.keys)}
            row |= {"patients": len(set(run.predictions.groups)), **cost_of(run, comparison.split)}
            for name, found in run.metrics.items():
                row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
                row |= {f"{name}_method": found.method, f"{name}_baseline": found.baseline, f"{name}_n": found.n}
            rows.append(row)
    rows += [_beginning(run, None, reason, comparison.keys) for run, reason in comparison.excluded]
    return rows


def _beginning(run: FinishedRun, configuration: int | None, reason: str, keys: Sequence[str]) -> dict[str, Cell]:
    row: dict[str, Cell] = {"configuration": configuration, "run": run.name, "folder": os.path.relpath(run.path)}
    row |= {"status": run.status, "not_compared_because": reason}
    row |= {key: _cell(run.settings.get(key)) for key in REPEAT_KEYS}
    return row | {key: _cell(run.settings.get(key, NOT_SET)) for key in keys}


def cost_of(run: ComparedRun, split: str) -> dict[str, Cell]:
    """What a run cost, as far as it is known: parameters, epochs, wall time in seconds, and what follows from these."""
    epochs, seconds, images = run.run.epochs, run.run.seconds, run.run.train_images
    parameters = run.run.metrics[split].get("parameters")
    known: dict[str, Cell] = {"parameters": parameters if isinstance(parameters, int) else None}
    known |= {"epochs": epochs, "seconds": seconds}
    if epochs and seconds:
        known["seconds_per_epoch"] = round(seconds / epochs, 2)
        known["train_images_per_second"] = None if images is None else round(images * epochs / seconds, 1)
    return known


def _configuration_rows(comparison: Comparison) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for one in comparison.configurations:
        row: dict[str, Cell] = {"configuration": one.number, "settings": one.label, "runs": len(one.runs)}
        row["run_names"] = run_names(one)
        for name, summary in one.summaries.items():
            found = summary.estimate
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            row |= {f"{name}_method": found.method, f"{name}_runs_mean": summary.mean}
            row |= {f"{name}_runs_sd": summary.deviation, f"{name}_runs_low": summary.low}
            row |= {f"{name}_runs_high": summary.high, f"{name}_runs_n": summary.num_runs}
        rows.append(row)
    return rows


def _test_rows(comparison: Comparison) -> list[dict[str, Cell]]:
    return [
        {
            "metric": test.metric,
            "first": test.first.number,
            "first_settings": test.first.label,
            "second": test.second.number,
            "second_settings": test.second.label,
            "difference": test.difference.value,
            "low": test.difference.low,
            "high": test.difference.high,
            "p": test.difference.p,
            "p_holm": test.corrected,
            "verdict": test.verdict,
            "method": test.difference.method,
            "images": test.difference.num_images,
            "patients": test.difference.num_patients,
            "notes": "; ".join(test.difference.notes),
        }
        for test in comparison.tests
    ]


def _cell(value: Any) -> Cell:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else show_value(value)


def _defused(value: Cell) -> Cell:
    return defuse(value) if isinstance(value, str) else value
