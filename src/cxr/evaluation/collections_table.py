"""How does a network do on its own data beside other collections?  One table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from cxr.evaluation.words import NAMES

METRICS = ("auroc", "average_precision", "sensitivity", "specificity")
ORDER = ("test", "val", "train")  # what the network was not selected on comes first


def collections_table(run: str, entries: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each split and collection: the run's own first, then the others by name.

    Args:
        run: where the results lie, in words.
        entries: what ``metrics.json`` holds.
    """
    table = Table(title=Text(f"{run}: value (95 % interval)"), title_justify="left", title_style="bold")
    for title in ("data", "", "images", "patients", "positives"):
        table.add_column(title, justify="right" if title in ("images", "patients", "positives") else "left")
    for name in METRICS:
        table.add_column(NAMES[name], justify="right")
    own = [name for name in ORDER if name in entries]
    for name in [*own, *sorted(entries.keys() - set(own))]:
        entry = entries[name]
        counts = [f"{entry['counts'][what]:,}" for what in ("images", "patients", "positives")]
        table.add_row(
            Text(name),
            "internal" if name in own else "external",
            *counts,
            *(_cell(entry[metric]) for metric in METRICS),
        )
    return table


def _cell(metric: Mapping[str, Any]) -> str:
    if metric["value"] is None:
        return "undefined"
    if metric["low"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} ({metric['low']:.3f}-{metric['high']:.3f})"
