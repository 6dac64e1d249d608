"""What does a person read of the shortcut probes on the terminal?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cxr.audit.shortcut_probes import REFERENCE, ShortcutProbes
from cxr.audit.verdict import SHARE_LIMIT


def shortcuts_table(found: ShortcutProbes) -> Group:
    """A table for the terminal, and below it what its numbers are about."""
    table = Table(
        title=Text(f"Shortcuts: {found.images:,} images of {found.patients:,} patients, positive: {found.positive}"),
        title_justify="left",
        title_style="bold",
    )
    table.add_column("what a simple model sees")
    several = len(found.sources) > 1
    titles = ["AUROC", "95 % interval", f"share of the {REFERENCE}", "95 % interval"]
    for title in [*titles, "AUROC for the source"] if several else titles:
        table.add_column(title, justify="right")
    table.add_column("verdict", overflow="fold")
    for probe in found.probes:
        numbers = [*_cells(probe.auroc), *_cells(probe.share or {})]
        numbers += [_cells(probe.source_auroc or {})[0]] if several else []
        verdict = Text("FLAGGED: ", "bold red") if probe.flagged else Text()
        table.add_row(Text(probe.name), *numbers, verdict.append(probe.verdict, "default"))
    lines = [f"{probe.name}: {probe.sees}" for probe in found.probes]
    lines.append(
        f"share: (AUROC - 0.5) / (AUROC of the {REFERENCE} - 0.5); flagged from {SHARE_LIMIT:g} at its lower limit"
    )
    lines += [f"left out: {number:,} images ({reason})" for reason, number in found.left_out.items()]
    lines += [f"left out: {number:,} masks of lungs ({reason})" for reason, number in found.masks_left_out.items()]
    return Group(table, *(Text(line) for line in lines))


def _cells(estimate: Mapping[str, Any]) -> tuple[str, str]:
    value, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    return (
        "-" if value is None else f"{value:.3f}",
        "-" if low is None or high is None else f"{low:.3f} to {high:.3f}",
    )
