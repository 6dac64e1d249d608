"""How do the protocols stand beside each other?  One table for the terminal, and the same as CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cxr.evaluation.protocols.optimism import METRICS, Row
from cxr.evaluation.protocols.verdicts import METRIC_TITLES, conclude, estimate_text, name_of
from cxr.files import write_atomically
from cxr.sources.spreadsheet import to_csv

COMPARED = ("auroc", "auroc_within_sources")
NOTES = (
    "AUROC: pairs of images that the same network answered. Optimism: less the networks by group, on the same images.",
    "Sensitivity, specificity: at a probability of 0.5, or the likeliest of several classes; not fitted to anything.",
    "Limits: 95 %, over patients; another seed of training or division is not in them.",
)


def protocols_table(rows: Sequence[Row]) -> Group:
    """A row for each protocol, below it one for each source or country that it leaves out; then what follows."""
    table = Table(title="Protocols", title_justify="left", title_style="bold")
    table.add_column("tested", no_wrap=False)
    for title in ("networks", "images", "positive", "patients"):
        table.add_column(title, justify="right")
    for metric in METRICS:
        table.add_column(METRIC_TITLES[metric], justify="right")
        if metric in COMPARED:
            table.add_column("optimism", justify="right")
    for row in rows:
        name = Text(name_of(row) if row.value is None else f"  {name_of(row)}")
        if row.reason is not None:
            table.add_row(name, "0", *("" for _ in table.columns[2:]), style="dim")
            continue
        counts = [row.networks, row.num_images, row.num_positives, row.num_patients]
        cells = []
        for metric in METRICS:
            cells.append(_lines(row.metrics[metric]))
            if metric in COMPARED:
                cells.append(_lines(row.optimism.get(metric), difference=True))
        table.add_row(name, *(f"{count:,}" for count in counts), *cells)
    lines = [Text(f"  {text}") for text in NOTES]
    for row in rows:
        lines += [
            Text(f"  {name_of(row)}: {row.reason}") for _ in range(row.value is not None and row.reason is not None)
        ]
        lines += [Text(f"  {name_of(row)}: {note}.") for note in row.notes]
    for text in conclude(rows):
        lines.append(Text(text, style="bold red" if text.split()[0].rstrip(":").isupper() else "bold"))
    return Group(table, *lines)


def write_tables(rows: Sequence[Row], folder: Path, configuration: Mapping[str, Any]) -> list[Path]:
    """Write ``protocols.csv``, a line for each row, and ``protocols.json``, the same with methods and reasons.

    Args:
        rows: as measured.
        folder: receives them.
        configuration: under what they were trained; into the JSON.

    Returns:
        Both paths.
    """
    table = pd.DataFrame([_flat(row) for row in rows])
    numbers, text = folder / "protocols.csv", folder / "protocols.json"
    write_atomically(numbers, to_csv(table))
    content = {"protocols": [asdict(row) for row in rows], "verdict": conclude(rows), "configuration": configuration}
    write_atomically(text, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return [numbers, text]


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "protocol": row.protocol,
        "left_out": row.value,
        "networks": row.networks,
        "images": row.num_images,
        "positives": row.num_positives,
        "patients": row.num_patients,
        "patients_on_two_sides": row.num_leaks,
    }
    for kind, given in (("", row.metrics), ("by_group_", row.by_group), ("optimism_", row.optimism)):
        for metric in METRICS:
            for part, end in (("value", ""), ("low", "_low"), ("high", "_high")):
                flat[f"{kind}{metric}{end}"] = given[metric][part] if metric in given else None
    return flat | {"reason": row.reason, "notes": "; ".join(row.notes) or None}


def _lines(estimate: Mapping[str, Any] | None, *, difference: bool = False) -> str:
    """The number, and its limits below it."""
    text = estimate_text(estimate, difference=difference)
    return text.replace(" (", "\n(", 1)
