"""Whom and what does the header of a DICOM file say that its picture shows?

What comes out is the patient's id, a study, and words out of closed lists: a header is filled in by people, and any
other text of it could name somebody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Final

from cxr.sources.cells import SEXES, parse_age
from cxr.sources.dicom_file import DicomFile

KEYWORDS: Final = (
    "PatientID",
    "PatientSex",
    "PatientAge",
    "PatientBirthDate",
    "AcquisitionDate",
    "SeriesDate",
    "StudyDate",
    "StudyInstanceUID",
    "SOPInstanceUID",
    "Modality",
    "PresentationIntentType",
    "BodyPartExamined",
    "BurnedInAnnotation",
    "ViewPosition",
    "ViewCodeSequence",
    "SeriesDescription",
    "ProtocolName",
    "PatientOrientation",
    "Rows",
)

# View Position (PS3.3, C.8.7.1 and C.8.11.5) and what is written there instead, without blanks and strokes.
_POSITIONS: Final = {
    "pa": "PA",
    "posteroanterior": "PA",
    "ap": "AP",
    "anteroposterior": "AP",
    "ll": "L",
    "rl": "L",
    "lat": "L",
    "lateral": "L",
    "leftlateral": "L",
    "rightlateral": "L",
    "lld": "Decubitus",
    "rld": "Decubitus",
    "llo": "Oblique",
    "rlo": "Oblique",
    "lao": "Oblique",
    "rao": "Oblique",
    "lpo": "Oblique",
    "rpo": "Oblique",
}
# View Code Sequence (PS3.16, CID 4010), in SNOMED CT and in the codes that stood for the same before.
_VIEW_CODES: Final = {
    "272479007": "PA",
    "R-10214": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399067008": "L",
    "R-102CD": "L",
    "399173006": "L",
    "R-10236": "L",
    "399198007": "L",
    "R-10232": "L",
    "399182000": "Oblique",
    "R-102C1": "Oblique",
}
_WORDS: Final = {"pa": "PA", "ap": "AP", "lat": "L", "lateral": "L"}
# What anonymisers write where an id was.
_NO_ID: Final = frozenset(
    ("na", "none", "null", "unknown", "anonymous", "anonymized", "anonymised", "anon", "deidentified", "removed")
)
_CHEST: Final = re.compile(r"chest|thora|torax|tórax|lung|pulmo|heart|rib", re.IGNORECASE)


@dataclass(frozen=True)
class Described:
    """What a header says.

    Attributes:
        patient: Patient ID, as it stands; None where it is empty or says that it was taken out.
        study: Study Instance UID, or None.
        instance: SOP Instance UID, or None.
        view: "PA", "AP", "L", "Oblique", "Decubitus", or None.
        view_told_by: "ViewPosition", "ViewCodeSequence", "description", "PatientOrientation"; None without a view.
        sex: "M", "F" or None.
        age: in years, 0 to 120, or None.
        modality: Modality in capitals, or None.
        for_processing: whether these are values of the detector that nobody is meant to look at.
        other_part: whether it names a part of the body that is not in the chest.
        burned_in: whether it says that text is part of the picture.
    """

    patient: str | None
    study: str | None
    instance: str | None
    view: str | None
    view_told_by: str | None
    sex: str | None
    age: float | None
    modality: str | None
    for_processing: bool
    other_part: bool
    burned_in: bool


def describe(file: DicomFile) -> Described:
    """What a header says; ``file`` is read with ``KEYWORDS``."""
    patient = file.text("PatientID")
    if patient is not None and re.sub(r"[\W_]", "", patient).casefold() in _NO_ID:
        patient = None
    view, told_by = _view(file)
    modality = file.text("Modality")
    part = file.text("BodyPartExamined")
    return Described(
        patient=patient,
        study=file.text("StudyInstanceUID"),
        instance=file.text("SOPInstanceUID"),
        view=view,
        view_told_by=told_by,
        sex=SEXES.get((file.text("PatientSex") or "").casefold()),
        age=_age(file),
        modality=modality.upper() if modality is not None else None,
        for_processing=(file.text("PresentationIntentType") or "").upper() == "FOR PROCESSING",
        other_part=part is not None and _CHEST.search(part) is None,
        burned_in=(file.text("BurnedInAnnotation") or "").upper() == "YES",
    )


def _view(file: DicomFile) -> tuple[str | None, str | None]:
    view = _POSITIONS.get(re.sub(r"[\W_]", "", file.text("ViewPosition") or "").casefold())
    if view is not None:
        return view, "ViewPosition"
    codes = [_code(item) for item in file.value("ViewCodeSequence") or ()]
    view = next((_VIEW_CODES[code] for code in codes if code in _VIEW_CODES), None)
    if view is not None:
        return view, "ViewCodeSequence"
    for keyword in ("SeriesDescription", "ProtocolName"):
        words = re.findall(r"[a-z]+", (file.text(keyword) or "").casefold())
        views = {_WORDS[word] for word in words if word in _WORDS}
        if len(views) == 1:  # "PA and lateral" names a study, not a picture
            return views.pop(), "description"
    # The side of the patient to which the rows run (PS3.3, C.7.6.1.1.1): front or back, then it is seen from the side.
    # Of a frontal picture it does not tell PA from AP.
    if (file.text("PatientOrientation") or "").upper()[:1] in ("A", "P"):
        return "L", "PatientOrientation"
    return None, None


def _code(item: object) -> str | None:
    try:
        return str(getattr(item, "CodeValue")).strip()  # noqa: B009 - an element, which raises where it is malformed
    except Exception:
        return None


def _age(file: DicomFile) -> float | None:
    age = parse_age(file.text("PatientAge") or "")
    if age is not None:
        return age
    birth = _date(file.text("PatientBirthDate"))
    dates = (_date(file.text(keyword)) for keyword in ("AcquisitionDate", "SeriesDate", "StudyDate"))
    taken = next((found for found in dates if found is not None), None)
    if birth is None or taken is None:
        return None
    years = (taken - birth).days / 365.25
    return years if 0 <= years <= 120 else None


def _date(text: str | None) -> date | None:
    match = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", text or "")  # with points before 1993
    try:
        return date(*map(int, match.groups())) if match is not None else None
    except ValueError:
        return None
