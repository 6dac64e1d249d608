"""What does the covid-chestxray-dataset hold, in any of the five forms that its metadata has had?

Cohen JP, Morrison P, Dao L, Roth K, Duong TQ, Ghassemi M (2020), "COVID-19 Image Data Collection: Prospective
Predictions Are the Future".
"""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from cxr.errors import ConfigurationError, DataError
from cxr.sources.cells import SEXES, VIEWS, decode
from cxr.sources.download import absent
from cxr.sources.links import Root
from cxr.sources.manifest import Collection, make_dropped, make_records
from cxr.sources.ontology import Ontology, fold, load_ontology

ADDRESS = "https://github.com/ieee8023/covid-chestxray-dataset/archive/refs/heads/master.zip"
# An estimate from the mean size of the collection's files.
SIZE_HINT = "roughly half a gigabyte (the server does not tell)"
METADATA = "metadata.csv"

# Header names are compared without case, blanks and underscores: `Patientid`, ` url`, `patient_id` are all in use.
NEEDED = ("patientid", "finding", "view", "filename")
# The folder of the images where the metadata has no such column yet.
IMAGES = "images"

# The first generation has no modality: there CT is a view.
CT_VIEWS = ("CT", "Axial", "Coronal")
X_RAY = ("x ray", "xray", "cxr", "cr", "dx")
COUNTRIES = {"usa": "United States", "us": "United States", "uk": "United Kingdom", "korea": "South Korea"}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".dcm", ".nii", ".gz")


@dataclass(frozen=True)
class _Row:
    """One row of the metadata; ``number`` counts rows from 1, the header not among them."""

    number: int
    image: str | None
    patient: str | None
    finding: str | None
    view: str | None
    modality: str
    sex: str | None
    age: float | None
    country: str | None
    ragged: str | None


def read(
    name: str, root: Path, *, views: Sequence[str] | None = None, findings: Sequence[str] | None = None
) -> Collection:
    """Read the records of the collection, and account for every row of its metadata.

    Rows are dropped, by the first reason that holds: ``ragged row`` (cells and header do not fit), ``modality`` (not
    an X-ray), ``volume``, ``view``, ``finding``, ``no file name``, ``outside the folder``, ``file missing`` (its detail
    is the finding), ``link out of the root``, ``conflicting labels`` (one file under several findings: none of its rows
    is kept), ``repeated file`` (one file listed again with the same finding: its first row is kept). Patients that
    share a file are one person: the pairs are the collection's ``aliases``, also where the file itself is missing or
    filtered.

    Args:
        name: name of the source entry.
        root: folder that holds ``metadata.csv`` and the images.
        views: the views to keep (PA, AP, AP Supine, AP Erect, L, ...); None keeps all radiographs.
        findings: nodes of the ontology to keep, with all below them; None keeps all, unlabelled ones too.

    Raises:
        DataError: where the collection or its metadata is absent or no such table.
        ConfigurationError: where a view or a finding is none that is known.
    """
    rows = _read_rows(root)
    ontology = load_ontology()
    wanted_views = _wanted_views(views, rows)
    wanted_findings = _wanted_findings(findings, ontology)

    inside = Root(root)
    dropped: list[dict[str, object]] = []
    files: dict[str, list[_Row]] = {}

    def drop(row: _Row, reason: str, detail: str | None) -> None:
        dropped.append({"source": name, "row": row.number, "image": row.image, "reason": reason, "detail": detail})

    for row in rows:
        unfit = _unfit(row, root, inside, wanted_views, wanted_findings, ontology)
        if unfit is not None:
            drop(row, *unfit)
        elif row.image is not None:
            files.setdefault(row.image, []).append(row)

    kept: list[_Row] = []
    for listed in files.values():
        first = listed[0]
        if len({_meaning(row.finding, ontology) for row in listed}) > 1:
            detail = "; ".join(f"row {row.number}, patient {row.patient}: {row.finding}" for row in listed)
            for row in listed:
                drop(row, "conflicting labels", detail)
            continue
        kept.append(first)
        for row in listed[1:]:
            drop(row, "repeated file", f"patient {row.patient}; kept as row {first.number}, patient {first.patient}")

    records = make_records(_record(name, root, row) for row in sorted(kept, key=lambda row: row.number))
    dropped.sort(key=lambda entry: int(str(entry["row"])))
    return Collection(name, records, make_dropped(dropped), len(rows), aliases=_aliases(rows))


def _record(name: str, root: Path, row: _Row) -> dict[str, object]:
    return {
        "source": name,
        "image": row.image,
        "path": str(Path(root, str(row.image)).absolute()),
        "finding": row.finding,
        "patient": row.patient,
        "view": row.view,
        "sex": row.sex,
        "age": row.age,
        "country": row.country,
    }


def _unfit(
    row: _Row, root: Path, inside: Root, views: set[str] | None, findings: set[str] | None, ontology: Ontology
) -> tuple[str, str | None] | None:
    """Why a row taken alone cannot be used, and the detail; None where it can."""
    if row.ragged is not None:
        return "ragged row", row.ragged
    if row.modality != "X-ray":
        return "modality", row.modality
    if row.image is not None and row.image.lower().endswith((".nii.gz", ".nii")):
        return "volume", None
    if views is not None and row.view not in views:
        return "view", row.view if row.view is not None else "not given"
    if findings is not None:
        nodes = None if ontology.is_unlabelled(row.finding) else ontology.resolve(str(row.finding))
        if nodes is None or not any(findings.intersection(ontology.lineage(node)) for node in nodes):
            return "finding", row.finding
    if row.image is None:
        return "no file name", None
    if _leaves(row.image):
        return "outside the folder", row.image
    # Not Path.is_file: that raises where a name is longer than the file system takes.
    if not os.path.isfile(root / row.image):  # noqa: PTH113
        return "file missing", row.finding
    path = str(Path(root, row.image).absolute())
    if not inside.holds(path):
        return "link out of the root", os.path.realpath(path)
    return None


def _leaves(image: str) -> bool:
    return ".." in PurePosixPath(image).parts or image.startswith("/") or bool(PureWindowsPath(image).drive)


def _meaning(finding: str | None, ontology: Ontology) -> object:
    """What two findings have in common where they say the same in other words."""
    if ontology.is_unlabelled(finding):
        return None
    nodes = ontology.resolve(str(finding))
    return frozenset(nodes) if nodes is not None else fold(str(finding))


def _aliases(rows: Iterable[_Row]) -> tuple[tuple[str, str], ...]:
    """Pairs of patient ids under which one and the same file is listed."""
    owners: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.image is not None and row.patient is not None:
            owners.setdefault(row.image, {})[row.patient] = None
    pairs = {(first, other): None for first, *others in map(list, owners.values()) for other in others}
    return tuple(pairs)


def _wanted_views(views: Sequence[str] | None, rows: Sequence[_Row]) -> set[str] | None:
    if views is None:
        return None
    if isinstance(views, str) or not views:
        raise ConfigurationError(f"views: {views!r} is no list of views; write [PA, AP], or null for all")
    known = {fold(row.view): row.view for row in rows if row.view is not None} | VIEWS
    for view in views:
        if fold(view) not in known:
            nearest = known[difflib.get_close_matches(fold(view), known, n=1, cutoff=0.0)[0]]
            raise ConfigurationError(f"views: {view!r} is no view of a chest radiograph; nearest: {nearest!r}")
    return {known[fold(view)] for view in views}


def _wanted_findings(findings: Sequence[str] | None, ontology: Ontology) -> set[str] | None:
    if findings is None:
        return None
    if isinstance(findings, str) or not findings:
        raise ConfigurationError(f"findings: {findings!r} is no list of findings; write [Pneumonia], or null for all")
    nodes: set[str] = set()
    for finding in findings:
        node = ontology.find(finding)
        if node is None:
            raise ConfigurationError(
                f"findings: {finding!r} is no finding of the ontology; nearest: {ontology.nearest(finding)!r}"
            )
        nodes.add(node)
    return nodes


def _read_rows(root: Path) -> list[_Row]:
    path = root / METADATA
    if not path.is_file():
        raise absent(root, ADDRESS, f"there is no {METADATA}")
    try:
        lines = [
            cells for cells in csv.reader(io.StringIO(decode(path.read_bytes()), newline="")) if "".join(cells).strip()
        ]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise DataError(f"{path}: no table of comma-separated values ({error}); fetch it again") from error
    header = [re.sub(r"[^a-z0-9]", "", cell.casefold()) for cell in lines[0]] if lines else []
    lacking = [column for column in NEEDED if column not in header]
    if lacking:
        raise DataError(f"{path}: not the metadata of the collection: no column {', '.join(lacking)} in its header")
    return list(_rows(header, lines[1:]))


def _rows(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[_Row]:
    for number, cells in enumerate(lines, start=1):
        # The first of two columns of one name counts; cells beyond the header are left aside.
        row = dict(reversed(list(zip(header, (cell.strip() for cell in cells), strict=False))))
        filename = row.get("filename", "").replace("\\", "/")
        ragged = None
        # A row longer or shorter than the header is fine where only its last columns (notes) are concerned.
        if len(cells) != len(header) and not filename.lower().endswith(IMAGE_SUFFIXES):
            ragged = f"{len(cells)} cells under {len(header)} columns"
        view = _view(row.get("view", ""))
        folder = row.get("folder", "").replace("\\", "/").rstrip("/")
        yield _Row(
            number=number,
            image=str(PurePosixPath(folder if folder else IMAGES) / filename) if filename and ragged is None else None,
            patient=row.get("patientid") or None,
            finding=row.get("finding") or None,
            view=view,
            modality=_modality(row.get("modality", ""), view),
            sex=SEXES.get(row.get("sex", "").casefold()),
            age=_age(row.get("age", "")),
            country=_country(row.get("location", "")),
            ragged=ragged,
        )


def _view(text: str) -> str | None:
    return None if text in ("", "?") else VIEWS.get(fold(text), text)


def _modality(text: str, view: str | None) -> str:
    if not text:
        return "CT" if view in CT_VIEWS else "X-ray"
    return "X-ray" if fold(text) in X_RAY else text


def _age(text: str) -> float | None:
    """Years; '50+' is 50, 'early 40s' is not known."""
    years = re.fullmatch(r"(\d+(?:\.\d+)?)\+?", text)
    return float(years[1]) if years and float(years[1]) <= 120 else None


def _country(location: str) -> str | None:
    last = location.split(",")[-1].strip()
    return COUNTRIES.get(last.casefold(), last) if last not in ("", "?") else None
