"""What does a person read of a split on the terminal?  Every metric with its baseline and n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cxr.evaluation.metrics import METRICS

NAMES = {
    "auroc": "AUROC",
    "macro_auroc": "AUROC, mean of the classes",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "mcc": "MCC",
}


def metrics_table(split: str, entry: Mapping[str, Any]) -> Group:
    """A table for the terminal, and below it what its numbers are about.

    Args:
        split: the split or collection.
        entry: what ``metrics.json`` holds of it.
    """
    counts = entry["counts"]
    reasons: dict[str, list[str]] = {}
    for name in METRICS:
        if name in entry and entry[name]["value"] is None:
            reasons.setdefault(entry[name]["reason"], []).append(NAMES[name])
    undefined = [f"undefined: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    baseline = f"always {entry['majority_class']}, the commonest class of {entry['majority_of']}"
    table = Table(
        title=Text(f"{split}: {_counted(counts['images'], 'image')} of {_counted(counts['patients'], 'patient')}"),
        title_justify="left",
        title_style="bold",
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("baseline", justify="right")
    table.add_column("n", justify="right")
    for name in METRICS:
        if name in entry:
            metric = entry[name]
            table.add_row(NAMES[name], _number(metric["value"]), _number(metric["baseline"]), f"{metric['n']:,}")
    return Group(
        table, *(Text(line) for line in (f"positive: {entry['positive']}", f"baseline: {baseline}", *undefined))
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
