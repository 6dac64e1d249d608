from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr.errors import ConfigurationError, DataError
from cxr.sources.manifest import COLUMNS, Manifest
from cxr.sources.reading import read_sources

CLASSES = {"covid": ["COVID-19"], "other": ["rest"]}
PHANTOM = {"kind": "phantom", "num_patients": 8, "size": 64}

Read = Callable[..., Manifest]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    (tmp_path / "data").mkdir()
    return partial(
        read_sources,
        data_dir=tmp_path / "data",
        cache_dir=tmp_path / "cache",
        classes=CLASSES,
        download=False,
        progress=False,
    )


def plant(folder: Path, *images: str) -> None:
    for image in images:
        path = folder / image
        path.parent.mkdir(parents=True, exist_ok=True)
        # Every picture has its own bytes, or it would be one group with another.
        Image.fromarray(np.frombuffer(str(path).encode()[-16:], np.uint8).reshape(4, 4)).save(path)


def test_sources_become_one_manifest_in_which_every_row_is_accounted_for(read: Read, tmp_path: Path) -> None:
    folders, table = tmp_path / "data" / "folders", tmp_path / "data" / "table"
    plant(folders, "COVID-19/a.png", "Unknown/b.png", "Normal/IM-0001-0001.png", "Normal/IM-0001-0002.png")
    (folders / "COVID-19" / "readme.txt").write_text("x")
    plant(table, "x.png", "y.png")
    (table / "t.csv").write_text("image,label,view\nx.png,Pneumonia,PA\ny.png,todo,PA\ngone.png,Pneumonia,PA\n")

    manifest = read(
        {
            "drawn": PHANTOM,
            "folders": {"kind": "class_folders", "root": "folders"},
            "table": {"kind": "table", "root": "table/t.csv"},
        }
    )

    records = manifest.records
    assert tuple(records.columns) == COLUMNS
    assert records.index.tolist() == list(range(len(records)))
    assert set(records["label"]) == {"covid", "other"} == set(manifest.class_names)
    assert records["sha256"].str.fullmatch(r"[0-9a-f]{64}").all()
    assert records["group"].notna().all()
    drawn = records[records["source"] == "drawn"]
    assert ((drawn["finding"] == "COVID-19") == (drawn["label"] == "covid")).all()
    rest = records[records["source"] != "drawn"]
    assert rest[["source", "image", "label", "group"]].values.tolist() == [
        ["folders", "COVID-19/a.png", "covid", "folders/COVID-19/a.png"],
        ["folders", "Normal/IM-0001-0001.png", "other", "folders/IM-0001"],
        ["folders", "Normal/IM-0001-0002.png", "other", "folders/IM-0001"],
        ["table", "x.png", "other", "table/x.png"],
    ]
    accounting = manifest.accounting().set_index("source")
    assert accounting.loc["folders", ["rows", "kept", "unlabelled", "not an image"]].tolist() == [5, 3, 1, 1]
    assert accounting.loc["table", ["rows", "kept", "unlabelled", "file missing"]].tolist() == [3, 1, 1, 1]
    assert (accounting["rows"] == accounting.drop(columns="rows").sum(axis=1)).all()


def test_the_same_picture_in_two_sources_is_one_group(read: Read, tmp_path: Path) -> None:
    plant(tmp_path / "data" / "one", "COVID-19/a.png")
    (tmp_path / "data" / "two" / "Normal").mkdir(parents=True)
    shutil.copy(tmp_path / "data" / "one" / "COVID-19" / "a.png", tmp_path / "data" / "two" / "Normal" / "b.png")

    manifest = read({name: {"kind": "class_folders", "root": name} for name in ("one", "two")})

    assert manifest.records["group"].tolist() == ["one/COVID-19/a.png"] * 2


def test_views_are_kept_where_they_are_known(read: Read, tmp_path: Path) -> None:
    plant(tmp_path / "data" / "folders", "COVID-19/a.png")
    sources = {"drawn": PHANTOM, "folders": {"kind": "class_folders", "root": "folders"}}

    both, pa_only = read(sources, views=["PA", "AP"]), read(sources, views=["pa"])

    assert set(both.records["view"]) == {"PA", "AP", None}
    assert set(pa_only.records["view"]) == {"PA", None}
    dropped = pa_only.dropped
    assert set(dropped["reason"]) == {"view"}
    assert set(dropped["detail"]) == {"AP"}
    assert len(pa_only.records) + len(dropped) == len(both.records) == pa_only.rows
    with pytest.raises(ConfigurationError, match=r"'PPA' is no view.*nearest: 'PA'"):
        read(sources, views=["PPA"])
    with pytest.raises(ConfigurationError, match="list of views"):
        read(sources, views="PA")


def test_without_classes_each_finding_is_one(read: Read, tmp_path: Path) -> None:
    plant(tmp_path / "data" / "folders", "b/1.png", "a/2.png")

    manifest = read({"s": {"kind": "class_folders", "root": "folders"}}, classes=None)

    assert manifest.class_names == ["a", "b"]
    assert manifest.records["label"].tolist() == ["a", "b"]


def test_unlabelled_images_are_kept_to_be_scored(read: Read, tmp_path: Path) -> None:
    plant(tmp_path / "data" / "scans", "a.png", "b.png")
    source = {"s": {"kind": "class_folders", "root": "scans"}}

    manifest = read(source, keep_unlabelled=True)

    assert manifest.records["label"].tolist() == [None, None]
    assert manifest.class_names == ["covid", "other"]
    assert any("2 images have no label" in note for note in manifest.notes)
    with pytest.raises(DataError, match="no image is left of 's': 2 rows read; 2 dropped: unlabelled"):
        read(source)


@pytest.mark.skipif(sys.platform != "linux", reason="the file that fails is one of Linux")
def test_a_file_that_cannot_be_read_is_counted(read: Read, tmp_path: Path) -> None:
    plant(tmp_path / "data" / "s", "Normal/b.png")
    # A file that opens and fails when it is read, also for the superuser.
    (tmp_path / "data" / "t.csv").write_text("image,label\nmem,Normal\n")

    manifest = read(
        {
            "t": {"kind": "table", "root": "t.csv", "images": "/proc/self"},
            "s": {"kind": "class_folders", "root": "s"},
        }
    )

    assert manifest.records["image"].tolist() == ["Normal/b.png"]
    assert manifest.dropped[["source", "row", "reason", "detail"]].values.tolist() == [
        ["t", 1, "unreadable", "cannot be opened"]
    ]


def test_an_absolute_root_stands_for_itself(read: Read, tmp_path: Path) -> None:
    plant(tmp_path / "elsewhere", "COVID-19/a.png")

    manifest = read({"s": {"kind": "class_folders", "root": str(tmp_path / "elsewhere")}})

    assert len(manifest.records) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "covid_chest_xray"}, "kind='covid_chest_xray' is not known; did you mean 'covid_chestxray'"),
        ({}, "kind=None is not known; there are: covid_chestxray, class_folders, table, dicom, phantom"),
        (
            {"kind": "phantom", "prevalance": 0.5},
            "prevalance is not an option of kind=phantom; did you mean 'prevalence'",
        ),
        ({"kind": "phantom", "root": "x"}, "root is not an option of kind=phantom"),
        ({"kind": "phantom", "cache_dir": "x"}, "cache_dir is not an option"),
        ({"kind": "table", "root": "t.csv", "labels": "y"}, "did you mean 'label'"),
        ({"kind": "covid_chestxray", "adress": "x"}, "did you mean 'address'"),
        ({"kind": "class_folders"}, "root=None is not a path"),
        ({"kind": "class_folders", "root": 7}, "root=7 is not a path"),
        ({"kind": "phantom", "strength": -1}, "strength=-1"),
        ("phantom", "'phantom' is not a mapping"),
    ],
)
def test_a_mistake_in_a_source_is_one_line_that_names_it(read: Read, options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read({"good": PHANTOM, "mine": options})

    assert str(caught.value).startswith("source 'mine': ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_source_is_an_error(read: Read) -> None:
    with pytest.raises(ConfigurationError, match="names no source"):
        read({})


def test_an_absent_collection_is_named_with_its_folder(read: Read, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path / "data" / "covid-chestxray-dataset")):
        read({"covid": {"kind": "covid_chestxray"}})


@pytest.mark.real_data
def test_the_two_collections_of_the_original_work(tmp_path: Path) -> None:
    root = os.environ.get("CXR_REAL_DATA")
    if root is None:
        pytest.skip("CXR_REAL_DATA is not set: no real radiographs to read")

    manifest = read_sources(
        {
            "covid_chestxray": {"kind": "covid_chestxray"},
            "chest_xray": {"kind": "class_folders", "root": "chest_xray", "include": ["NORMAL"]},
        },
        data_dir=root,
        cache_dir=tmp_path,
        classes=CLASSES,
        views=["PA"],
        download=False,
        progress=False,
    )

    accounting = manifest.accounting().set_index("source")
    assert accounting.loc["chest_xray", ["rows", "kept", "folder not included"]].tolist() == [5840, 1575, 4265]
    assert accounting.loc["covid_chestxray", "rows"] == 751
    assert (accounting["rows"] == accounting.drop(columns="rows").sum(axis=1)).all()
    healthy = manifest.records[manifest.records["source"] == "chest_xray"]
    assert set(healthy["label"]) == {"other"}
    assert set(manifest.records["view"]) == {"PA", None}
