"""What puts the numbers of a run in doubt?  Said before any of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cxr.evaluation.report.contents import Contents
from cxr.evaluation.words import ALL_SPLITS, counted, mapping, mappings, number, read_estimate, title_of
from cxr.pipeline.splits import SPLITS

# Vergouwe, Steyerberg, Eijkemans & Habbema, "Substantial effective sample sizes were required for external validation
# studies of predictive logistic regression models", 2005.
ENOUGH_OF_A_SIDE = 100
# Cohen, "Statistical power analysis for the behavioral sciences", 1988: w of .1, .3 and .5.
MEDIUM, LARGE = 0.3, 0.5
LEVEL = 0.05


def collect_warnings(contents: Contents) -> list[str]:
    """Sentences, the gravest first: leaks, shortcuts, the test set, what is confounded, then the training itself."""
    said: dict[str, list[str]] = {}
    for name, entry in contents.entries.items():
        for text in entry.get("warnings", []):
            said.setdefault(str(text), []).append(title_of(name))
    recorded = [f"{', '.join(names)}: {text}" for text, names in said.items()]
    found = [
        *_random_split(contents),
        *sorted(recorded, key=lambda text: "LEAK" not in text),
        *([] if any("more than one side" in text for text in said) else _divided_groups(contents)),
        *_shortcuts_to_be_learned(contents),
        *_looks(contents),
        *_small(contents),
        *_different_checkpoints(contents),
        *_dependent(contents),
        *_unconvincing(contents),
        *_training(contents),
    ]
    return list(dict.fromkeys(found))


def divided_groups(split: pd.DataFrame | None) -> list[str]:
    """The patient groups, and files, that stand in more than one split."""
    if split is None or "split" not in split:
        return []
    known = split[split["split"].isin(SPLITS)]
    divided: list[str] = []
    for column in ("group", "sha256"):
        if column in known:
            sides = known[known[column] != ""].groupby(column)["split"].nunique()
            divided += [str(name) for name in sides.index[sides > 1]]
        if divided:
            break
    return divided


def association_strength(association: float, num_classes: int, num_values: int) -> str:
    """Cohen's word for a Cramér's V, whose scale depends on the smaller side of the table."""
    effect = association * math.sqrt(max(1, min(num_classes, num_values) - 1))
    return "strong" if effect >= LARGE else "medium" if effect >= MEDIUM else "weak"


def _random_split(contents: Contents) -> list[str]:
    kind, unit = contents.setting("data.split.kind"), contents.setting("data.split.unit")
    if kind == "random_image" or unit == "image":
        asked = "data.split.kind=random_image" if kind == "random_image" else "data.split.unit=image"
        return [
            f"LEAK: the images were divided at random ({asked}), not the patients: images of one patient stand in "
            "training and test. These numbers say nothing of new patients."
        ]
    if unit == "patient" and divided_groups(contents.split):
        return [
            "LEAK: the patient ids were believed as they are listed (data.split.unit=patient): patients who share a "
            "picture, or stand under several ids, are in training and test."
        ]
    return []


def _divided_groups(contents: Contents) -> list[str]:
    divided = divided_groups(contents.split)
    if not divided:
        return []
    named = f"{', '.join(divided[:3])}{', ...' if len(divided) > 3 else ''}"
    return [
        f"LEAK: {counted(len(divided), 'patient')} or files stand on more than one side of the split ({named}): the "
        "numbers are no measure of what the network does for new patients."
    ]


# A probe of the audit, and the altered picture by which the trained network answers the same question.
_ANSWERED_BY = {"border": "border only", "without lungs": "without lungs"}


def _shortcuts_to_be_learned(contents: Contents) -> list[str]:
    """What the audit flagged before the training, but for what the trained network is said to use below."""
    said = {str(row.get("input")) for row in _flagged_alterations(contents)}
    probes = mappings(mapping(contents.audit.get("shortcuts")).get("probes"))
    flagged = [str(probe.get("name")) for probe in probes if probe.get("flagged") is True]
    open_ones = [name for name in flagged if _ANSWERED_BY.get(name) not in said]
    if not open_ones:
        return []
    return [
        "SHORTCUTS in the data, found before the training: a simple model that does not see the disease can tell the "
        f"label from {', '.join(open_ones)}. Whatever such a model can do, the network may do instead of seeing the "
        "disease."
    ]


def _looks(contents: Contents) -> list[str]:
    found = []
    for name in ("test", *contents.external):
        if name not in contents.entries:
            continue
        recorded = 0 if contents.looks is None or "split" not in contents.looks else (contents.looks["split"] == name)
        looks = max(int(pd.Series(recorded).sum()), int(contents.entries[name].get("looks", 0)))
        if looks > 1:
            found.append(
                f"{title_of(name)}: scored {looks} times with this run. What is chosen between two looks is chosen on "
                "these images, and their numbers then flatter it."
            )
    return found


def _small(contents: Contents) -> list[str]:
    found = []
    for name in ("test", *contents.external):
        if name not in contents.entries:
            continue
        counts = contents.entries[name]["counts"]
        positives, others = counts["positives"], counts["images"] - counts["positives"]
        if min(positives, others) < ENOUGH_OF_A_SIDE:
            found.append(
                f"{title_of(name)}: only {counted(positives, 'positive image')} and {others:,} others. With fewer than "
                f"{ENOUGH_OF_A_SIDE} on a side a validation is imprecise (Vergouwe et al. 2005): read the intervals, "
                "not the values."
            )
    return found


def _different_checkpoints(contents: Contents) -> list[str]:
    known: dict[str, list[str]] = {}
    for name, entry in contents.entries.items():
        if entry.get("checkpoint_sha256"):
            known.setdefault(str(entry["checkpoint_sha256"]), []).append(title_of(name))
    if len(known) < 2:
        return []
    told = "; ".join(f"{', '.join(names)}: {digest[:12]}" for digest, names in known.items())
    return [f"The numbers below come from different checkpoints ({told}): they do not describe one network."]


def _dependent(contents: Contents) -> list[str]:
    name = contents.primary
    rows = mappings(contents.entries[name].get("dependence")) if name is not None else []
    found = _dependences(rows, title_of(str(name)))
    # What few images of a split do not show, all images of the run may; what they show too is not said twice.
    for column, text in _dependences(contents.dependence_of_run, ALL_SPLITS).items():
        found.setdefault(column, text)
    return list(found.values())


def _dependences(rows: Sequence[Mapping[str, Any]], where: str) -> dict[str, str]:
    """Column -> a sentence, where the label depends on it more than weakly."""
    found = {}
    for row in rows:
        association = mapping(row.get("association"))
        value = read_estimate("association", association).value
        classes = mapping(row.get("classes"))
        values = {each for counts in classes.values() for each, amount in mapping(counts).items() if amount}
        strength = "weak" if value is None else association_strength(value, len(classes), len(values))
        corrected = association.get("p_holm")
        if strength == "weak" or (corrected is not None and corrected >= LEVEL):
            continue
        said = row.get("verdict") or f"{row['column']}: Cramér's V {number(value)}"
        found[str(row["column"])] = (
            f"{where}, {said}. That is a {strength} dependence (Cohen 1988): a network that reads the {row['column']} "
            "can score well without seeing the disease."
        )
    return found


def _unconvincing(contents: Contents) -> list[str]:
    """What the saliency did not pass, and what the network does not need the disease for."""
    name = contents.primary
    saliency = mapping(contents.entries[name].get("saliency")) if name is not None else {}
    found = []
    if saliency.get("passed") is False:
        found.append(
            f"{title_of(str(name))}: the network is not shown to look at the lungs: they hold no more of its evidence "
            "than of a map that knows nothing."
        )
    if mapping(saliency.get("randomisation")).get("passed") is False:
        found.append(
            f"{title_of(str(name))}: the saliency maps go with those of a random network: they show the picture, not "
            "what was learned (Adebayo et al. 2018)."
        )
    for row in _flagged_alterations(contents):
        found.append(f"{title_of(str(name))}: a shortcut: the network {row.get('verdict')}.")
    return found


def _flagged_alterations(contents: Contents) -> list[Mapping[str, Any]]:
    """The altered pictures of the headline's entry that showed what the network goes by."""
    name = contents.primary
    shortcuts = mapping(contents.entries[name].get("shortcuts")) if name is not None else {}
    return [row for row in mappings(shortcuts.get("rows")) if row.get("flagged") is True]


def _training(contents: Contents) -> list[str]:
    found = []
    ended, reason = contents.status.get("status"), contents.status.get("reason")
    if ended == "finished" and reason:
        found.append(f"In training {reason}.")
    elif ended not in (None, "finished"):
        found.append(f"The training did not finish: {ended}{f' ({reason})' if reason else ''}.")
    for key in ("limit_train_batches", "limit_val_batches"):
        if contents.setting(f"trainer.{key}") is not None:
            found.append(f"A trial: trainer.{key}={contents.setting(f'trainer.{key}')} left out a part of the images.")
    return found
