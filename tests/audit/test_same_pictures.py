from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cxr.audit.same_pictures import SamePictures, find_same_pictures
from cxr.sources import covid_chestxray, phantom
from cxr.sources.manifest import make_records

UNRELATED = 40


def write(path: Path, grey: NDArray[np.uint8], quality: int = 95) -> str:
    cv2.imwrite(str(path), grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return str(path)


def fingerprinted(paths: list[str]) -> pd.DataFrame:
    return make_records(
        {
            "source": "s",
            "image": Path(path).name,
            "path": path,
            "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        }
        for path in paths
    )


def search(paths: list[str], cache: Path) -> SamePictures:
    return find_same_pictures(fingerprinted(paths), cache, num_workers=2, progress=False)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("drawn")
    collection = phantom.read(
        "phantom", cache_dir=folder, num_patients=UNRELATED, images_per_patient=1, size=256, progress=False
    )
    return list(collection.records["path"])


def test_different_patients_are_not_merged(drawn: list[str], tmp_path: Path) -> None:
    found = search(drawn, tmp_path)

    assert found.pairs.empty
    assert (found.num_images, found.num_pictures) == (len(drawn), len(drawn))


def test_planted_copies_are_found_and_nothing_else(drawn: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths, planted = list(drawn), {}
    for row, path in enumerate(drawn[:24]):
        grey = np.asarray(cv2.imread(path, cv2.IMREAD_GRAYSCALE), np.uint8)
        height, width = grey.shape
        if row < 4:
            copy, kind = grey, "near_duplicate"
        elif row < 8:
            copy, kind = cv2.resize(grey, (180, 180 * height // width)), "near_duplicate"
        elif row < 12:
            copy, kind = np.clip(grey * 0.8 + 30, 0, 255).astype(np.uint8), "near_duplicate"
        elif row < 16:
            width_of = [round(part * height) for part in ((0.1, 0, 0.05, 0.02), (0.06,) * 4)[row % 2]]
            copy = cv2.copyMakeBorder(grey, *width_of, cv2.BORDER_CONSTANT, value=(0, 255, 120, 255)[row - 12])
            kind = "near_duplicate"
        elif row < 20:  # the same word at the same place of four people
            copy, kind = (
                cv2.putText(grey.copy(), "PORTABLE", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2),
                "near_duplicate",
            )
        else:
            side = (0.6, 0.7, 0.8, 0.9)[row - 20]
            high, wide = round(height * side), round(width * side)
            top, left = rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1)
            copy, kind = grey[top : top + high, left : left + wide], "crop"
        planted[row, len(paths)] = kind
        paths.append(write(tmp_path / f"{row}.jpg", np.asarray(copy, np.uint8), quality=60 if row < 4 else 90))

    found = search(paths, tmp_path / "cache")

    assert {(a, b): kind for a, b, kind in found.pairs[["row_a", "row_b", "kind"]].itertuples(index=False)} == planted


def test_what_is_found_depends_neither_on_the_order_nor_on_the_threads(drawn: list[str], tmp_path: Path) -> None:
    paths = list(drawn[:20])
    for row, path in enumerate(drawn[:6]):
        grey = np.asarray(cv2.imread(path, cv2.IMREAD_GRAYSCALE), np.uint8)
        copy = grey[20:230, 20:230] if row % 2 else cv2.copyMakeBorder(grey, 9, 9, 9, 9, cv2.BORDER_CONSTANT, value=255)
        paths.append(write(tmp_path / f"{row}.jpg", np.asarray(copy, np.uint8)))

    def found(order: list[str], num_workers: int) -> set[tuple[frozenset[str], str, float, float]]:
        cache = tmp_path / f"cache-{num_workers}"
        pairs = find_same_pictures(fingerprinted(order), cache, num_workers=num_workers, progress=False).pairs
        return {
            (frozenset((order[a], order[b])), kind, score, scale)
            for a, b, kind, score, scale in pairs.itertuples(index=False, name=None)
        }

    expected = found(paths, 1)
    assert len(expected) == 6
    assert found(paths[::-1], 3) == expected


def test_equal_paths_bytes_and_pixels_are_told_apart(drawn: list[str], tmp_path: Path) -> None:
    copied = shutil.copy(drawn[1], tmp_path / "copy.png")
    other_format = tmp_path / "same.bmp"
    write(other_format, np.asarray(cv2.imread(drawn[2], cv2.IMREAD_GRAYSCALE), np.uint8))
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no picture")

    found = search([*drawn[:3], drawn[0], str(copied), str(other_format), str(damaged)], tmp_path / "cache")

    pairs = list(found.pairs[["row_a", "row_b", "kind"]].itertuples(index=False, name=None))
    assert pairs == [(0, 3, "path"), (1, 4, "bytes"), (2, 5, "pixels")]
    assert [path for path, _ in found.unreadable] == [str(damaged)]


@pytest.mark.real_data
@pytest.mark.skipif("CXR_REAL_DATA" not in os.environ, reason="CXR_REAL_DATA is not set")
def test_patients_who_are_one_person_are_found(tmp_path: Path) -> None:
    root = Path(os.environ["CXR_REAL_DATA"]) / "covid-chestxray-dataset"
    records = covid_chestxray.read("covid", root).records
    found = search(list(records["path"]), tmp_path)
    patients = records["patient"].to_numpy()
    linked = {frozenset((patients[a], patients[b])) for a, b in found.pairs[["row_a", "row_b"]].to_numpy()}

    present = set(patients)
    known = [("97", "178"), ("78", "201"), ("137", "202"), ("192", "196"), ("285", "339"), ("287", "340")]
    expected = {frozenset(pair) for pair in known if present.issuperset(pair)}
    assert expected
    assert expected <= linked
