from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from cxr.audit.shortcut_probes import MIN_PATIENTS, Probe, ShortcutProbes, probe_shortcuts
from cxr.audit.shortcut_table import shortcuts_table
from cxr.images.cache import usable_cores
from cxr.sources.manifest import Manifest
from cxr.sources.reading import read_sources

CLASSES = {"covid": ["COVID-19"], "other": ["rest"]}


def phantom(folder: Path, **options: Any) -> Manifest:
    source = {"kind": "phantom", "num_patients": 120, "size": 96, **options}
    return read_sources(
        {"phantom": source}, data_dir=folder, cache_dir=folder / "cache", classes=CLASSES, progress=False
    )


def folders(root: Path, **images: list[Image.Image]) -> Manifest:
    """One folder of pictures for each class, each picture of a patient of its own; PNG, or JPEG where it is RGB."""
    for name, pictures in images.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for place, picture in enumerate(pictures):
            suffix = "jpg" if picture.mode == "RGB" else "png"
            picture.save(root / name / f"{name}{place}.{suffix}")
    source = {"kind": "class_folders", "root": str(root), "patient": "none"}
    return read_sources({"ward": source}, data_dir=root, cache_dir=root.parent / "cache", progress=False)


def noise(num: int, *, mode: str = "L", height: int = 72, seed: int = 0) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (num, height, 80), dtype=np.uint8)
    return [Image.fromarray(each).convert(mode) for each in pixels]


def probe(manifest: Manifest, folder: Path, positive: str = "covid", **settings: Any) -> ShortcutProbes:
    return probe_shortcuts(
        manifest.records,
        manifest.class_names,
        positive,
        folder / "cache",
        **{"num_resamples": 300, "progress": False, **settings},
    )


def named(found: ShortcutProbes) -> dict[str, Probe]:
    return {each.name: each for each in found.probes}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ShortcutProbes]:
    """A phantom with the marker, and what was found in it."""
    folder = tmp_path_factory.mktemp("planted")
    manifest = phantom(folder, marker=0.9)
    return manifest, probe(manifest, folder)


def test_the_planted_marker_is_flagged_where_it_stands(planted: tuple[Manifest, ShortcutProbes]) -> None:
    manifest, found = planted
    assert {each.name for each in found.flagged} == {"border", "without lungs"}
    assert (found.images, found.patients) == (len(manifest.records), manifest.records["group"].nunique())
    assert found.positives == (manifest.records["label"] == "covid").sum()
    for each in found.flagged:
        assert each.share is not None
        whole = named(found)["thumbnail"].auroc["value"]
        assert each.share["value"] == pytest.approx((each.auroc["value"] - 0.5) / (whole - 0.5))
        assert 0.5 < each.share["low"] < each.share["value"] < each.share["high"]
        assert each.auroc["low"] < each.auroc["value"] < each.auroc["high"]


@pytest.mark.parametrize("seed", [0, 1])
def test_without_the_marker_nothing_is_flagged_though_the_disease_is_seen(tmp_path: Path, seed: int) -> None:
    found = probe(phantom(tmp_path, seed=seed), tmp_path)
    assert found.flagged == []
    assert named(found)["thumbnail"].auroc["low"] > 0.8
    assert "source" not in named(found)  # there is only one


def test_files_of_two_kinds_are_flagged_though_their_pictures_are_noise(tmp_path: Path) -> None:
    manifest = folders(tmp_path / "ward", covid=noise(30, mode="RGB", height=60), other=noise(40, seed=1))
    found = probe(manifest, tmp_path)
    facts = named(found)["file facts"]
    assert facts.flagged
    assert facts.auroc["value"] == pytest.approx(1.0)
    assert facts.auroc["low"] < 1  # perfect, but of few patients
    alike = folders(tmp_path / "alike", covid=noise(30), other=noise(40, seed=1))
    found = probe(alike, tmp_path)
    assert found.flagged == []
    assert "nothing to share" in named(found)["border"].verdict
    assert "not shown to be above chance" in named(found)["thumbnail"].verdict
    assert named(found)["border"].share is not None
    assert (named(found)["border"].share or {})["value"] is None


def test_a_source_that_gives_the_label_away_is_flagged_and_told_from_its_files(tmp_path: Path) -> None:
    first = folders(tmp_path / "first", covid=noise(25), other=noise(3, seed=1))
    second = folders(tmp_path / "second", covid=noise(3, height=64, seed=2), other=noise(25, height=64, seed=3))
    records = pd.concat(
        [first.records.assign(source="first"), second.records.assign(source="second")], ignore_index=True
    )
    found = named(probe_shortcuts(records, ["covid", "other"], "covid", tmp_path / "cache", progress=False))
    # Of the pairs of a covid and another image the source puts 25 x 25 in order, and 2 x 25 x 3 are equal.
    assert found["source"].auroc["value"] == pytest.approx((625 + 75) / 28**2, abs=0.03)
    assert found["source"].flagged
    assert found["source"].source_auroc is None
    assert (found["file facts"].source_auroc or {})["value"] == pytest.approx(1.0)
    assert (found["thumbnail"].source_auroc or {})["low"] < 0.6


def test_a_rare_source_is_not_told_apart(tmp_path: Path) -> None:
    manifest = folders(tmp_path / "ward", covid=noise(20), other=noise(20, seed=1))
    records = manifest.records.assign(source=["large"] * 36 + ["small"] * 4)
    found = probe_shortcuts(records, ["covid", "other"], "covid", tmp_path / "cache", progress=False)
    assert found.sources == {"large": 36}
    told = named(found)["thumbnail"].source_auroc or {}
    assert told["value"] is None
    assert str(MIN_PATIENTS) in told["reason"]


def test_too_few_patients_give_no_number_but_a_reason(tmp_path: Path) -> None:
    manifest = folders(tmp_path / "ward", covid=noise(MIN_PATIENTS - 1, mode="RGB"), other=noise(30, seed=1))
    found = probe(manifest, tmp_path)
    for each in found.probes:
        assert each.auroc["value"] is None
        assert each.flagged is None
        assert f"{MIN_PATIENTS - 1} patients covid" in each.verdict
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False)) == found.as_dict()
    # Images of one patient are no more patients.
    enough = manifest.records.assign(group=["one"] * (MIN_PATIENTS - 1) + [f"p{n}" for n in range(30)])
    again = probe_shortcuts(enough, ["covid", "other"], "covid", tmp_path / "cache", progress=False)
    assert "1 patients covid" in again.probes[0].verdict


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    manifest = folders(tmp_path / "ward", covid=noise(15), other=noise(15, seed=1), third=noise(4, seed=2))
    broken = Path(manifest.records["path"].iloc[0])
    broken.write_bytes(broken.read_bytes()[:60])
    again = folders(tmp_path / "ward")  # read anew: a file must be what its fingerprint says
    records = again.records.copy()
    records.loc[records.index[1:3], "label"] = None
    found = probe_shortcuts(records, ["covid", "other"], "covid", tmp_path / "cache", num_resamples=50, progress=False)
    assert found.left_out == {"without a class": 6, "unreadable": 1}
    assert found.images == 34 - 7
    three = probe_shortcuts(
        again.records, ["covid", "other", "third"], "covid", tmp_path / "cache", num_resamples=50, progress=False
    )
    assert (three.images, three.positives) == (33, 14)


def test_lungs_that_somebody_drew_are_black_where_they_leave_the_region(tmp_path: Path) -> None:
    # What tells the classes apart lies outside the region of the lungs of most people, and in the masks of these.
    pictures = [np.asarray(each).copy() for each in noise(48, height=80)]
    for picture in pictures[24:]:
        picture[70:, 30:50] = 255
    drawn = [Image.fromarray(each) for each in pictures]
    manifest = folders(tmp_path / "ward", sick=drawn[24:], well=drawn[:24])
    before = probe(manifest, tmp_path, "sick")
    masks = tmp_path / "ward" / "annotations" / "lungVAE-masks"
    masks.mkdir(parents=True)
    mask = np.zeros((80, 80), np.uint8)
    mask[66:, 26:54] = 255
    for path in manifest.records["path"]:
        Image.fromarray(mask).save(masks / f"{Path(path).stem}_mask.png")
    Image.fromarray(mask).save(masks / "nobody_mask.png")

    after = probe(manifest, tmp_path, "sick")

    assert (before.masked, after.masked) == (0, 48)
    assert after.masks_left_out == {"of no image here": 1}
    assert named(before)["without lungs"].flagged
    assert not named(after)["without lungs"].flagged
    assert named(after)["without lungs"].sees.endswith("and the masks of 48 images")
    assert named(after)["thumbnail"].auroc == named(before)["thumbnail"].auroc
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(shortcuts_table(after))
    assert "left out: 1 masks of lungs (of no image here)" in console.export_text()

    mixed = replace(manifest, records=manifest.records.assign(source=["north", "south"] * 24))
    among_two = probe(mixed, tmp_path, "sick")
    assert (among_two.masked, named(among_two)["without lungs"].flagged) == (0, True)
    assert among_two.masks_left_out["would tell the source, where there are several"] == 48


def test_the_order_of_the_rows_makes_no_difference(planted: tuple[Manifest, ShortcutProbes], tmp_path: Path) -> None:
    manifest, found = planted
    for records in (manifest.records.iloc[::-1], manifest.records.sample(frac=1.0, random_state=1)):
        again = probe_shortcuts(
            records, manifest.class_names, "covid", tmp_path / "cache", num_resamples=300, progress=False
        )
        assert again == found


PROBING = """
import json, sys
import pandas as pd
from threadpoolctl import threadpool_info
from cxr.audit.shortcut_probes import probe_shortcuts

records = pd.read_pickle(sys.argv[1])
found = probe_shortcuts(records, ["covid", "other"], "covid", sys.argv[2], num_resamples=300, progress=False)
threads = max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")
print(json.dumps([threads, found.as_dict()]))
"""


def test_the_number_of_threads_makes_no_difference(planted: tuple[Manifest, ShortcutProbes], tmp_path: Path) -> None:
    manifest, found = planted
    manifest.records.to_pickle(tmp_path / "records.pickle")
    for number in (1, 3):
        many = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(number))
        command = [sys.executable, "-c", PROBING, str(tmp_path / "records.pickle"), str(tmp_path / f"cache{number}")]
        done = subprocess.run(command, env={**os.environ, **many}, capture_output=True, text=True, check=True)
        threads, again = json.loads(done.stdout)
        assert threads == min(number, usable_cores())  # the process really had so many
        assert again == json.loads(json.dumps(found.as_dict()))


def test_the_table_says_what_is_flagged_and_by_which_rule(planted: tuple[Manifest, ShortcutProbes]) -> None:
    _, found = planted
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(shortcuts_table(found))
    lines = console.export_text().splitlines()
    flagged = [line for line in lines if "FLAGGED" in line]
    assert [line.split("│")[1].strip() for line in flagged] == [each.name for each in found.flagged]
    border = named(found)["border"]
    assert any(f"{border.auroc['value']:.3f}" in line and "border" in line for line in flagged)
    assert any("share: (AUROC - 0.5)" in line for line in lines)


@pytest.mark.real_data
def test_one_real_collection_is_not_flagged_on_its_files_and_the_mixture_of_two_is(tmp_path: Path) -> None:
    folder = os.environ.get("CXR_REAL_DATA")
    if folder is None:
        pytest.skip("CXR_REAL_DATA is not set: no real radiographs to test with")
    sources: dict[str, dict[str, Any]] = {
        "covid_chestxray": {"kind": "covid_chestxray"},
        "chest_xray": {"kind": "class_folders", "root": "chest_xray", "include": ["NORMAL"], "patient": "paediatric"},
    }

    def manifest(*names: str) -> Manifest:
        chosen = {name: sources[name] for name in names}
        return read_sources(
            chosen, data_dir=folder, cache_dir=tmp_path, classes=CLASSES, views=["PA", "AP"], download=False,
            progress=False,
        )  # fmt: skip

    alone = probe(manifest("covid_chestxray"), tmp_path)
    assert alone.images > 200
    assert named(alone)["file facts"].flagged is False

    records = manifest(*sources).records
    few = records[(records["source"] != "chest_xray") | (np.arange(len(records)) % 6 == 0)]
    mixed = named(probe_shortcuts(few, list(CLASSES), "covid", tmp_path, num_resamples=300, progress=False))
    assert {name for name, each in mixed.items() if each.flagged} >= {"file facts", "source", "border"}
    assert (mixed["file facts"].source_auroc or {})["low"] > 0.9
