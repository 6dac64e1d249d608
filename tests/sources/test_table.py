from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from cxr.errors import ConfigurationError, DataError
from cxr.sources.manifest import Collection
from cxr.sources.reading import read_sources
from cxr.sources.table import read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "c.png", "sub/d.png", "größe.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8", name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def reasons(collection: Collection) -> list[tuple[int, str]]:
    return list(zip(collection.dropped["row"], collection.dropped["reason"], strict=True))


def test_every_column_is_read(folder: Path) -> None:
    path = write(
        folder,
        "image,label,patient,view,sex,age,split,source,more\n"
        "a.png,COVID-19|Edema, 007 ,pa,Male,045Y,Training,north,x\n"
        "sub/d.png,,8,?,f,18,valid,,\n",
    )

    records = read("t", path).records

    assert records.loc[0].drop(["path", "age"]).to_dict() == {
        "source": "t/north",
        "image": "a.png",
        "finding": "COVID-19|Edema",
        "label": None,
        "patient": "007",
        "group": None,
        "view": "PA",
        "sex": "M",
        "country": None,
        "predefined_split": "train",
        "sha256": None,
    }
    assert records.loc[1, ["source", "finding", "patient", "view", "sex", "predefined_split"]].tolist() == [
        "t",
        None,
        "8",
        None,
        "F",
        "val",
    ]
    assert records["age"].tolist() == [45.0, 18.0]
    assert records["path"].tolist() == [str(folder / "a.png"), str(folder / "sub" / "d.png")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_encodings_and_separators_are_found(folder: Path, encoding: str, separator: str) -> None:
    text = 'image,label,note\ngröße.png,Ödem,"one, two; three"\na.png,no finding,\n'
    if separator != ",":
        text = text.replace(", ", "\0").replace(",", separator).replace("\0", ", ")

    records = read("t", write(folder, text, encoding)).records

    assert records["image"].tolist() == ["größe.png", "a.png"]
    assert records["finding"].tolist() == ["Ödem", "no finding"]


def test_the_separator_is_the_one_that_shows_the_column_of_images(folder: Path) -> None:
    path = write(folder, 'image;"a,b,c,d"\na.png;1\n')

    assert read("t", path).records["image"].tolist() == ["a.png"]


def test_rows_that_cannot_be_used_are_counted(folder: Path) -> None:
    path = write(
        folder,
        "image,label,patient\n"
        "a.png,x,1\n"
        "b.png,x\n"
        "\n"
        "b.png,x,1,more\n"
        "b\0.png,x,1\n"
        ",x,1\n"
        "../secret.png,x,1\n"
        "/etc/passwd,x,1\n"
        "C:\\secret.png,x,1\n"
        "gone.png,x,1\n"
        f"{'long' * 200}.png,x,1\n"
        "sub,x,1\n"
        "c.png,x,1,,\n",
    )

    collection = read("t", path)

    assert collection.records["image"].tolist() == ["a.png", "c.png"]
    assert reasons(collection) == [
        (2, "ragged row"),
        (3, "ragged row"),
        (4, "NUL byte"),
        (5, "no file name"),
        (6, "outside the folder"),
        (7, "outside the folder"),
        (8, "outside the folder"),
        (9, "file missing"),
        (10, "file missing"),
        (11, "file missing"),
    ]
    assert collection.rows == 12
    collection.dropped.to_csv(folder / "dropped.csv")


def test_a_file_listed_twice_counts_once_or_not_at_all(folder: Path) -> None:
    path = write(
        folder,
        "image,label,patient\n"
        "a.png,COVID-19,97\n"
        "b.png,Normal,1\n"
        "./a.png,covid 19,178\n"
        "sub/../b.png,Pneumonia,2\n"
        "c.png,Normal,1\n",
    )

    collection = read("t", path)

    assert collection.records["image"].tolist() == ["a.png", "c.png"]
    assert reasons(collection) == [(2, "conflicting labels"), (3, "repeated file"), (4, "conflicting labels")]
    assert collection.aliases == (("97", "178"), ("1", "2"))


def test_names_of_columns_are_options_and_a_wrong_one_is_an_error(folder: Path) -> None:
    path = write(folder, "Image Index,Finding Labels,Patient ID\na.png,Mass,00003847\n")

    records = read("t", path, image="Image Index", label="Finding Labels", patient="Patient ID").records
    assert records.loc[0, ["image", "finding", "patient"]].tolist() == ["a.png", "Mass", "00003847"]

    with pytest.raises(DataError, match=r"no column image='image'; did you mean 'Image Index'"):
        read("t", path)
    with pytest.raises(DataError, match=r"label='Finding Label'; did you mean 'Finding Labels'"):
        read("t", path, image="Image Index", label="Finding Label")
    with pytest.raises(ConfigurationError, match="image=None"):
        read("t", path, image=None)


def test_an_image_may_be_named_without_its_ending(folder: Path) -> None:
    (folder / "e.JPG").write_bytes((folder / "a.png").read_bytes())
    (folder / "a.jpg").write_bytes((folder / "a.png").read_bytes())
    path = write(folder, "image,label\nb,x\na,x\nsub/d,y\ne,y\nf,y\nc.jpg,y\nb.png,x\n")

    collection = read("t", path)

    assert collection.records["image"].tolist() == ["b.png", "sub/d.png", "e.JPG"]
    assert reasons(collection) == [(2, "several files"), (5, "file missing"), (6, "file missing"), (7, "repeated file")]
    assert collection.dropped["detail"].tolist()[0] == "a.png, a.jpg"


def test_an_id_that_counts_visits_is_brought_to_its_patient(folder: Path) -> None:
    path = write(folder, "image,label,patient\na.png,x,7a\nb.png,x,7b\nc.png,x,8\nsub/d.png,x,visitor\ngröße.png,x,\n")

    collection = read("t", path, patient_pattern=r"(\d+)[a-z]?")

    assert collection.records["patient"].tolist() == ["7", "7", "8", "visitor", None]
    assert [note for note in collection.notes if "patient_pattern" in note] == [
        "1 of 5 rows: the patient does not fit patient_pattern='(\\\\d+)[a-z]?' and is taken as it stands"
    ]
    assert read("t", path).records["patient"].tolist() == ["7a", "7b", "8", "visitor", None]
    for wrong, message in ((r"\d+", "without a group"), ("(", "not a regular expression"), (7, "not a regular")):
        with pytest.raises(ConfigurationError, match=f"source 't': patient_pattern=.*{message}"):
            read("t", path, patient_pattern=wrong)  # type: ignore[arg-type]


def test_the_shipped_settings_read_the_figure_1_collection(tmp_path: Path) -> None:
    # Its table is Windows-1252, names no file, and counts the visits of a person by letters.
    root = tmp_path / "Figure1-COVID-chestxray-dataset"
    (root / "images").mkdir(parents=True)
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for number, image in enumerate(("COVID-00003a.jpg", "COVID-00003b.png", "COVID-00004.jpg", "COVID-00005.jpg")):
        Image.fromarray(np.roll(grey, number)).save(root / "images" / image)
    text = (
        "patientid,offset,sex,age,finding,survival,view,modality,notes\n"
        "COVID-00003a,8,M,28,COVID-19,,AP erect,X-ray,39\u2009\u00b0C\n"
        "COVID-00003b,8,M,28,COVID-19,,AP erect,X-ray,\n"
        "COVID-00004,,F,50+,No finding,,PA,X-ray,\n"
        "COVID-00005,,,early 40s,,,,X-ray,\n"
        "COVID-00006,,,,COVID-19,,,X-ray,\n"
    )
    (root / "metadata.csv").write_bytes(text.replace("\u2009", "").encode("cp1252"))
    settings = OmegaConf.load(Path(__file__).parents[2] / "conf" / "data" / "figure1_covid.yaml")
    content = OmegaConf.to_container(OmegaConf.create({"data": settings}), resolve=True)["data"]  # type: ignore[index]

    manifest = read_sources(
        content["sources"], data_dir=tmp_path, cache_dir=tmp_path / "cache", classes=content["classes"]
    )

    columns = ["image", "patient", "group", "label", "view", "sex"]
    rows = manifest.records[columns].to_numpy(object).tolist()
    first, second, third = rows
    assert [row[0] for row in rows] == ["COVID-00003a.jpg", "COVID-00003b.png", "COVID-00004.jpg"]
    assert first[1:] == second[1:]
    assert [first[1], *first[3:]] == ["COVID-00003", "covid", "AP Erect", "M"]
    assert [third[1], *third[3:]] == ["COVID-00004", "other", "PA", "F"]
    assert first[2] != third[2]
    assert manifest.records["age"].tolist() == [28.0, 28.0, 50.0]
    assert sorted(manifest.dropped["reason"]) == ["file missing", "unlabelled"]


def test_labels_may_be_left_out(folder: Path) -> None:
    path = write(folder, "image,label\na.png,COVID-19\n")

    collection = read("t", path, label=None)

    assert collection.records["finding"].tolist() == [None]
    assert any("no column of labels" in note for note in collection.notes)


def test_images_may_lie_in_another_folder(folder: Path) -> None:
    (folder / "tables").mkdir()
    path = write(folder / "tables", f"image\na.png\nsub\\d.png\n{folder}/b.png\n")

    relative = read("t", path, images="..")
    assert relative.rows == 3
    collection = read("t", path, images=folder)
    assert collection.records["image"].tolist() == ["a.png", "sub/d.png", "b.png"]
    assert collection.records["path"].tolist()[2] == str(folder / "b.png")
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        read("t", path, images="nowhere")


@pytest.mark.parametrize(
    ("text", "years"),
    [("45", 45.0), ("45.5", 45.5), ("045Y", 45.0), ("018M", 1.5), ("50+", 50.0), ("early 40s", None), ("411", None)],
)
def test_ages_are_years(folder: Path, text: str, years: float | None) -> None:
    age = read("t", write(folder, f"image,age\na.png,{text}\n")).records["age"][0]

    assert pd.isna(age) if years is None else age == years


def test_a_split_of_another_name_is_told(folder: Path) -> None:
    collection = read("t", write(folder, "image,split\na.png,holdout\nb.png,TEST\n"))

    assert collection.records["predefined_split"].tolist() == [None, "test"]
    assert any("holdout" in note for note in collection.notes)


def test_parquet_keeps_ids_as_text(folder: Path) -> None:
    frame = pd.DataFrame(
        {
            "image": ["a.png", "b.png", "c.png"],
            "patient": ["007", "7", None],
            "age": [45, np.nan, 3],
            "label": ["x", None, "y"],
            "split": [None, "val", "test"],
        }
    )
    frame.to_parquet(folder / "table.parquet")

    records = read("t", folder / "table.parquet").records

    assert records["patient"].tolist() == ["007", "7", None]
    assert records["finding"].tolist() == ["x", None, "y"]
    assert records["age"].tolist()[::2] == [45.0, 3.0]
    assert records["predefined_split"].tolist() == [None, "val", "test"]


def test_numeric_ids_of_parquet_stay_whole(folder: Path) -> None:
    pd.DataFrame({"image": ["a.png", "b.png"], "patient": [7.0, np.nan]}).to_parquet(folder / "table.parquet")

    assert read("t", folder / "table.parquet").records["patient"].tolist() == ["7", None]


def test_parquet_without_pyarrow_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(DataError, match="--extra parquet"):
        read("t", folder / "table.parquet")


def test_a_file_that_is_no_table_is_named(folder: Path) -> None:
    (folder / "table.parquet").write_bytes(b"no parquet")

    with pytest.raises(DataError, match=r"table[.]parquet"):
        read("t", folder / "table.parquet")
    with pytest.raises(DataError, match="empty"):
        read("t", write(folder, "\n\n"))
    with pytest.raises(DataError, match="has no column"):
        read("t", folder / "a.png")
    with pytest.raises(DataError, match="is not a file"):
        read("t", folder)
