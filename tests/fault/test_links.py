"""Is nothing read that lies outside of the folder that was given, and is no circle walked for ever?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr.errors import DataError
from cxr.sources.manifest import Manifest
from cxr.sources.reading import read_sources

pytestmark = pytest.mark.fault


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.frombuffer(f"{path.name:>64}".encode()[:64], np.uint8).reshape(8, 8)
        Image.fromarray(pixels).save(path)


def read(tmp_path: Path, **options: Any) -> Manifest:
    return read_sources({"own": options}, data_dir=tmp_path, cache_dir=tmp_path / "cache", progress=False)


def reason_of(manifest: Manifest, image: str) -> list[str]:
    return manifest.dropped.loc[manifest.dropped["image"] == image, "reason"].tolist()


# What is planted below the root, and what the row says.
LINKS: dict[str, tuple[str, Callable[[Path, Path], object], str | None]] = {
    "file outside": ("sick/x.png", lambda at, out: at.symlink_to(out / "secret" / "x.png"), "link out of the root"),
    "folder outside": ("sick/more", lambda at, out: at.symlink_to(out / "secret"), "link out of the root"),
    "by a relative way": (
        "sick/y.png",
        lambda at, out: at.symlink_to(os.path.relpath(out / "secret" / "x.png", at.parent)),
        "link out of the root",
    ),
    "a link to a link outside": (
        "sick/z.png",
        lambda at, out: (
            (at.parent / "w.png").symlink_to(out / "secret" / "x.png"),
            at.symlink_to(at.parent / "w.png"),
        ),
        "link out of the root",
    ),
    "the neighbour of the same beginning": (
        "sick/n.png",
        lambda at, out: at.symlink_to(out / "root-private" / "x.png"),
        "link out of the root",
    ),
    "to the folder above": ("sick/up", lambda at, out: at.symlink_to(at.parent.parent), "link cycle"),
    "to its own folder": ("sick/here", lambda at, out: at.symlink_to(at.parent), "link cycle"),
    "to itself": ("sick/self.png", lambda at, out: at.symlink_to(at), "broken link"),
    "two that lead to each other": (
        "sick/one.png",
        lambda at, out: (at.symlink_to(at.parent / "two.png"), (at.parent / "two.png").symlink_to(at)),
        "broken link",
    ),
    "to nothing": ("sick/gone.png", lambda at, out: at.symlink_to(at.parent / "nothing.png"), "broken link"),
    "to a folder beside": ("sick/sister", lambda at, out: at.symlink_to(at.parent.parent / "well"), "link to a folder"),
    "within the root": ("sick/same.png", lambda at, out: at.symlink_to(at.parent.parent / "well" / "b.png"), None),
    "a pipe": ("sick/pipe.png", lambda at, out: os.mkfifo(at), "not a file"),
    "a socket's place": ("sick/null.png", lambda at, out: at.symlink_to("/dev/null"), "link out of the root"),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_folder_is_read_no_further_than_itself(tmp_path: Path, name: str) -> None:
    image, plant, reason = LINKS[name]
    draw(tmp_path / "root/sick/a.png", tmp_path / "root/well/b.png")
    draw(tmp_path / "secret/x.png", tmp_path / "root-private/x.png")
    plant(tmp_path / "root" / image, tmp_path)
    manifest = read(tmp_path, kind="class_folders", root="root")
    assert reason_of(manifest, image) == ([] if reason is None else [reason])
    assert {"sick/a.png", "well/b.png"} <= set(manifest.records["image"])
    assert (image in set(manifest.records["image"])) == (reason is None)
    assert len(manifest.records) + len(manifest.dropped) == manifest.rows


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("out.png", "link out of the root"),
        ("elsewhere/x.png", "link out of the root"),
        ("../secret/x.png", "outside the folder"),
        ("images/../../secret/x.png", "outside the folder"),
        ("/etc/hostname", "outside the folder"),
        ("C:\\secret.png", "outside the folder"),
        ("..\\secret\\x.png", "outside the folder"),
        ("out", "link out of the root"),
        ("inside.png", None),
        ("deep/../b.png", None),
    ],
)
def test_a_table_names_no_file_beyond_its_folder(tmp_path: Path, written: str, reason: str | None) -> None:
    draw(tmp_path / "root/a.png", tmp_path / "root/b.png", tmp_path / "root/deep/c.png", tmp_path / "secret/x.png")
    (tmp_path / "root/out.png").symlink_to(tmp_path / "secret/x.png")
    (tmp_path / "root/elsewhere").symlink_to(tmp_path / "secret")
    (tmp_path / "root/inside.png").symlink_to(tmp_path / "root/deep/c.png")
    (tmp_path / "root/table.csv").write_text(f"image,label\na.png,covid\n{written},other\n")
    manifest = read(tmp_path, kind="table", root="root/table.csv")
    assert manifest.dropped["reason"].tolist() == ([] if reason is None else [reason])
    assert len(manifest.records) == (2 if reason is None else 1)


def test_the_folder_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    draw(tmp_path / "disk/sick/a.png", tmp_path / "disk/well/b.png")
    (tmp_path / "disk/.table.csv").write_text("image,label\nsick/a.png,covid\nwell/b.png,other\n")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    for options in ({"kind": "class_folders", "root": "data"}, {"kind": "table", "root": "data/.table.csv"}):
        manifest = read(tmp_path, **options)
        assert manifest.records["image"].tolist() == ["sick/a.png", "well/b.png"]
        assert set(manifest.dropped["reason"]) <= {"hidden"}


def test_metadata_leads_to_no_file_outside_either(tmp_path: Path) -> None:
    draw(tmp_path / "root/images/a.png", tmp_path / "secret/x.png")
    (tmp_path / "root/images/x.png").symlink_to(tmp_path / "secret/x.png")
    rows = "1,COVID-19,PA,a.png\n2,Normal,PA,x.png\n3,Normal,PA,../../secret/x.png\n"
    (tmp_path / "root/metadata.csv").write_text(f"patientid,finding,view,filename\n{rows}")
    manifest = read(tmp_path, kind="covid_chestxray", root="root")
    assert manifest.dropped["reason"].tolist() == ["link out of the root", "outside the folder"]


def test_a_folder_of_nothing_but_links_ends_with_the_reasons(tmp_path: Path) -> None:
    draw(tmp_path / "secret/x.png")
    (tmp_path / "root/sick").mkdir(parents=True)
    (tmp_path / "root/sick/x.png").symlink_to(tmp_path / "secret/x.png")
    with pytest.raises(DataError, match="1 dropped: link out of the root"):
        read(tmp_path, kind="class_folders", root="root")
