"""Does the collection read alike in all five forms of its metadata, with every row accounted for?"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cxr.errors import ConfigurationError, DataError
from cxr.sources.covid_chestxray import ADDRESS, read
from cxr.sources.labels import assign_labels
from cxr.sources.manifest import COLUMNS, Collection

FIRST = next(
    csv.reader(["Patientid,offset,sex,age,finding,survival,view,date,location,filename,doi, url,license,notes"])
)
EARLY = [*FIRST[:-1], "clinical notes", "other notes"]
EARLY_WITH_MODALITY = [*EARLY[:7], "modality", *EARLY[7:]]
MID_HEADER = (
    "patientid,offset,sex,age,finding,survival,intubated,intubation_present,went_icu,in_icu,needed_supplemental_O2,"
    "extubated,temperature,pO2_saturation,leukocyte_count,neutrophil_count,lymphocyte_count,view,modality,date,location,"
    "folder,filename,doi,url,license,clinical_notes,other_notes,"
)
MID = next(csv.reader([MID_HEADER]))
LATE = [*MID[:5], "RT_PCR_positive", *MID[5:]]
VARIANT = [
    {
        "pO2_saturation": "pO2 saturation",
        "needed_supplemental_O2": "needed_supplemental_o2",
        "leukocyte_count": "wbc",
    }.get(column, column)
    for column in MID
]
HIERARCHY = {
    "COVID-19": "Pneumonia/Viral/COVID-19",
    "Pneumocystis": "Pneumonia/Fungal/Pneumocystis",
    "Herpes": "Pneumonia/Viral/Herpes ",
}
GENERATIONS = {
    "first": FIRST,
    "early": EARLY,
    "early with modality": EARLY_WITH_MODALITY,
    "mid": MID,
    "late": LATE,
    "variant": VARIANT,
}


def write(root: Path, header: Sequence[str], rows: Sequence[Mapping[str, str]], encoding: str = "utf-8") -> None:
    """A metadata table of one generation; facts that its header has no column for are left out."""
    root.mkdir(exist_ok=True)
    with (root / "metadata.csv").open("w", newline="", encoding=encoding) as file:
        table = csv.writer(file)
        table.writerow(header)
        for row in rows:
            table.writerow([row.get("".join(c for c in column.lower() if c.isalnum()), "") for column in header])


def touch(root: Path, *names: str, folder: str = "images") -> None:
    for name in names:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(b"a radiograph")


def row(patient: str, filename: str, finding: str = "COVID-19", view: str = "PA", **more: str) -> dict[str, str]:
    return {"patientid": patient, "filename": filename, "finding": finding, "view": view, "folder": "images", **more}


def reasons(collection: Collection) -> dict[int, str]:
    return dict(zip(collection.dropped["row"], collection.dropped["reason"], strict=True))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_says_the_same(tmp_path: Path, generation: str) -> None:
    header = GENERATIONS[generation]
    has_modality = "modality" in header
    rows = [
        row("007", "a.jpg", modality="X-ray", sex="M", age="65", location="Huế Hospital, Huế, Vietnam"),
        row("8", "b.PNG ", "Pneumocystis ", " AP", modality="X-ray", sex="F ", age="50+", location="Milan, Italy "),
        row("8", "c.png", "Herpes", "L", modality="X-ray", sex="", age="early 40s", location="?"),
        row("9", "d.png", "todo", "AP Supine", modality="X-ray", sex="?", age="", location=""),
        row("10", "e.png", view="Axial" if has_modality else "CT", modality="CT"),
        row("11", "gone.png", "No Finding", modality="X-ray"),
    ]
    if generation == "late":
        rows = [{**entry, "finding": HIERARCHY.get(entry["finding"].strip(), entry["finding"])} for entry in rows]
        rows[3]["view"] = "AP erect"
    write(tmp_path, header, rows)
    touch(tmp_path, "a.jpg", "b.PNG", "c.png", "d.png", "e.png")

    collection = read("mini", tmp_path)

    records = collection.records
    assert tuple(records.columns) == COLUMNS
    assert list(records["image"]) == ["images/a.jpg", "images/b.PNG", "images/c.png", "images/d.png"]
    assert [Path(path).read_bytes() for path in records["path"]] == [b"a radiograph"] * 4
    assert list(records["patient"]) == ["007", "8", "8", "9"]
    assert list(records["view"]) == ["PA", "AP", "L", "AP Erect" if generation == "late" else "AP Supine"]
    assert list(records["sex"]) == ["M", "F", None, None]
    assert list(records["age"].fillna(-1)) == [65, 50, -1, -1]
    assert list(records["country"]) == ["Vietnam", "Italy", None, None]
    assert set(records["source"]) == {"mini"}
    assert records["label"].isna().all()
    assert all(finding == finding.strip() for finding in records["finding"])
    classes = {"covid": ["COVID-19"], "fungal": ["Fungal"], "other": ["rest"]}
    assert assign_labels(list(records["finding"]), classes).labels == ["covid", "fungal", "other", None]
    assert collection.rows == 6
    assert reasons(collection) == {5: "modality", 6: "file missing"}
    assert read("mini", tmp_path, views=["PA", "AP"]).records["patient"].tolist() == ["007", "8"]


def test_a_ragged_row_is_read_where_only_its_notes_are_torn(tmp_path: Path) -> None:
    lines = [
        ",".join(FIRST),
        "1,0,M,65,COVID-19,,PA,2020,Canada,a.jpg,,https://example.org,,a note, torn, in pieces",
        "2,0,M,65,COVID-19,,PA,2020,Canada,b.jpg",
        "3,0,M,65,COVID-19,,PA,2020,Hanoi, Vietnam,c.jpg,,https://example.org,,its place was not quoted",
        "4,0,M,65,COVID-19",
    ]
    (tmp_path / "metadata.csv").write_text("\r\n".join([*lines, "", ",,,,,,,,,,,,,", ""]))
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    collection = read("mini", tmp_path)
    assert list(collection.records["image"]) == ["images/a.jpg", "images/b.jpg"]
    assert reasons(collection) == {3: "ragged row", 4: "ragged row"}
    assert collection.rows == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_the_metadata_is_read_in_the_encoding_that_it_has(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, EARLY, [row("1", "a.jpg", location="Jönköping, Österreich")], encoding)
    touch(tmp_path, "a.jpg")
    assert read("mini", tmp_path).records["country"].tolist() == ["Österreich"]


def test_reasons_come_in_their_order(tmp_path: Path) -> None:
    rows = [
        row("1", "v.nii.gz", view="L", modality="CT", folder="volumes"),
        row("1", "v.nii.gz", view="L", modality="X-ray", folder="volumes"),
        row("2", "absent.png", view="L", modality="X-ray"),
        row("3", "absent.png", view="?", modality="X-ray"),
        row("4", "absent.png", "No Finding", modality="X-ray"),
        row("5", "", modality="X-ray"),
        row("6", "../outside.png", modality="X-ray"),
        row("6", "/etc/hostname", modality="X-ray"),
        row("6", "outside.png", modality="X-ray", folder="C:\\data"),
        row("6", "outside.png", modality="X-ray", folder="images\\..\\..\\elsewhere"),
        row("7", "absent.png", modality="X-ray"),
        row("8", "x" * 300 + ".png", modality="X-ray"),
        row("9", "a.png", modality="X-ray"),
    ]
    (tmp_path / "outside.png").touch()
    root = tmp_path / "root"
    write(root, MID, rows)
    touch(root, "a.png")
    collection = read("mini", root, views=["pa", "AP"], findings=["Pneumonia"])
    assert reasons(collection) == {
        1: "modality",
        2: "volume",
        3: "view",
        4: "view",
        5: "finding",
        6: "no file name",
        7: "outside the folder",
        8: "outside the folder",
        9: "outside the folder",
        10: "outside the folder",
        11: "file missing",
        12: "file missing",
    }
    assert collection.records["patient"].tolist() == ["9"]


def test_a_filter_by_finding_takes_what_lies_below_it_and_nothing_undecided(tmp_path: Path) -> None:
    findings = ["SARS", "Pneumonia/Viral/COVID-19", "COVID-19, ARDS", "todo", "Zebra", "Klebsiella", ""]
    names = [f"{i}.png" for i in range(len(findings))]
    write(tmp_path, MID, [row(n, n, f) for n, f in zip(names, findings, strict=True)])
    touch(tmp_path, *names)
    assert read("mini", tmp_path, findings=["Viral"]).records["image"].str[-5:].tolist() == ["0.png", "1.png", "2.png"]
    assert len(read("mini", tmp_path).records) == len(findings)


def test_a_file_listed_twice_is_kept_once_or_not_at_all_and_joins_its_patients(tmp_path: Path) -> None:
    rows = [
        row("a", "same.png"),
        row("b", "same.png", "Pneumonia/Viral/COVID-19"),
        row("c", "torn.png", "SARS"),
        row("d", "torn.png", "COVID-19"),
        row("c", "torn.png", "SARS"),
        row("e", "other.png"),
        row("e", "other.png"),
        row("f", "missing.png", view="L"),
        row("g", "missing.png", view="PA"),
    ]
    write(tmp_path, MID, rows)
    touch(tmp_path, "same.png", "torn.png", "other.png")
    collection = read("mini", tmp_path, views=["PA"])
    assert collection.records[["patient", "image"]].to_numpy().tolist() == [
        ["a", "images/same.png"],
        ["e", "images/other.png"],
    ]
    assert reasons(collection) == {
        2: "repeated file",
        3: "conflicting labels",
        4: "conflicting labels",
        5: "conflicting labels",
        7: "repeated file",
        8: "view",
        9: "file missing",
    }
    details = dict(zip(collection.dropped["row"], collection.dropped["detail"], strict=True))
    assert "patient b" in details[2]
    assert "patient a" in details[2]
    assert "COVID-19" in details[3]
    assert "SARS" in details[3]
    assert set(collection.aliases) == {("a", "b"), ("c", "d"), ("f", "g")}


@pytest.mark.parametrize("make_root", [False, True])
def test_an_absent_collection_says_where_to_get_it_in_one_line(tmp_path: Path, make_root: bool) -> None:
    root = tmp_path / "covid-chestxray-dataset"
    if make_root:
        root.mkdir()
    with pytest.raises(DataError) as caught:
        read("mini", root)
    message = str(caught.value)
    assert all(word in message for word in (str(root), ADDRESS, "experiment=demo"))
    assert "\n" not in message


@pytest.mark.parametrize("content", ["", "image,label\na.png,COVID-19\n"])
def test_another_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(DataError, match=r"metadata\.csv.*patientid, finding, view, filename"):
        read("mini", tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"views": ["PX"]}, "views: 'PX'.*nearest: 'P?A?P?'"),
        ({"views": "PA"}, "views: 'PA' is no list"),
        ({"views": []}, "views"),
        ({"findings": ["Vral"]}, "findings: 'Vral'.*nearest: 'Viral'"),
        ({"findings": "Viral"}, "findings: 'Viral' is no list"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(tmp_path: Path, options: dict[str, list[str]], named: str) -> None:
    write(tmp_path, MID, [row("1", "a.jpg")])
    with pytest.raises(ConfigurationError, match=named):
        read("mini", tmp_path, **options)


def test_a_view_of_the_data_itself_can_be_asked_for(tmp_path: Path) -> None:
    write(tmp_path, MID, [row("1", "a.jpg", view="Oblique"), row("2", "b.jpg")])
    touch(tmp_path, "a.jpg", "b.jpg")
    assert read("mini", tmp_path, views=["oblique"]).records["patient"].tolist() == ["1"]


# --- the real metadata

FILE_LEVEL = ("file missing", "repeated file", "conflicting labels")


def real_root() -> Path:
    folder = os.environ.get("CXR_REAL_DATA")
    if not folder:
        pytest.skip("CXR_REAL_DATA is not set: no real radiographs to test with")
    return Path(folder) / "covid-chestxray-dataset"


def findings_with_or_without_files(collection: Collection) -> list[str | None]:
    """The findings of all rows that passed the filters, whatever became of their files."""
    records, dropped = collection.records, collection.dropped
    of_image = dict(zip(records["image"], records["finding"], strict=True))
    missing = dropped[dropped["reason"] == "file missing"]
    repeated = dropped[dropped["reason"] == "repeated file"]
    assert not (dropped["reason"] == "conflicting labels").any()
    return [*records["finding"], *missing["detail"], *(of_image[image] for image in repeated["image"])]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("views", "covid", "other", "unlabelled"),
    [(["PA", "AP"], 312, 96, None), (["AP Supine"], 122, 12, None), (["PA"], 217, 85, 12)],
)
def test_the_counts_of_the_real_metadata(views: list[str], covid: int, other: int, unlabelled: int | None) -> None:
    collection = read("covid", real_root(), views=views)
    assert collection.rows == 751
    labels = assign_labels(findings_with_or_without_files(collection), {"covid": ["COVID-19"], "other": ["rest"]})
    counts = Counter(labels.labels)
    assert (counts["covid"], counts["other"]) == (covid, other)
    assert set(labels.reasons) <= {None, "unlabelled"}
    if unlabelled is not None:
        assert counts[None] == unlabelled


@pytest.mark.real_data
def test_the_real_metadata_by_ontology() -> None:
    findings = findings_with_or_without_files(read("covid", real_root(), views=["PA", "AP"]))
    viral = assign_labels(findings, {"viral": ["Viral"], "fungal": ["Fungal"], "other": ["rest"]})
    assert Counter(viral.labels)["viral"] == 333
    assert Counter(viral.labels)["fungal"] == 13
    assert Counter(assign_labels(findings, {"sars": ["SARS"], "other": ["rest"]}).labels)["sars"] == 16


@pytest.mark.real_data
def test_the_real_files() -> None:
    collection = read("covid", real_root())
    counts = collection.dropped["reason"].value_counts()
    assert counts["modality"] == 84
    assert set(counts.index) <= {"modality", "file missing", "repeated file"}
    assert set(collection.aliases) == {("285", "339"), ("287", "340")}
    assert all(Path(path).is_file() for path in collection.records["path"])
    assert collection.records["patient"].map(type).eq(str).all()
