"""What does a folder of DICOM files hold: which are radiographs, whose, seen from where, and with which label?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd
from rich.console import Console
from rich.progress import track

from cxr.errors import ConfigurationError
from cxr.sources import class_folders
from cxr.sources.dicom_file import RefusedDicomError, lacks_preamble, looks_like_dicom, read_header, require_pydicom
from cxr.sources.dicom_header import KEYWORDS, Described, describe
from cxr.sources.dicom_labels import Label, Unusable, names_of, read_labels
from cxr.sources.manifest import UNREADABLE, Collection, make_dropped
from cxr.sources.patient_patterns import compile_patient_pattern

# Computed and digital radiography, radiographs that were scanned, and what converters write (PS3.3, C.7.3.1.1.1).
RADIOGRAPHS: Final = ("CR", "DX", "RG", "OT")
FOLDERS: Final = "folders"
PATIENT_FROM: Final = ("header", "study", "none")
_FEW: Final = 20  # files below which it says little that each has a patient of its own


def read(
    name: str,
    root: str | Path,
    *,
    images: str | None = None,
    labels: str | None = None,
    include: Sequence[str] | None = None,
    image: str = "image",
    label: str = "label",
    split: str | None = None,
    patient: str = "header",
    patient_column: str | None = None,
    patient_pattern: str | None = None,
    modalities: Sequence[str] | None = RADIOGRAPHS,
    progress: bool = False,
) -> Collection:
    """Reads the headers of the DICOM files below a folder, at any depth, whatever they are called.

    A file is known by the prefix of DICOM behind its preamble. View, sex and age come from the header, see
    `cxr.sources.dicom_header`; the patient is always text. Dropped, each with its reason: what
    `cxr.sources.class_folders.read` says of files and links, ``not DICOM``, ``no DICOM preamble``, ``no picture``
    (reports, presentation states, DICOMDIR), ``modality``, ``for processing`` (raw values of the detector, of which a
    second file mostly holds the picture), ``unreadable`` (its detail is the reason of
    `cxr.sources.dicom_file.RefusedDicomError`); and of the table of labels ``file missing``, ``several files`` (one
    name fits more than one file: none is kept), ``conflicting labels``, ``conflicting patients``, ``conflicting
    splits``, ``no file name``, ``ragged row``, ``NUL byte``. Whether pixels can be decoded
    shows when they are.

    Args:
        name: name of the source entry.
        root: the folder.
        images: the folder below ``root`` that holds the files; None: ``root`` itself.
        labels: None: no image has a label; 'folders': the folder of an image is its class, as in class folders; else a
            CSV or parquet table, relative to ``root``, of which several rows may be about one image, see
            `cxr.sources.dicom_labels`. A file that it does not name has no label.
        include: the class folders to take, with ``labels='folders'``; None takes all.
        image, label, split: columns of the table; no split where it is None.
        patient: 'header': Patient ID and, where that is empty, the study; 'study': each study is a patient of its own;
            'none': each image is.
        patient_column: the column of the table with the patient, which goes before the header; None: there is none.
        patient_pattern: a regular expression whose first group, in a patient that fits it as a whole, is the patient.
        modalities: those that are taken; a file that names none is. None takes all.
        progress: shows a bar on a terminal.

    Raises:
        ConfigurationError: pydicom is not there, or an option is out of its range or of no use.
        DataError: there is no such folder, table or column, or a class folder that was named is not there.
    """
    require_pydicom(f"source {name!r}: kind=dicom")
    _check(name, labels, include, patient, patient_column, split, modalities)
    pattern = None if patient_pattern is None else compile_patient_pattern(name, "patient_pattern", patient_pattern)
    folder = Path(root) if images is None else Path(root) / images
    by_table = labels is not None and labels != FOLDERS
    table, unusable = (
        read_labels(name, Path(root) / str(labels), image=image, label=label, patient=patient_column, split=split)
        if by_table
        else ({}, [])
    )
    files = class_folders.read_tree(
        name, folder, refuse=_not_dicom, has_classes=labels == FOLDERS, include=include if labels == FOLDERS else None
    )
    headers, reasons, details = _headers(files.records["path"].tolist(), modalities, progress)
    files = files.drop(reasons, details)
    described = [header for header in headers if header is not None]
    if by_table:
        files, described, told = _with_table(files, described, table, unusable)
    else:
        told = [None] * len(described)

    patients = [_patient(header, row, patient, pattern) for header, row in zip(described, told, strict=True)]
    known = {
        "patient": patients,
        "view": [header.view for header in described],
        "sex": [header.sex for header in described],
        "age": [header.age for header in described],
    }
    columns = {column: pd.Series(values, dtype=object) for column, values in known.items()}
    if by_table:
        columns["finding"] = pd.Series([row.finding if row else None for row in told], dtype=object)
        columns["predefined_split"] = pd.Series(
            [row.split if row and row.split else own for row, own in zip(told, files.records["predefined_split"],
                                                                         strict=True)],
            dtype=object,
        )  # fmt: skip
    records = files.records.assign(**columns).astype({"age": "float64"})
    aliases = () if patient == "none" else _aliases(described, patients)
    notes = (*files.notes, *_notes(described, patients, labels))
    return replace(files, records=records, aliases=aliases, notes=notes)


def _check(
    name: str,
    labels: str | None,
    include: Sequence[str] | None,
    patient: str,
    patient_column: str | None,
    split: str | None,
    modalities: Sequence[str] | None,
) -> None:
    place = f"source {name!r}"
    if patient not in PATIENT_FROM:
        raise ConfigurationError(f"{place}: patient={patient!r}: one of {', '.join(PATIENT_FROM)}")
    if modalities is not None and (isinstance(modalities, str) or not modalities):
        raise ConfigurationError(f"{place}: modalities={modalities!r} is not a list; write [CR, DX], or null for all")
    if include is not None and labels != FOLDERS:
        raise ConfigurationError(f"{place}: include={include!r} names class folders; it needs labels={FOLDERS}")
    for key, column in (("patient_column", patient_column), ("split", split)):
        if column is not None and labels in (None, FOLDERS):
            raise ConfigurationError(f"{place}: {key}={column!r} is a column; it needs labels=<a table>")


def _not_dicom(path: str) -> tuple[str | None, str | None]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path for each of a million files costs more than the open
            start = file.read(132)
    except OSError:
        return UNREADABLE, "cannot be opened"
    if looks_like_dicom(start):
        return None, None
    return "no DICOM preamble" if lacks_preamble(start) else "not DICOM", None


def _headers(
    paths: Sequence[str], modalities: Sequence[str] | None, progress: bool
) -> tuple[list[Described | None], list[str | None], list[str | None]]:
    """What each header says, or the reason why the file is not used, and what is to be known of it."""
    wanted = None if modalities is None else {modality.upper() for modality in modalities}
    headers: list[Described | None] = []
    reasons: list[str | None] = []
    details: list[str | None] = []
    console = Console(stderr=True)
    shown = track(paths, "Reading headers", console=console, disable=not (progress and console.is_terminal))
    for path in shown:
        header, reason, detail = _header(path, wanted)
        headers.append(header)
        reasons.append(reason)
        details.append(detail)
    return headers, reasons, details


def _header(path: str, wanted: set[str] | None) -> tuple[Described | None, str | None, str | None]:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 - as above
            file = read_header(stream, KEYWORDS)
            header = describe(file)
    except RefusedDicomError as error:
        return None, UNREADABLE, error.reason
    except OSError:
        return None, UNREADABLE, "cannot be opened"
    if file.pixels is None:
        return None, *((UNREADABLE, "truncated") if file.whole("Rows") is not None else ("no picture", None))
    if wanted is not None and header.modality is not None and header.modality not in wanted:
        return None, "modality", header.modality
    if header.for_processing:
        return None, "for processing", None
    return header, None, None


def _with_table(
    files: Collection, described: list[Described], table: Mapping[str, Label], unusable: Sequence[Unusable]
) -> tuple[Collection, list[Described], list[Label | None]]:
    """The files that their labels let stay, what is known of them, and the label of each."""
    rows_of = [
        list(dict.fromkeys(own for own in names_of(image, header.instance) if own in table))
        for image, header in zip(files.records["image"], described, strict=True)
    ]
    times = Counter(own for names in rows_of for own in names)
    reasons: list[str | None] = []
    details: list[str | None] = []
    for names in rows_of:
        labels = [table[own] for own in names]
        reason = next((label.reason for label in labels if label.reason is not None), None)
        if any(times[own] > 1 for own in names):
            reason = "several files"
        elif reason is None and len({(label.finding, label.patient, label.split) for label in labels}) > 1:
            reason = "conflicting labels"
        reasons.append(reason)
        details.append("; ".join(f"{label.name}: {label.place}" for label in labels) if reason else None)
    of_table = [(label.name, "file missing", label.place) for own, label in table.items() if not times[own]]
    of_table += [(row.name, row.reason, f"row {row.row}") for row in unusable]
    kept = files.drop(reasons, details)
    more = make_dropped(
        {"source": files.name, "row": files.rows + number, "image": image, "reason": reason, "detail": detail}
        for number, (image, reason, detail) in enumerate(of_table, start=1)
    )
    dropped = pd.concat([kept.dropped, more], ignore_index=True)
    kept = replace(kept, dropped=dropped, rows=files.rows + len(of_table))
    stays = [reason is None for reason in reasons]
    told = [table[names[0]] if names else None for names, stay in zip(rows_of, stays, strict=True) if stay]
    return kept, [header for header, stay in zip(described, stays, strict=True) if stay], told


def _patient(header: Described, row: Label | None, patient: str, pattern: re.Pattern[str] | None) -> str | None:
    if row is not None and row.patient is not None:
        found: str | None = row.patient
    elif patient == "none":
        return None
    else:
        found = header.study if patient == "study" or header.patient is None else header.patient
    match = pattern.fullmatch(found) if pattern is not None and found is not None else None
    return match[1] if match is not None and match[1] else found


def _aliases(described: Sequence[Described], patients: Sequence[str | None]) -> tuple[tuple[str, str], ...]:
    """Pairs of patients that share a study: a study has one patient, so that these are two ids of one person."""
    owners: dict[str, dict[str, None]] = {}
    for header, patient in zip(described, patients, strict=True):
        if header.study is not None and patient is not None:
            owners.setdefault(header.study, {})[patient] = None
    return tuple({(first, other): None for first, *others in map(list, owners.values()) for other in others})


def _notes(described: Sequence[Described], patients: Sequence[str | None], labels: str | None) -> list[str]:
    """What a user should know; counts, and no word of a header."""
    number = len(described)
    notes = []
    if labels is None:
        notes.append("no labels were asked for: labels=folders takes the class folders, labels=<file.csv> a table")
    if number == 0:
        return notes
    told_by = Counter(header.view_told_by for header in described)
    told = [f"{count} by {keyword}" for keyword, count in told_by.items() if keyword not in (None, "ViewPosition")]
    if told or told_by[None]:
        others = f"; others are told {', '.join(told)}" if told else ""
        unknown = f"; of {told_by[None]} the view is not known" if told_by[None] else ""
        notes.append(f"ViewPosition names the view of {told_by['ViewPosition']} of {number} images{others}{unknown}")
    without = sum(header.patient is None for header in described)
    if without:
        notes.append(f"{without} of {number} images have no PatientID: their study counts as the patient")
    if patients.count(None) == number:
        notes.append("no image has a patient: each counts as a patient of its own")
    elif number >= _FEW and None not in patients and len(set(patients)) == number:
        notes.append(
            f"each of the {number} images has a patient of its own: where ids were given to images and not to "
            "people, a split divides people"
        )
    elif number >= _FEW and len(set(patients)) == 1 and len({header.study for header in described}) > 1:
        notes.append("all images have one patient: where the ids were taken out, patient=study tells studies apart")
    other = sum(header.other_part for header in described)
    if other:
        notes.append(f"BodyPartExamined of {other} of {number} images is no part of the chest")
    burned = sum(header.burned_in for header in described)
    if burned:
        notes.append(
            f"{burned} of {number} images say that text is burned into the picture: it may name patients wherever "
            "pictures are shown (thumbnails=false)"
        )
    return notes
