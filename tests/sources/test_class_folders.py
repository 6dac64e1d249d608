from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.errors import ConfigurationError, DataError
from cxr.sources.class_folders import read
from cxr.sources.manifest import Collection


def encoded(image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, format=image_format)
    return buffer.getvalue()


PNG = encoded("PNG")


def plant(root: Path, *images: str, content: bytes = PNG) -> Path:
    for image in images:
        path = root / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def kept(collection: Collection) -> list[tuple[str, str | None, str | None]]:
    columns = collection.records[["image", "predefined_split", "finding"]]
    return [tuple(row) for row in columns.itertuples(index=False)]


def reasons(collection: Collection) -> dict[str, str]:
    return dict(zip(collection.dropped["image"], collection.dropped["reason"], strict=True))


def test_the_class_is_the_top_folder_at_any_depth(tmp_path: Path) -> None:
    plant(tmp_path, "sick/a.png", "well/b.png", "sick/2020/ward 3/c.png")

    collection = read("s", tmp_path)

    assert kept(collection) == [
        ("sick/a.png", None, "sick"),
        ("sick/2020/ward 3/c.png", None, "sick"),
        ("well/b.png", None, "well"),
    ]
    assert collection.records["path"].tolist()[0] == str(tmp_path / "sick/a.png")
    assert collection.rows == 3
    assert collection.records[["view", "label", "sha256"]].isna().all(axis=None)


def test_folders_of_splits_stand_above_the_classes(tmp_path: Path) -> None:
    plant(tmp_path, "Training/sick/a.png", "valid/well/deep/b.png", "test/sick/c.png", "extras/sick/d.png")

    collection = read("s", tmp_path)

    assert kept(collection) == [
        ("Training/sick/a.png", "train", "sick"),
        ("test/sick/c.png", "test", "sick"),
        ("valid/well/deep/b.png", "val", "well"),
    ]
    assert reasons(collection) == {"extras/sick/d.png": "not a class folder"}


def test_a_class_may_be_called_test_beside_others(tmp_path: Path) -> None:
    plant(tmp_path, "test/a.png", "control/b.png")

    assert kept(read("s", tmp_path)) == [("control/b.png", None, "control"), ("test/a.png", None, "test")]


def test_images_without_class_folders_are_unlabelled(tmp_path: Path) -> None:
    flat = plant(tmp_path / "flat", "a.png", "b.png", "notes.txt")
    split = plant(tmp_path / "split", "train/a.png", "test/b.png")

    assert kept(read("s", flat)) == [("a.png", None, None), ("b.png", None, None)]
    assert kept(read("s", split)) == [("test/b.png", "test", None), ("train/a.png", "train", None)]


def test_an_image_beside_the_class_folders_is_of_no_class(tmp_path: Path) -> None:
    plant(tmp_path, "stray.png", "sick/a.png")

    collection = read("s", tmp_path)

    assert kept(collection) == [("sick/a.png", None, "sick")]
    assert reasons(collection) == {"stray.png": "not in a class folder"}


def test_what_is_no_image_is_counted_and_makes_no_class(tmp_path: Path) -> None:
    plant(tmp_path, "sick/a.png", "sick/.hidden.png", ".ipynb_checkpoints/b.png", "__MACOSX/sick/c.png")
    plant(tmp_path, "sick/Thumbs.db", "sick/page.png", "sick/empty.png", content=b"")
    plant(tmp_path, "sick/page.png", content=b"<html>not found</html>")
    os.mkfifo(tmp_path / "sick" / "pipe.png")

    collection = read("s", tmp_path)

    assert kept(collection) == [("sick/a.png", None, "sick")]
    assert reasons(collection) == {
        ".ipynb_checkpoints": "hidden",
        "__MACOSX": "hidden",
        "sick/.hidden.png": "hidden",
        "sick/Thumbs.db": "not an image",
        "sick/page.png": "unreadable",
        "sick/empty.png": "unreadable",
        "sick/pipe.png": "not a file",
    }
    details = dict(zip(collection.dropped["image"], collection.dropped["detail"], strict=True))
    assert (details["sick/page.png"], details["sick/empty.png"]) == ("not an image", "empty file")
    assert collection.rows == 8


@pytest.mark.parametrize(
    ("name", "image_format"),
    [("a.JPG", "JPEG"), ("a.jpeg", "PNG"), ("a.tif", "TIFF"), ("a.webp", "WEBP"), ("a.bmp", "BMP"), ("a.gif", "GIF")],
)
def test_images_are_known_by_suffix_and_first_bytes(tmp_path: Path, name: str, image_format: str) -> None:
    plant(tmp_path, f"sick/{name}", content=encoded(image_format))

    assert kept(read("s", tmp_path)) == [(f"sick/{name}", None, "sick")]


def test_links_are_never_followed_out_of_the_root_or_round_in_circles(tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", "secret/x.png")
    root = plant(tmp_path / "root", "sick/a.png", "well/b.png")
    (root / "sick" / "out.png").symlink_to(outside / "secret" / "x.png")
    (root / "elsewhere").symlink_to(outside / "secret")
    (root / "sick" / "up").symlink_to(root)
    (root / "sick" / "self").symlink_to(root / "sick" / "self")
    (root / "sick" / "lost.png").symlink_to(root / "lost.png")
    (root / "sick" / "sister").symlink_to(root / "well")
    (root / "well" / "same.png").symlink_to(root / "well" / "b.png")

    collection = read("s", root)

    assert kept(collection) == [
        ("sick/a.png", None, "sick"),
        ("well/b.png", None, "well"),
        ("well/same.png", None, "well"),
    ]
    assert reasons(collection) == {
        "elsewhere": "link out of the root",
        "sick/out.png": "link out of the root",
        "sick/up": "link cycle",
        "sick/self": "broken link",
        "sick/lost.png": "broken link",
        "sick/sister": "link to a folder",
    }


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    plant(tmp_path / "disk", "sick/a.png")
    (tmp_path / "data").symlink_to(tmp_path / "disk")

    collection = read("s", tmp_path / "data")

    assert kept(collection) == [("sick/a.png", None, "sick")]


def test_a_sibling_whose_name_begins_like_the_root_is_outside(tmp_path: Path) -> None:
    plant(tmp_path / "root", "sick/a.png")
    plant(tmp_path / "root-private", "x.png")
    (tmp_path / "root" / "sick" / "x.png").symlink_to(tmp_path / "root-private" / "x.png")

    assert reasons(read("s", tmp_path / "root")) == {"sick/x.png": "link out of the root"}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_odd_names_are_read_or_counted(tmp_path: Path) -> None:
    plant(tmp_path, "sick/two words.png", "sick/two\nlines.png", "sick/größe.png")
    Path(os.fsdecode(os.fsencode(tmp_path / "sick") + b"/caf\xe9.png")).write_bytes(PNG)

    collection = read("s", tmp_path)

    assert sorted(collection.records["image"]) == ["sick/größe.png", "sick/two\nlines.png", "sick/two words.png"]
    assert reasons(collection) == {"sick/caf\\xe9.png": "file name is not UTF-8"}
    collection.dropped.to_csv(tmp_path / "dropped.csv")


def test_the_class_list_may_be_given(tmp_path: Path) -> None:
    plant(tmp_path, "sick/a.png", "well/b.png", "masks/c.png")

    named = read("s", tmp_path, folders=["sick", "well"])
    included = read("s", tmp_path, include=["well"])

    assert [image for image, _, _ in kept(named)] == ["sick/a.png", "well/b.png"]
    assert reasons(named) == {"masks/c.png": "not a class folder"}
    assert [image for image, _, _ in kept(included)] == ["well/b.png"]
    assert set(reasons(included).values()) == {"folder not included"}


@pytest.mark.parametrize("key", ["folders", "include"])
def test_a_class_folder_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path: Path, key: str) -> None:
    plant(tmp_path, "train/NORMAL/a.png", "train/PNEUMONIA/b.png")

    with pytest.raises(DataError, match=r"'Normal'; did you mean 'NORMAL'\? \(there are: NORMAL, PNEUMONIA\)"):
        read("s", tmp_path, **{key: ["Normal", "PNEUMONIA"]})
    with pytest.raises(ConfigurationError, match=key):
        read("s", tmp_path, **{key: "NORMAL"})


def test_an_empty_class_folder_is_told(tmp_path: Path) -> None:
    plant(tmp_path, "sick/a.png")
    plant(tmp_path, "well/readme.txt", content=b"none yet")
    (tmp_path / "unsure").mkdir()

    notes = " ".join(read("s", tmp_path).notes)

    assert "'well' holds no image" in notes
    assert "'unsure' holds no image" in notes
    assert "'sick'" not in notes


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person123_bacteria_4.jpeg", "person123_bacteria"),
        ("person123_virus_4.jpeg", "person123_virus"),
        ("person447_virus_921_1.jpeg", "person447_virus"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0543-0001-0002.jpeg", "IM-0543"),
        ("NORMAL2-IM-0195-0001.jpeg", "NORMAL2-IM-0195"),
        ("BACTERIA-1008087-0001.jpeg", "BACTERIA-1008087"),
        ("00003847_002.png", "00003847"),
        ("scan 12.png", None),
        ("copy of 00003847_002.png", None),
    ],
)
def test_file_names_tell_the_patient(tmp_path: Path, name: str, patient: str | None) -> None:
    plant(tmp_path, f"sick/{name}")

    collection = read("s", tmp_path)

    assert collection.records["patient"].tolist() == [patient]
    assert any("1 of 1 images" in note for note in collection.notes) == (patient is None)


def test_the_pattern_of_the_patient_may_be_chosen(tmp_path: Path) -> None:
    plant(tmp_path, "sick/00003847_002.png", "sick/person1_virus_6.png", "sick/ward3-id77-b.png")

    def patients(pattern: str) -> list[str | None]:
        return list(read("s", tmp_path, patient=pattern).records["patient"])

    assert patients("nih") == ["00003847", None, None]
    assert patients("paediatric") == [None, "person1_virus", None]
    assert patients("none") == [None, None, None]
    assert patients(r"id(\d+)") == [None, None, "77"]
    with pytest.raises(ConfigurationError, match="did you mean 'paediatric'"):
        patients("pediatric")
    with pytest.raises(ConfigurationError, match="regular expression"):
        patients("id(")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"root='.*nowhere' is not a folder"):
        read("s", tmp_path / "nowhere")


@pytest.mark.real_data
def test_the_paediatric_collection_is_read_whole() -> None:
    root = os.environ.get("CXR_REAL_DATA")
    if root is None:
        pytest.skip("CXR_REAL_DATA is not set: no real radiographs to read")

    collection = read("chest_xray", Path(root) / "chest_xray")

    counts = collection.records.groupby(["predefined_split", "finding"]).size().to_dict()
    assert counts == {
        ("train", "NORMAL"): 1341,
        ("train", "PNEUMONIA"): 3875,
        ("test", "NORMAL"): 234,
        ("test", "PNEUMONIA"): 390,
    }
    assert collection.records["patient"].notna().all()
    assert collection.records.groupby("patient")["predefined_split"].nunique().max() == 1
