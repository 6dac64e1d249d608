"""Is every DICOM file of a folder known for what it is, whose it is, and with which label?"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from tests.written_dicom import deflated, dicom

from cxr.errors import ConfigurationError, DataError
from cxr.sources.dicom import read
from cxr.sources.manifest import Collection
from cxr.sources.reading import read_sources

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)


def write(root: Path, image: str, syntax: Any = ImplicitVRLittleEndian, **elements: Any) -> Path:
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom(PIXELS, syntax, **elements))
    return path


def by_image(collection: Collection, column: str) -> dict[str, Any]:
    return dict(zip(collection.records["image"], collection.records[column], strict=True))


def reasons(collection: Collection, column: str = "reason") -> dict[str, Any]:
    return dict(zip(collection.dropped["image"], collection.dropped[column], strict=True))


def one(tmp_path: Path, **elements: Any) -> dict[str, Any]:
    write(tmp_path, "a", **elements)
    records = read("s", tmp_path).records
    assert len(records) == 1
    return records.iloc[0].to_dict()


def test_a_file_is_known_by_its_content_at_any_depth_and_every_other_is_accounted_for(tmp_path: Path) -> None:
    write(tmp_path, "1.2.840.5/IM000001")
    write(tmp_path, "deep/deeper/b.dcm", DeflatedExplicitVRLittleEndian)
    whole = write(tmp_path, "c.png").read_bytes()
    (tmp_path / "naked").write_bytes(whole[132:])
    (tmp_path / "data_set").write_bytes(whole[whole.index(b"\x08\x00\x16\x00") :])
    (tmp_path / "text.dcm").write_text("patientId,Target\n")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "cut.dcm").write_bytes(whole[:300])
    (tmp_path / "noise.dcm").write_bytes(deflated(b"\xff" * 40))
    (tmp_path / ".hidden").write_bytes(whole)
    write(tmp_path, "report", PixelData=None, Rows=None, Columns=None, Modality="SR")
    write(tmp_path, "no pixels", PixelData=None)
    write(tmp_path, "slice", Modality="CT")
    write(tmp_path, "raw", PresentationIntentType="FOR PROCESSING")

    collection = read("s", tmp_path)

    assert set(by_image(collection, "path")) == {"1.2.840.5/IM000001", "deep/deeper/b.dcm", "c.png"}
    assert by_image(collection, "path")["c.png"] == str(tmp_path / "c.png")
    found, details = reasons(collection), reasons(collection, "detail")
    assert (found.pop("cut.dcm"), details["cut.dcm"]) in (("unreadable", "truncated"), ("no picture", None))  # by where
    assert (details["noise.dcm"], details["no pixels"]) == ("truncated", "truncated")
    assert found == {
        "naked": "no DICOM preamble",
        "data_set": "no DICOM preamble",
        "text.dcm": "not DICOM",
        "empty.dcm": "not DICOM",
        "noise.dcm": "unreadable",
        ".hidden": "hidden",
        "report": "no picture",
        "no pixels": "unreadable",
        "slice": "modality",
        "raw": "for processing",
    }
    assert collection.records["finding"].isna().all()
    assert collection.rows == 14


def test_modalities_are_a_choice(tmp_path: Path) -> None:
    for modality in ("CR", "CT", "dx", None):
        write(tmp_path, f"{modality}", Modality=modality)
    assert set(by_image(read("s", tmp_path), "path")) == {"CR", "dx", "None"}
    assert set(by_image(read("s", tmp_path, modalities=["ct"]), "path")) == {"CT", "None"}
    assert len(read("s", tmp_path, modalities=None).records) == 4


def test_a_patient_stays_text_and_is_the_study_where_there_is_no_id(tmp_path: Path) -> None:
    write(tmp_path, "a", PatientID="007 ", StudyInstanceUID="1.2.1")
    write(tmp_path, "b", PatientID="7", StudyInstanceUID="1.2.2")
    write(tmp_path, "c", PatientID="", StudyInstanceUID="1.2.3")
    write(tmp_path, "d", PatientID="ANONYMOUS", StudyInstanceUID="1.2.3")
    write(tmp_path, "e", PatientID=None, StudyInstanceUID=None)

    collection = read("s", tmp_path)
    assert by_image(collection, "patient") == {"a": "007", "b": "7", "c": "1.2.3", "d": "1.2.3", "e": None}
    assert any("3 of 5 images have no PatientID" in note for note in collection.notes)
    studies = read("s", tmp_path, patient="study")
    assert by_image(studies, "patient") == {"a": "1.2.1", "b": "1.2.2", "c": "1.2.3", "d": "1.2.3", "e": None}
    assert set(by_image(read("s", tmp_path, patient="none"), "patient").values()) == {None}
    patterned = read("s", tmp_path, patient_pattern=r"0*(\d+)")
    assert by_image(patterned, "patient")["a"] == "7"


def test_two_ids_in_one_study_are_one_person(tmp_path: Path) -> None:
    write(tmp_path / "images", "a", PatientID="old", StudyInstanceUID="1.2.1", BitsStored=8)
    write(tmp_path / "images", "b", PatientID="new", StudyInstanceUID="1.2.1", SeriesDescription="again")
    write(tmp_path / "images", "c", PatientID="other", StudyInstanceUID="1.2.2", SeriesDescription="another")
    assert read("s", tmp_path / "images").aliases == (("old", "new"),)
    assert read("s", tmp_path / "images", patient="none").aliases == ()
    manifest = read_sources(
        {"s": {"kind": "dicom", "root": str(tmp_path / "images")}},
        data_dir=tmp_path, cache_dir=tmp_path / "cache", keep_unlabelled=True, progress=False,
    )  # fmt: skip
    groups = dict(zip(manifest.records["image"], manifest.records["group"], strict=True))
    assert groups["a"] == groups["b"] != groups["c"]


@pytest.mark.parametrize(
    ("elements", "view"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "ap "}, "AP"),
        ({"ViewPosition": "LL"}, "L"),
        ({"ViewPosition": "Posteroanterior"}, "PA"),
        ({"ViewPosition": "LLD"}, "Decubitus"),
        ({"ViewPosition": "PA", "SeriesDescription": "AP"}, "PA"),
        ({"ViewPosition": "", "SeriesDescription": "W Chest PA"}, "PA"),
        ({"SeriesDescription": "Thorax", "ProtocolName": "chest_ap_bed"}, "AP"),
        ({"SeriesDescription": "CHEST LAT"}, "L"),
        ({"SeriesDescription": "Chest PA and lateral"}, None),
        ({"SeriesDescription": "paediatric chest, apical"}, None),
        ({"PatientOrientation": ["A", "F"]}, "L"),
        ({"PatientOrientation": ["L", "F"]}, None),
        ({"ViewPosition": "Canary"}, None),
        ({}, None),
    ],
)
def test_the_view_is_told_by_what_the_header_has(tmp_path: Path, elements: dict[str, Any], view: str | None) -> None:
    assert one(tmp_path, **elements)["view"] == view


@pytest.mark.parametrize(("code", "view"), [("272479007", "PA"), ("R-10206", "AP"), ("399173006", "L"), ("1", None)])
def test_the_view_may_be_a_code(tmp_path: Path, code: str, view: str | None) -> None:
    item = Dataset()
    item.CodeValue = code
    assert one(tmp_path, ViewCodeSequence=Sequence([item]))["view"] == view


@pytest.mark.parametrize(
    ("elements", "age"),
    [
        ({"PatientAge": "045Y"}, 45),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "51"}, 51),
        ({"PatientAge": "045Y", "PatientBirthDate": "20000101", "StudyDate": "20200101"}, 45),
        ({"PatientBirthDate": "19800615", "StudyDate": "20200615"}, 40),
        ({"PatientAge": "", "PatientBirthDate": "1980.06.15", "AcquisitionDate": "20200615", "StudyDate": "1"}, 40),
        ({"PatientBirthDate": "20200615", "StudyDate": "19800615"}, None),
        ({"PatientBirthDate": "19800615"}, None),
        ({"PatientAge": "155Y"}, None),
        ({"PatientAge": "Canary"}, None),
        ({}, None),
    ],
)
def test_the_age_is_in_years(tmp_path: Path, elements: dict[str, Any], age: float | None) -> None:
    found = one(tmp_path, **elements)["age"]
    assert np.isnan(found) if age is None else found == pytest.approx(age, abs=0.01)


@pytest.mark.parametrize(("written", "sex"), [("M", "M"), ("F ", "F"), ("O", None), ("Canary", None), (None, None)])
def test_the_sex_is_one_of_two_or_not_known(tmp_path: Path, written: str | None, sex: str | None) -> None:
    assert one(tmp_path, PatientSex=written)["sex"] == sex


def test_folders_are_classes_only_where_they_are_said_to_be(tmp_path: Path) -> None:
    for image in ("train/sick/a", "train/well/deep/b", "test/sick/c"):
        write(tmp_path, image)
    unlabelled = read("s", tmp_path)
    assert set(by_image(unlabelled, "finding").values()) == {None}
    assert any("labels=folders" in note for note in unlabelled.notes)
    by_folder = read("s", tmp_path, labels="folders")
    assert by_image(by_folder, "finding") == {
        "test/sick/c": "sick",
        "train/sick/a": "sick",
        "train/well/deep/b": "well",
    }
    assert by_image(by_folder, "predefined_split")["test/sick/c"] == "test"
    some = read("s", tmp_path, labels="folders", include=["well"])
    assert set(by_image(some, "finding")) == {"train/well/deep/b"}
    assert reasons(some)["test/sick/c"] == "folder not included"


def test_the_table_of_a_challenge_has_a_row_for_each_box(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path, f"stage_2_train_images/00{number}.dcm", PatientID=f"00{number}")
    (tmp_path / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\n000,,,,,0\n001,1,2,3,4,1\n001,5,6,7,8,1\n002,1,2,3,4,1\n002,,,,,0\n009,,,,,0\n"
    )
    challenge = {
        "kind": "dicom", "root": str(tmp_path), "images": "stage_2_train_images", "labels": "stage_2_train_labels.csv",
        "image": "patientId", "label": "Target",
    }  # fmt: skip
    manifest = read_sources(
        {"rsna": challenge}, data_dir=tmp_path, cache_dir=tmp_path / "cache",
        classes={"pneumonia": ["1"], "other": ["0"]}, progress=False,
    )  # fmt: skip
    labels = dict(zip(manifest.records["image"], manifest.records["label"], strict=True))
    assert labels == {"000.dcm": "other", "001.dcm": "pneumonia"}
    dropped = dict(zip(manifest.dropped["image"], manifest.dropped["reason"], strict=True))
    assert dropped == {"002.dcm": "conflicting labels", "009": "file missing", "003.dcm": "unlabelled"}
    assert manifest.rows == 5


def test_a_table_names_a_file_by_path_name_or_uid(tmp_path: Path) -> None:
    write(tmp_path, "p1/one.dcm")
    write(tmp_path, "p2/two.dcm")
    write(tmp_path, "p3/three", SOPInstanceUID="1.2.3.4")
    write(tmp_path, "p4/same.dcm")
    write(tmp_path, "p5/same.dcm")
    write(tmp_path, "p6/six.DCM")
    (tmp_path / "labels.csv").write_text(
        "image;label;who;side\n./p1/one.dcm;a;Ann;train\np2\\two;b;Bob;test\n1.2.3.4;c;;\nsame;d;;\n;e;;\nsix;f;;\nx\n",
        encoding="utf-16",
    )
    collection = read(
        "s", tmp_path, labels="labels.csv", patient_column="who", split="side", patient_pattern="(.)[a-z]+"
    )
    assert by_image(collection, "finding") == {"p1/one.dcm": "a", "p2/two.dcm": "b", "p3/three": "c", "p6/six.DCM": "f"}
    assert by_image(collection, "patient") == {
        "p1/one.dcm": "A",
        "p2/two.dcm": "B",
        "p3/three": "0007",
        "p6/six.DCM": "0007",
    }
    assert by_image(collection, "predefined_split")["p2/two.dcm"] == "test"
    found = collection.dropped[["image", "reason"]].to_numpy().tolist()
    assert sorted(map(tuple, found)) == [
        ("", "no file name"),
        ("labels.csv", "not DICOM"),
        ("p4/same.dcm", "several files"),
        ("p5/same.dcm", "several files"),
        ("x", "ragged row"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "none.csv"}, r"none\.csv.*is not a file"),
        ({"labels": "labels.csv", "label": "Targt"}, "did you mean 'Target'"),
        ({"labels": "labels.csv", "label": "Target", "patient_column": "who"}, "no column patient='who'"),
        ({"images": "nowhere"}, "is not a folder"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, options: dict[str, str], message: str) -> None:
    write(tmp_path, "a.dcm")
    (tmp_path / "labels.csv").write_text("image,Target\na,1\n")
    with pytest.raises(DataError, match=message):
        read("s", tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patient": "headr"}, "header, study, none"),
        ({"modalities": []}, "modalities"),
        ({"modalities": "CR"}, r"\[CR, DX\]"),
        ({"include": ["a"]}, "labels=folders"),
        ({"patient_column": "who"}, "labels=<a table>"),
        ({"split": "side", "labels": "folders"}, "labels=<a table>"),
        ({"patient_pattern": "[0-9]+"}, "without a group"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write(tmp_path, "a.dcm")
    with pytest.raises(ConfigurationError, match=message):
        read("s", tmp_path, **options)


def test_what_the_headers_tell_of_a_collection_is_said_in_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for number in range(20):
        write(
            tmp_path, f"{number:02d}", PatientID=f"Canary{number}", PatientName="Canary", BodyPartExamined="CANARY",
            BurnedInAnnotation="YES" if number < 3 else "NO", ViewPosition="PA" if number < 5 else "Canary",
            PatientBirthDate="Canary", PatientAge="Canary",
        )  # fmt: skip
    collection = read("s", tmp_path)
    said = " ".join(collection.notes)
    assert "each of the 20 images has a patient of its own" in said
    assert "BodyPartExamined of 20 of 20" in said
    assert "3 of 20 images say that text is burned into" in said
    assert "the view of 5 of 20 images" in said
    assert "canary" not in (said + caplog.text).lower()
    kept = collection.records.drop(columns=["patient", "path"]).to_numpy().ravel().tolist()
    assert not [cell for cell in kept if "canary" in str(cell).lower()]
    assert "all images have one patient" not in said

    for number in range(20):
        write(tmp_path, f"{number:02d}", PatientID="1")
    assert "all images have one patient" in " ".join(read("s", tmp_path).notes)


@pytest.mark.parametrize("what", ["source", "file"])
def test_without_the_extra_the_way_out_is_named(tmp_path: Path, what: str) -> None:
    write(tmp_path, "a.dcm")
    program = {
        "source": "from cxr.sources.dicom import read; read('s', sys.argv[1])",
        "file": "from cxr.images.decode import read_grey; read_grey(sys.argv[1] + '/a.dcm')",
    }[what]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['pydicom'] = None\ntry:\n {program}\n"
         "except Exception as error: print(type(error).__name__, error.exit_status, error)", str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("ConfigurationError 2 "), done.stdout + done.stderr
    assert "uv sync --extra dicom" in done.stdout
    assert len(done.stdout.splitlines()) == 1
