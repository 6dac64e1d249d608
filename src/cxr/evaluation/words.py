"""How is a number said to a person who has to act on it?  With its interval, its baseline, and a plain word."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    "brier": "Brier score",
    "log_loss": "log-loss",
}
LOWER_IS_BETTER = ("brier", "log_loss")
# A constant answer wins one of each pair and loses the other: to be above or below its baseline says nothing.
TRADED = ("sensitivity", "specificity", "ppv", "npv")
ALL_SPLITS = "All splits together"
SPLIT_TITLES = {"test": "Test split", "val": "Validation split", "train": "Training split"}
ABSENT = "\N{EN DASH}"
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # Persian and the Indic scripts cannot be spelled without them


@dataclass(frozen=True)
class Estimate:
    """A number as `metrics.json` holds it; whatever it does not hold is None.

    Args:
        name: its key.
        value, low, high: the number and its limits.
        baseline: what an answer without any knowledge gets.
        n, patients: what it is a statement about: images, and the patients that they are of.
        method: of the limits.
        reason: why the value or the limits are undefined.
    """

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    n: int | None = None
    patients: int | None = None
    method: str | None = None
    reason: str | None = None

    @property
    def title(self) -> str:
        return NAMES.get(self.name, self.name.replace("_", " "))


def read_estimate(name: str, given: object) -> Estimate:
    """A number of an entry, whether it is written with limits, without, or as a bare number."""
    if isinstance(given, Mapping):
        numbers = {key: _finite(given.get(key)) for key in ("value", "low", "high", "baseline")}
        n, patients = given.get("n"), given.get("n_patients")
        return Estimate(
            name,
            **numbers,
            n=n if isinstance(n, int) else None,
            patients=patients if isinstance(patients, int) else None,
            method=_text(given.get("method")),
            reason=_text(given.get("reason")) or _text(given.get("reason_interval")),
        )
    return Estimate(name, _finite(given))


def estimates(entry: Mapping[str, Any]) -> list[Estimate]:
    """The metrics of an entry, those that are known in their usual order first."""
    held = [key for key, given in entry.items() if isinstance(given, Mapping) and {"value", "n"} <= given.keys()]
    ordered = [key for key in NAMES if key in held] + [key for key in held if key not in NAMES]
    return [read_estimate(key, entry[key]) for key in ordered]


def number(value: float | None, *, digits: int = 3) -> str:
    """A number with so many digits after the point; a dash for none."""
    if value is None:
        return ABSENT
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}")


def limits(estimate: Estimate) -> str:
    """'0.975 to 0.998'; a dash where there are none."""
    if estimate.low is None or estimate.high is None:
        return ABSENT
    return f"{number(estimate.low)} to {number(estimate.high)}"


def with_limits(estimate: Estimate) -> str:
    """'0.990 (0.975 to 0.998)'."""
    shown = limits(estimate)
    return number(estimate.value) if shown == ABSENT else f"{number(estimate.value)} ({shown})"


def counted(amount: int, noun: str) -> str:
    """'1 image', '1,024 images'."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def share(part: float, whole: float) -> str:
    """'35 (92.1 %)'."""
    return f"{part:,} ({percent(part / whole)})" if whole else f"{part:,}"


def percent(value: float) -> str:
    """'92.1 %', held together."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def verdict(estimate: Estimate) -> str:
    """Whether the number is shown to be better than its baseline, in words.

    Better only where the whole interval is; a constant answer's sensitivity or predictive value is no rival, and gets
    no verdict.
    """
    if estimate.name in TRADED or None in (estimate.value, estimate.baseline):
        return ABSENT
    if estimate.low is None or estimate.high is None:
        return "no interval"
    assert estimate.baseline is not None
    above, below = estimate.low > estimate.baseline, estimate.high < estimate.baseline
    if estimate.name in LOWER_IS_BETTER:
        above, below = below, above
    return "better" if above else "worse" if below else "not shown to be better"


def title_of(name: str) -> str:
    """A split or collection in words."""
    return SPLIT_TITLES.get(name, name)


def rest_of(entry: Mapping[str, Any]) -> str:
    """What the positive class stands against: the other class, or 'the rest'."""
    others = [name for name in entry.get("counts", {}).get("classes", {}) if name != entry.get("positive")]
    return others[0] if len(others) == 1 else "the rest"


def headline(name: str, entry: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What was found, in one sentence that a clinician understands, and what follows from its intervals.

    Args:
        name: of the split or collection.
        entry: what ``metrics.json`` holds of it.
    """
    counts, positive, rest = entry["counts"], entry["positive"], rest_of(entry)
    auroc, accuracy = (read_estimate(key, entry.get(key)) for key in ("auroc", "accuracy"))
    where = f"{SPLIT_TITLES[name].lower()}" if name in SPLIT_TITLES else f"collection {name}"
    what = (
        f"{counted(counts['images'], 'image')} of {counted(counts['patients'], 'patient')}; "
        f"{counts['positives']:,} of the images {positive}"
    )
    if auroc.value is None:
        return f"On the {where} ({what}) the AUROC is undefined: {auroc.reason or 'no reason is recorded'}.", []
    sentence = (
        f"On the {where} ({what}), the network gives an image of {positive} a higher score than an image of {rest} "
        f"in {percent(auroc.value)} of all pairs: AUROC {number(auroc.value)}"
    )
    if auroc.low is not None:
        sentence += f", 95\N{NO-BREAK SPACE}% interval {limits(auroc)}"
    sentence += (
        "; tossing a coin gives 0.500." if auroc.baseline is None else f"; chance gives {number(auroc.baseline)}."
    )
    consequences = [_consequence(auroc, "chance")]
    if accuracy.value is not None:
        always = f"always answering {entry.get('majority_class', 'the commonest class')}"
        consequences.append(_consequence(accuracy, always))
    return sentence, [text for text in consequences if text]


def _consequence(estimate: Estimate, rival: str) -> str:
    title = f"{estimate.title[0].upper()}{estimate.title[1:]}"
    said = f"{title} {with_limits(estimate)}; {rival}: {number(estimate.baseline)}."
    found = verdict(estimate)
    if found == ABSENT:
        return ""
    if found == "no interval":
        because = f" ({estimate.reason})" if estimate.reason else ""
        return f"Without an interval{because} nothing is shown against {rival}. {said}"
    if found == "better":
        return f"Better than {rival}: the whole interval lies above it. {said}"
    if found == "worse":
        return f"Worse than {rival}: the whole interval lies below it. {said}"
    return f"Not shown to be better than {rival}: the interval contains it. {said}"


def visible(text: str) -> str:
    """Text from data with every character that would hide, or turn the direction of reading, written out."""
    if text.isprintable():  # most texts, and pictures of a million letters
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _INVISIBLE and character not in _JOINERS
        else character
        for character in text
    )


def mapping(given: object) -> Mapping[str, Any]:
    """What was read as a table of names; empty for anything else."""
    return given if isinstance(given, Mapping) else {}


def mappings(given: object) -> list[Mapping[str, Any]]:
    """The tables of names in what was read as a list."""
    return [row for row in given if isinstance(row, Mapping)] if isinstance(given, list) else []


def _finite(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
        return None
    return float(given)


def _text(given: object) -> str | None:
    return given if isinstance(given, str) and given else None
