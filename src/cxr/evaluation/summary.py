"""What does a person read of a split on the terminal?  Every metric with its interval, its baseline and its n."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cxr.evaluation.metrics.measures import METRICS
from cxr.evaluation.words import NAMES, counted


def metrics_table(split: str, entry: Mapping[str, Any]) -> Group:
    """A table for the terminal, and below it what its numbers are about and how the intervals were made.

    Args:
        split: the split or collection.
        entry: what ``metrics.json`` holds of it.
    """
    counts = entry["counts"]
    metrics = {name: entry[name] for name in METRICS if name in entry}
    table = Table(
        title=Text(f"{split}: {counted(counts['images'], 'image')} of {counted(counts['patients'], 'patient')}"),
        title_justify="left",
        title_style="bold",
    )
    table.add_column("metric")
    for title in ("value", "95 % interval", "baseline", "images", "patients"):
        table.add_column(title, justify="right")
    for name, metric in metrics.items():
        limits = "-" if metric["low"] is None else f"{_number(metric['low'])} to {_number(metric['high'])}"
        numbers = (_number(metric["value"]), limits, _number(metric["baseline"]))
        table.add_row(NAMES[name], *numbers, f"{metric['n']:,}", f"{metric['n_patients']:,}")
    lines = [
        f"positive: {entry['positive']}",
        f"baseline: always {entry['majority_class']}, the commonest class of {entry['majority_of']}",
    ]
    informed = [name for name in ("brier", "log_loss") if name in metrics and metrics[name]["baseline"] is not None]
    if informed:
        lines.append(f"baseline of {_listed(informed)}: always the shares of the classes in the training split")
    lines += [f"interval of {names}: {method}" for method, names in _grouped(metrics, "method")]
    lines += [f"no interval of {names} ({reason})" for reason, names in _grouped(metrics, "reason_interval")]
    lines += [f"undefined: {names} ({reason})" for reason, names in _grouped(metrics, "reason")]
    return Group(table, *(Text(line) for line in lines))


def _grouped(metrics: Mapping[str, Mapping[str, Any]], key: str) -> list[tuple[str, str]]:
    """Each text that metrics have under the key, and these metrics."""
    texts = dict.fromkeys(metric[key] for metric in metrics.values() if metric.get(key) is not None)
    return [(text, _listed(name for name in metrics if metrics[name].get(key) == text)) for text in texts]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(NAMES[name] for name in names)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
