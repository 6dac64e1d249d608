"""Are the records what they claim?  All that was found of copies, patients, leaks and shortcuts, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from cxr.audit.known_probes import known_shortcuts
from cxr.audit.leaks import as_tuples, describe_pairs, find_leaks
from cxr.audit.same_patient import Join
from cxr.audit.same_pictures import KINDS
from cxr.audit.shortcut_probes import ShortcutProbes
from cxr.errors import DataError
from cxr.files import write_atomically
from cxr.images.prepare import Aspect
from cxr.sources.spreadsheet import to_csv

KIND_TITLES: Final = {
    "path": "same file",
    "bytes": "same bytes",
    "pixels": "same pixels",
    "near_duplicate": "near-duplicate",
    "crop": "crop",
    "patient": "same patient",
}


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found.

    Args:
        split_kind: how the records are divided, in words.
        num_images, num_patients: records, and the groups that no split may divide.
        pairs: records that show the same picture, `cxr.audit.leaks.COLUMNS`; None where nobody looked.
        leaks: likewise, those that stand on two sides of the split, and divided patients.
        joins: the patients that became one because they share a picture.
        shortcuts: what simple models learn without the disease; None where nobody asked.
    """

    split_kind: str
    num_images: int
    num_patients: int
    pairs: pd.DataFrame | None
    leaks: pd.DataFrame
    joins: list[Join]
    shortcuts: ShortcutProbes | None

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each kind."""
        return {} if self.pairs is None else {kind: int((self.pairs["kind"] == kind).sum()) for kind in KINDS}

    def require_no_leak(self) -> None:
        """Refuse a split that divides a picture or a patient.

        Raises:
            DataError: one stands on two sides.
        """
        if len(self.leaks):
            first = self.leaks.iloc[0]
            raise DataError(
                f"data.split: {_counted(len(self.leaks), 'leak')} across the {self.split_kind} split (first: "
                f"{first['image_a']} in {first['split_a']} and {first['image_b']} in {first['split_b']}, "
                f"{KIND_TITLES[str(first['kind'])]}); use data.split.kind=holdout with "
                "data.split.unit=group, which divides no patient"
            )

    def verdict(self) -> list[str]:
        """What a person must know, a sentence each; one that begins with a word in capitals is bad news."""
        lines = []
        if self.pairs is None:
            lines.append("Same pictures: not looked for (data.look_for_copies=false).")
        else:
            found = ", ".join(f"{KIND_TITLES[kind]} {count:,}" for kind, count in self.counts.items() if count)
            lines.append(f"Same pictures: {_counted(len(self.pairs), 'pair')}{f' ({found})' if found else ''}.")
        if self.joins:
            num_joined = sum(len(join.groups) for join in self.joins)
            lines.append(
                f"Patients: {num_joined:,} share a picture with another and count as {len(self.joins):,} from now on."
            )
        if len(self.leaks):
            kinds = self.leaks["kind"].value_counts()
            found = ", ".join(f"{KIND_TITLES[str(kind)]} {count:,}" for kind, count in kinds.items())
            lines.append(f"LEAK across the {self.split_kind} split: {_counted(len(self.leaks), 'pair')} ({found}).")
        else:
            lines.append(f"Split ({self.split_kind}): no picture and no patient is known to stand on two sides.")
        if self.shortcuts is not None:
            flagged = [probe.name for probe in self.shortcuts.flagged]
            lines.append(
                f"SHORTCUTS: a simple model that does not see the disease can tell the label from {', '.join(flagged)}."
                if flagged
                else "Shortcuts: none flagged."
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; the pairs stand in the tables beside it."""
        because = [] if self.pairs is None else self.pairs[["image_a", "image_b", "kind", "score"]].to_dict("records")
        return {
            "split": self.split_kind,
            "images": self.num_images,
            "patients": self.num_patients,
            "looked_for_copies": self.pairs is not None,
            "same_pictures": self.counts,
            "leaks": {str(kind): int(count) for kind, count in self.leaks["kind"].value_counts().items()},
            "joined": [
                {"patient": join.group, "patients": list(join.groups), "because": [because[row] for row in join.pairs]}
                for join in self.joins
            ],
            "shortcuts": None if self.shortcuts is None else self.shortcuts.as_dict(),
            "verdict": self.verdict(),
        }


def audit_records(
    records: pd.DataFrame,
    pairs: pd.DataFrame | None,
    joins: Sequence[Join],
    class_names: Sequence[str],
    positive: str,
    cache_dir: str | Path,
    *,
    split_kind: str,
    aspect: Aspect = "crop",
    shortcuts: bool = True,
    progress: bool = True,
) -> Audit:
    """Hold the records of an experiment against what they claim.

    Args:
        records: a manifest with ``split``; ``group`` holds what must not be divided.
        pairs: as `cxr.audit.same_pictures.SamePictures.pairs`; None where nobody looked.
        joins: from `cxr.audit.same_patient.join_groups`.
        class_names, positive: what is to be learned.
        cache_dir: where prepared images are kept.
        split_kind: its name.
        aspect: how pictures become square; as in training.
        shortcuts: whether simple models are asked what they learn without the disease.
        progress: show bars on a terminal.

    Raises:
        DataError: see `known_shortcuts`.
    """
    none = pd.DataFrame({"row_a": [], "row_b": [], "kind": [], "score": []}) if pairs is None else pairs
    probes = None
    if shortcuts:
        probes = known_shortcuts(records, class_names, positive, cache_dir, aspect=aspect, progress=progress)
    return Audit(
        split_kind=split_kind,
        num_images=len(records),
        num_patients=records["group"].nunique(),
        pairs=None if pairs is None else describe_pairs(records, as_tuples(pairs)),
        leaks=find_leaks(records, none),
        joins=list(joins),
        shortcuts=probes,
    )


def write_audit(audit: Audit, folder: Path) -> None:
    """Write ``audit.json``, ``leaks.csv`` and ``same_pictures.csv``."""
    write_atomically(folder / "audit.json", json.dumps(audit.as_dict(), indent=2) + "\n")
    write_atomically(folder / "leaks.csv", to_csv(audit.leaks))
    if audit.pairs is not None:
        write_atomically(folder / "same_pictures.csv", to_csv(audit.pairs))


def _counted(amount: int, noun: str) -> str:
    """'1 pair', '1,024 pairs'."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"
