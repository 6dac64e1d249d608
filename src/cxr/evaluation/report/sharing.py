"""What of a run may be shown to those who may not see its patients?

Numbers, settings and figures of numbers. No radiograph; no patient, file name, path, or sentence that could hold one. A
record is named by a keyed hash: whoever holds the run finds it again, and nobody else does.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cxr.evaluation.report.contents import Contents
from cxr.evaluation.report.mistakes import Mistake
from cxr.evaluation.report.warnings import divided_groups
from cxr.evaluation.subgroups.bands import COLUMNS
from cxr.evaluation.words import counted, mappings
from cxr.files import write_atomically
from cxr.sources.spreadsheet import restored, to_csv
from cxr.training.artifacts import split_key
from cxr.training.run_directory import RunDirectory
from cxr.training.shared_settings import shareable

NAMES_FILE = "record_names.csv"
_DIGITS = 16  # of a hash, hexadecimal
# Sections of the configuration that say where things lie and whose account it is, and nothing of the network.
_PRIVATE_SECTIONS = ("paths", "logger", "sweep", "resume")
_OWN_CHECKPOINTS = ("best.ckpt", "last.ckpt")
# Names of patients in brackets, where `cxr.evaluation.scoring.subject` warns of them; the rest of the sentence stays.
_DIVIDED = re.compile(r"(LEAK: patients on more than one side of this split: [\d,]+) \(.*\)(; [^()]*)", re.DOTALL)
_SEEN = re.compile(r"LEAK: [\d,]+ of these [\d,]+ images are files that the network [^()]*")


class Pseudonyms:
    """Names of records and patients that only the holder of the run can trace back.

    HMAC-SHA256 (RFC 2104) of what the collection calls them, cut to 64 bits; the key is made once and stays in the run.

    Args:
        run: holds the key, and ``record_names.csv`` once `write` was called.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._key: bytes | None = None
        self._used: dict[str, tuple[str, str]] = {}

    def of_patient(self, patient: str) -> str:
        return self._hashed("patient", patient)

    def of_record(self, source: str, image: str) -> str:
        name = self._hashed("record", source, image)
        self._used[name] = (source, image)
        return name

    def write(self) -> None:
        """Note which record each name stands for, beside the names of earlier reports."""
        if not self._used:
            return
        path = self._run.path / NAMES_FILE
        rows = [(name, source, image) for name, (source, image) in self._used.items()]
        table = pd.DataFrame(rows, columns=["record", "source", "image"])
        if path.is_file():
            known = restored(pd.read_csv(path, dtype=str, na_filter=False))
            table = pd.concat([known, table]).drop_duplicates("record")
        write_atomically(path, to_csv(table))

    def _hashed(self, *parts: str) -> str:
        if self._key is None:
            self._key = split_key(self._run.path)
        return hmac.new(self._key, "\0".join(parts).encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:_DIGITS]


def without_patients(contents: Contents, pseudonyms: Pseudonyms) -> Contents:
    """The contents of a run, with nothing by which a patient, a file or a place could be known.

    Args:
        contents: of `cxr.evaluation.report.contents.read_contents`.
        pseudonyms: of the same run.
    """
    settings = {name: value for name, value in contents.settings.items() if name not in _PRIVATE_SECTIONS}
    settings = shareable(settings)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else ""
    return replace(
        contents,
        entries={name: _entry(entry) for name, entry in contents.entries.items()},
        settings=settings,
        config_lines=text.splitlines(),
        split=None if contents.split is None else _split(contents.split, pseudonyms),
        looks=None if contents.looks is None else _looks(contents.looks),
        status={name: value for name, value in contents.status.items() if name == "status"},
        shared=True,
    )


def renamed(mistakes: Sequence[Mistake], pseudonyms: Pseudonyms) -> list[Mistake]:
    """The same mistakes under their pseudonyms, without pixels and patients."""
    return [
        replace(each, image=pseudonyms.of_record(each.source, each.image), patient="", source="", pixels=None)
        for each in mistakes
    ]


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    known = dict(entry)
    if "checkpoint" in known:
        known["checkpoint"] = _checkpoint(str(known["checkpoint"]))
    known["warnings"] = [_warning(str(text)) for text in entry.get("warnings") or []]
    left_out = len(entry.get("notes") or [])
    known["notes"] = [f"{counted(left_out, 'note')} may name files and stay with the run"] if left_out else []
    for name in ("subgroups", "dependence", "dependence_of_run"):
        if name in entry:
            known[name] = [row for row in mappings(entry[name]) if row.get("column") in COLUMNS]
    return known


def _warning(text: str) -> str:
    found = _DIVIDED.fullmatch(text)
    if found is not None:
        return f"{found[1]}{found[2]}"
    return text if _SEEN.fullmatch(text) else "A warning that may name a patient or a file; it stands in report.html"


def _checkpoint(name: str) -> str:
    return name if name in _OWN_CHECKPOINTS or re.fullmatch(r"\d+ networks", name) else "a checkpoint"


def _split(split: pd.DataFrame, pseudonyms: Pseudonyms) -> pd.DataFrame:
    """Patients and files under other names; who stands on two sides of the split is named by a pseudonym."""
    known = split.drop(columns=["image", "finding"], errors="ignore")
    named = set(divided_groups(split))
    for column in ("patient", "group", "sha256"):
        if column in known:
            codes = {name: pseudonyms.of_patient(name) if name in named else str(number)
                     for number, name in enumerate(known[column].unique())}  # fmt: skip
            known[column] = [codes[name] if name else "" for name in known[column]]
    return known


def _looks(looks: pd.DataFrame) -> pd.DataFrame:
    return looks.assign(checkpoint=looks["checkpoint"].map(_checkpoint)) if "checkpoint" in looks else looks


def private_figures(contents: Contents, figures: Mapping[tuple[str, str], Sequence[Path]]) -> set[tuple[str, str]]:
    """The sections of figures that may show a patient, or were drawn of columns that may name one."""
    odd = {
        name
        for name, entry in contents.entries.items()
        for kind in ("subgroups", "dependence", "dependence_of_run")
        if any(row.get("column") not in COLUMNS for row in mappings(entry.get(kind)))
    }
    return {
        (section, name)
        for section, name in figures
        if section in ("saliency", "other") or (section in ("subgroups", "dependence") and name in odd)
    }
