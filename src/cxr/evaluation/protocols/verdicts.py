"""What do the numbers of the protocols amount to, a sentence for each?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxr.evaluation.protocols.optimism import Row
from cxr.evaluation.protocols.plan import COLUMNS, GROUP, TITLES
from cxr.evaluation.words import counted, number

METRIC_TITLES = {
    "auroc": "AUROC",
    "auroc_within_sources": "AUROC within sources",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
NOTABLE = 0.02  # of an AUROC: less than this is not worth a warning
# An interval over patients says nothing of another training or another dealing of the folds.
BEYOND = "by more than the choice of patients explains"


def signed(value: float) -> str:
    """A difference with its sign; '0.000' without."""
    shown = number(value)
    return f"+{shown}" if value > 0 and float(f"{value:.3f}") else shown


def estimate_text(estimate: Mapping[str, Any] | None, *, difference: bool = False) -> str:
    """'0.912 (0.880 to 0.940)'; '' where there is nothing."""
    if estimate is None or estimate["value"] is None:
        return ""
    show = signed if difference else number
    text = show(estimate["value"])
    return text if estimate["low"] is None else f"{text} ({show(estimate['low'])} to {show(estimate['high'])})"


def name_of(row: Row) -> str:
    """The protocol, or what of it is left out."""
    return TITLES[row.protocol] if row.value is None else f"without {row.value}"


def conclude(rows: Sequence[Row]) -> list[str]:
    """A sentence for each protocol; one that begins with a word in capitals is bad news."""
    whole = [row for row in rows if row.value is None]
    said = [_sentence(row) for row in whole]
    for row in whole:
        found, within = row.metrics.get("auroc"), row.metrics.get("auroc_within_sources")
        if row.protocol == GROUP and found and within and found["value"] is not None and within["value"] is not None:
            drop = found["value"] - within["value"]
            if drop > NOTABLE:
                said.append(
                    f"SOURCE: by group, the AUROC is {number(found['value'])} over all images and "
                    f"{number(within['value'])} within sources: {number(drop)} of it comes from telling sources apart."
                )
    return said


def _sentence(row: Row) -> str:
    title = TITLES[row.protocol]
    if row.reason is not None:
        return f"{_capital(title)}: no numbers: {row.reason}."
    leaks = f", {counted(row.num_leaks, 'patient')} on two sides" if row.num_leaks else ""
    value = estimate_text(row.metrics["auroc"]) or "undefined"
    start = f"{_capital(title)}{leaks}: AUROC {value}"
    if row.protocol == GROUP:
        return f"{start}: what the others are held against."
    found = row.optimism.get("auroc")
    if found is None or found["value"] is None:
        return _by_rates(row, start)
    said = f"{start}, {estimate_text(found, difference=True)} against by group on the same images"
    if found["low"] is None:
        return f"{said} ({found['reason']})."
    new = f"a new {row.protocol}" if row.protocol in COLUMNS else "new patients"
    if found["high"] < 0 and row.protocol in COLUMNS:
        return f"OPTIMISM: {said}: as to {new} the split by group flatters, {BEYOND}."
    if found["low"] > 0 and row.protocol not in COLUMNS:
        return f"OPTIMISM: {said}: it flatters as to {new}, {BEYOND}."
    if found["low"] > 0 or found["high"] < 0:
        return f"{said}: against what is to be expected, {BEYOND}; another seed would tell whether training moved it."
    return f"{said}: no difference is shown."


def _by_rates(row: Row, start: str) -> str:
    """Where there is no area to compare: the rates, which a source of one class has."""
    reason = row.metrics["auroc"].get("reason") or row.optimism.get("auroc", {}).get("reason")
    rates = [
        name
        for name in ("sensitivity", "specificity")
        if name in row.optimism and row.metrics[name]["value"] is not None
    ]
    told = "; ".join(
        f"{METRIC_TITLES[name]} {estimate_text(row.metrics[name])}, by group {estimate_text(row.by_group[name])}"
        for name in rates
    )
    fell = [name for name in rates if row.optimism[name]["high"] is not None and row.optimism[name]["high"] < 0]
    said = f"{start} ({reason})" + (f"; on the same images {told}" if told else "")
    if fell and row.protocol in COLUMNS:
        return f"OPTIMISM: {said}: as to a new {row.protocol} the split by group flatters, {BEYOND}."
    return f"{said}."


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
