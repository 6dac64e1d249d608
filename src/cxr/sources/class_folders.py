"""What does a tree of folders hold, where the folder of an image is its class?"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import pandas as pd

from cxr.errors import ConfigurationError, DataError
from cxr.sources.cells import IMAGE_SUFFIXES, VOLUME_SUFFIXES, composed
from cxr.sources.links import Root
from cxr.sources.manifest import SPLIT_NAMES, Collection, make_dropped, make_records
from cxr.sources.patient_patterns import PATIENT_PATTERNS, compile_patient_pattern

# How files of those suffixes begin. Any of these will do under any of them: PNG files called .jpg are common.
_MAGIC: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"GIF8")


def read(
    name: str,
    root: str | Path,
    *,
    include: Sequence[str] | None = None,
    folders: Sequence[str] | None = None,
    patient: str = "auto",
) -> Collection:
    """Reads the images below a folder; the finding of each is the name of its class folder.

    The class folders lie in the root, or in folders named train, val or test (or training, valid, validation, testing)
    in the root, which then are the predefined split; images may lie any number of folders below. Images in a root
    without class folders are unlabelled. Dropped, each with its reason: ``hidden`` files and folders, ``link to a
    folder``, ``link cycle``, ``link out of the root``, ``broken link``, ``file name is not UTF-8``, ``folder
    unreadable``, ``not a file``, ``volume``, ``not an image`` (by its ending), ``unreadable`` (it has an ending of
    images, and its first bytes are those of none; why is the detail), ``not in a class folder``, ``not a class
    folder``, ``folder not included``. A folder that is not entered counts as one row. Two spellings of a class folder
    that differ in composed and decomposed Unicode only are one class.

    Args:
        name: name of the source entry.
        root: the folder.
        include: the class folders to take; None takes all.
        folders: the names of the class folders; None: every folder where a class folder may lie.
        patient: how a file name tells its patient: 'nih', 'paediatric', 'auto' (whichever of these fits a name),
            'none' (each image is a patient of its own), or a regular expression whose first group is the patient.

    Raises:
        ConfigurationError: ``patient`` is neither a known name nor a regular expression with a group.
        DataError: there is no such folder, or a class folder that was named is not there.
    """
    patterns = _patient_patterns(name, patient)
    collection = read_tree(name, root, include=include, folders=folders, refuse=_not_an_image)
    records = collection.records
    patients = [_patient_of(PurePosixPath(image).name, patterns) for image in records["image"]]
    notes = collection.notes
    if None in patients:
        notes += (
            f"no patient in the file names of {patients.count(None)} of {len(records)} images (patient={patient!r}): "
            "each of these counts as a patient of its own",
        )
    return replace(collection, records=records.assign(patient=pd.Series(patients, dtype=object)), notes=notes)


def read_tree(
    name: str,
    root: str | Path,
    *,
    refuse: Callable[[str], tuple[str | None, str | None]],
    has_classes: bool = True,
    include: Sequence[str] | None = None,
    folders: Sequence[str] | None = None,
) -> Collection:
    """Reads the files below a folder that are images, without their patients.

    Args:
        name, root, include, folders: see `read`.
        refuse: why a file is no image, None where it is one, and the detail; it is asked for files that nothing else
            speaks against.
        has_classes: whether folders are classes; if not, no image has a finding.

    Raises:
        DataError: see `read`.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"source {name!r}: root={str(root)!r} is not a folder; give the folder above the class folders")
    entries, entered = _walk(root)
    has_split = _has_split_level(entered)
    classes = _class_folders(entered, has_split) if has_classes else []
    _require(name, "folders", folders, classes)
    _require(name, "include", include, classes)
    folders, include = (None if each is None else [composed(one) for one in each] for each in (folders, include))

    rows: list[dict[str, object]] = []
    dropped: list[dict[str, object]] = []
    for number, entry in enumerate(entries, start=1):
        split, class_name = _place(entry.image, has_split)
        reason, detail = entry.reason, entry.detail
        if reason is None and has_classes:
            reason = _misplaced(split, class_name, has_split, bool(classes), folders, include)
        if reason is None:
            reason, detail = refuse(entry.path)
        if reason is not None:
            dropped.append({"source": name, "row": number, "image": entry.image, "reason": reason, "detail": detail})
            continue
        rows.append(
            {
                "source": name,
                "image": entry.image,
                "path": entry.path,
                "finding": class_name if has_classes else None,
                "predefined_split": split,
            }
        )
    notes = [f"class folder {c!r} holds no image" for c in _empty(classes, rows, folders, include)]
    return Collection(name, make_records(rows), make_dropped(dropped), len(entries), notes=tuple(notes))


@dataclass(frozen=True)
class _Entry:
    """A file, or a folder that is not entered; ``reason`` says why it is no candidate, None for a plain file."""

    path: str
    image: str
    reason: str | None = None
    detail: str | None = None


def _walk(root: Path) -> tuple[list[_Entry], list[str]]:
    """All files below the root and the folders that are not entered; and, relative to the root, those that are."""
    inside = Root(root)
    top = os.path.abspath(root)  # noqa: PTH100 - Path.absolute keeps '..'
    entries: list[_Entry] = []
    entered: list[str] = []
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as found:
                children = sorted(found, key=lambda child: child.name)
        except OSError as error:
            entries.append(_Entry(folder, _relative(folder, top), "folder unreadable", error.strerror))
            continue
        entered.append(_relative(folder, top))
        below = []
        for child in children:
            entry = _look_at(child, top, inside)
            if entry is None:
                below.append(child.path)
            else:
                entries.append(entry)
        waiting.extend(reversed(below))
    return entries, entered[1:]


def _relative(path: str, top: str) -> str:
    return _text(os.path.relpath(path, top))


def _text(path: str) -> str:
    # Bytes that are no text become \xNN: the name goes to tables, which are text.
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _look_at(child: os.DirEntry[str], top: str, inside: Root) -> _Entry | None:
    """What an entry of a folder is; None for a folder to enter."""
    image = _relative(child.path, top)
    # __MACOSX is what the archiver of macOS adds: a shadow of the whole tree.
    if child.name.startswith(".") or child.name == "__MACOSX":
        return _Entry(child.path, image, "hidden")
    try:
        child.name.encode("utf-8")
    except UnicodeEncodeError:
        return _Entry(child.path, image, "file name is not UTF-8", "rename it")
    is_folder = os.path.isdir(child.path)  # noqa: PTH112 - DirEntry.is_dir raises on a link to itself
    if child.is_symlink():
        target = os.path.realpath(child.path)
        if not os.path.exists(target):  # noqa: PTH110
            return _Entry(child.path, image, "broken link", _text(target))
        if not inside.holds(child.path):
            return _Entry(child.path, image, "link out of the root", _text(target))
        if is_folder:
            around = os.path.realpath(os.path.dirname(child.path))  # noqa: PTH120
            cycle = os.path.commonpath([target, around]) == target
            return _Entry(child.path, image, "link cycle" if cycle else "link to a folder", _text(target))
    if is_folder:
        return None
    # A pipe would wait for its writer for ever.
    if not child.is_file():
        return _Entry(child.path, image, "not a file")
    return _Entry(child.path, image)


def _has_split_level(entered: Sequence[str]) -> bool:
    """Whether the folders in the root are splits: one of them is the training folder, or all of them are splits."""
    splits = [SPLIT_NAMES.get(folder.casefold()) for folder in entered if "/" not in folder]
    return "train" in splits or (bool(splits) and None not in splits)


def _class_folders(entered: Sequence[str], has_split: bool) -> list[str]:
    """The names of the folders that stand where class folders stand."""
    places = [_place(f"{folder}/", has_split) for folder in entered]
    return sorted({c for split, c in places if c is not None and (split is not None or not has_split)})


def _place(image: str, has_split: bool) -> tuple[str | None, str | None]:
    """The split and the class folder in which a path lies, None where it lies in none."""
    above = composed(image).split("/")[:-1]
    split = SPLIT_NAMES.get(above[0].casefold()) if has_split and above else None
    level = 1 if has_split else 0
    return split, above[level] if len(above) > level else None


def _require(name: str, key: str, wanted: Sequence[str] | None, classes: Sequence[str]) -> None:
    if wanted is None:
        return
    if isinstance(wanted, str) or not wanted or not all(isinstance(folder, str) for folder in wanted):
        raise ConfigurationError(f"source {name!r}: {key}={wanted!r} is not a list of folder names")
    missing = [folder for folder in wanted if composed(folder) not in classes]
    if missing:
        folded = {folder.casefold(): folder for folder in classes}
        nearest = difflib.get_close_matches(missing[0].casefold(), folded, n=1, cutoff=0.6)
        hint = f"; did you mean {folded[nearest[0]]!r}?" if nearest else ""
        there = ", ".join(classes[:20]) if classes else "none"
        raise DataError(f"source {name!r}: {key}: no class folder {missing[0]!r}{hint} (there are: {there})")


def _misplaced(
    split: str | None,
    class_name: str | None,
    has_split: bool,
    has_classes: bool,
    folders: Sequence[str] | None,
    include: Sequence[str] | None,
) -> str | None:
    if class_name is None:
        return "not in a class folder" if has_classes else None
    if (has_split and split is None) or (folders is not None and class_name not in folders):
        return "not a class folder"
    return "folder not included" if include is not None and class_name not in include else None


def _not_an_image(path: str) -> tuple[str | None, str | None]:
    """A cheap look at suffix and first bytes; whether an image can be decoded shows when it is."""
    if path.lower().endswith((".dcm", ".dicom")):
        return "DICOM file", "data=dicom reads these"
    if path.lower().endswith(VOLUME_SUFFIXES):
        return "volume", None
    if not path.lower().endswith(IMAGE_SUFFIXES):
        return "not an image", None
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path for each of a million files costs more than the open
            start = file.read(12)
    except OSError:
        return "unreadable", "cannot be opened"
    if start.startswith(_MAGIC) or (start[:4] == b"RIFF" and start[8:] == b"WEBP"):
        return None, None
    return "unreadable", "not an image" if start else "empty file"


def _empty(
    classes: Sequence[str],
    rows: Sequence[dict[str, object]],
    folders: Sequence[str] | None,
    include: Sequence[str] | None,
) -> list[str]:
    filled = {row["finding"] for row in rows}
    wanted = [c for c in classes if (folders is None or c in folders) and (include is None or c in include)]
    return [class_name for class_name in wanted if class_name not in filled]


def _patient_patterns(name: str, patient: str) -> list[re.Pattern[str]]:
    if patient == "none":
        return []
    if patient == "auto":
        return [re.compile(rf"\A{pattern}\.\w+\Z") for pattern in PATIENT_PATTERNS.values()]
    if patient in PATIENT_PATTERNS:
        return [re.compile(rf"\A{PATIENT_PATTERNS[patient]}\.\w+\Z")]
    known = ["auto", "none", *PATIENT_PATTERNS]
    return [compile_patient_pattern(name, "patient", patient, known)]


def _patient_of(file_name: str, patterns: Sequence[re.Pattern[str]]) -> str | None:
    for pattern in patterns:
        match = pattern.search(file_name)
        if match is not None and match[1]:
            return match[1]
    return None
