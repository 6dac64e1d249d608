from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from cxr.errors import ConfigurationError, DataError
from cxr.sources.manifest import Collection
from cxr.sources.phantom import read

draw = partial(read, "phantom", size=64, progress=False)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def records(cache_dir: Path) -> pd.DataFrame:
    return draw(cache_dir=cache_dir, num_patients=70, prevalence=0.4).records


def pixels(path: str) -> NDArray[np.float64]:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        return np.asarray(image, dtype=np.float64)


def contents(collection: Collection) -> list[bytes]:
    return [Path(path).read_bytes() for path in collection.records["path"]]


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    pairs = scores[positive][:, None] - scores[~positive][None, :]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def marker_is_up(path: str) -> bool:
    """The tag is the one place at the picture's left edge with the brightest letter on darkest ground."""
    image = pixels(path)
    edge = image[:, : image.shape[1] // 6]
    half = len(edge) // 2
    return bool(np.sum(edge[:half] == 18) > np.sum(edge[half:] == 18))


def test_the_same_settings_give_the_same_files(tmp_path: Path) -> None:
    first, second = (draw(cache_dir=tmp_path / name, num_patients=4) for name in ("one", "two"))

    assert contents(first) == contents(second)
    assert first.records.drop(columns="path").equals(second.records.drop(columns="path"))


@pytest.mark.parametrize("other", [{"seed": 1}, {"look": "b"}, {"size": 80}])
def test_other_settings_give_other_pictures(tmp_path: Path, other: dict[str, Any]) -> None:
    one, two = draw(cache_dir=tmp_path, num_patients=3), draw(**({"cache_dir": tmp_path, "num_patients": 3} | other))

    assert not set(contents(one)) & set(contents(two))
    assert not set(one.records["path"]) & set(two.records["path"])


def test_more_patients_leave_the_first_as_they_are(tmp_path: Path) -> None:
    few = draw(cache_dir=tmp_path, num_patients=3)
    times = [Path(path).stat().st_mtime_ns for path in few.records["path"]]
    more = draw(cache_dir=tmp_path, num_patients=6)

    assert more.records.head(len(few.records)).equals(few.records)
    assert len(more.records) > len(few.records)
    assert [Path(path).stat().st_mtime_ns for path in few.records["path"]] == times


def test_the_records_say_what_is_known(records: pd.DataFrame) -> None:
    patients = records.groupby("patient")

    assert patients.ngroups == 70
    assert set(patients.size()) <= {1, 2, 3, 4}
    assert 1.7 < patients.size().mean() < 2.3
    assert set(records["finding"]) == {"COVID-19", "No Finding", "Pneumonia/Bacterial", "Tuberculosis"}
    assert set(records["view"]) == {"PA", "AP"}
    assert set(records["sex"]) == {"M", "F"}
    assert records["age"].between(18, 94).all()
    assert (patients[["finding", "sex", "age", "country"]].nunique() == 1).all(axis=None)
    assert records["label"].isna().all()
    assert records["image"].is_unique


@pytest.mark.parametrize("prevalence", [0.0, 0.3, 1.0])
def test_any_first_patients_hold_their_share_of_positives(cache_dir: Path, prevalence: float) -> None:
    records = draw(cache_dir=cache_dir, num_patients=20, images_per_patient=1, prevalence=prevalence).records

    assert len(records) == 20
    positives = (records["finding"] == "COVID-19").cumsum()
    assert (abs(positives - prevalence * np.arange(1, 21)) < 1).all()


def test_the_pictures_of_a_patient_are_alike_but_not_the_same(records: pd.DataFrame) -> None:
    images = {
        patient: [pixels(path).ravel() for path in group["path"][:2]]
        for patient, group in records.groupby("patient")
        if len(group) > 1
    }
    pairs = np.array([np.corrcoef(one, two)[0, 1] for one, two in images.values()])
    strangers = list(images.values())
    others = np.array([np.corrcoef(one[0], two[0])[0, 1] for one, two in pairwise(strangers)])

    assert pairs.max() < 0.9999
    assert np.median(pairs) > np.median(others)


def test_a_radiograph_has_dark_lungs_a_bright_middle_and_a_heart_on_the_right(records: pd.DataFrame) -> None:
    mean = np.mean([pixels(path) for path in records["path"]], axis=0)

    left_lung, middle, right_lung, abdomen = (
        mean[20:32, 14:24],
        mean[20:40, 30:34],
        mean[20:28, 42:50],
        mean[56:, 20:44],
    )
    assert left_lung.mean() + 60 < middle.mean()
    assert right_lung.mean() + 60 < middle.mean()
    assert left_lung.mean() + 60 < abdomen.mean()
    assert mean[38:44, 37:44].mean() > mean[38:44, 20:27].mean() + 30


def test_strength_brightens_patches_and_nothing_else(tmp_path: Path) -> None:
    weak, strong = (draw(cache_dir=tmp_path, num_patients=16, strength=s, prevalence=0.5) for s in (0.0, 1.0))
    same = np.array([one == two for one, two in zip(contents(weak), contents(strong), strict=True)])
    findings = strong.records["finding"]

    assert same[findings == "No Finding"].all()
    assert not same[findings != "No Finding"].any()
    gain = np.mean(
        [
            pixels(two) - pixels(one)
            for one, two, finding in zip(weak.records["path"], strong.records["path"], findings, strict=True)
            if finding == "COVID-19"
        ],
        axis=0,
    )
    # Both lungs, towards the wall and the base.
    for columns in (slice(8, 20), slice(44, 56)):
        assert gain[28:44, columns].mean() > gain[10:20, columns].mean() + 5
        assert gain[28:44, columns].mean() > gain[28:44, 28:36].mean() + 5


def test_the_label_is_in_the_lungs_and_not_in_the_brightness(records: pd.DataFrame) -> None:
    images = np.stack([pixels(path) for path in records["path"]])
    positive = (records["finding"] == "COVID-19").to_numpy()
    known = records["patient"].str[1:].astype(int).to_numpy() % 2 == 0

    assert 0.35 < auroc(images.mean(axis=(1, 2)), positive) < 0.65
    # A linear probe (ridge regression) on pictures of 16 x 16, learnt from half of the patients.
    small = images.reshape(len(images), 16, 4, 16, 4).mean(axis=(2, 4)).reshape(len(images), -1)
    small = (small - small[known].mean(axis=0)) / small[known].std(axis=0)
    target = positive[known] - positive[known].mean()
    weights = np.linalg.solve(small[known].T @ small[known] + 100 * np.eye(256), small[known].T @ target)
    assert auroc(small[~known] @ weights, positive[~known]) > 0.85


def test_the_marker_agrees_with_the_label_as_often_as_asked(cache_dir: Path, records: pd.DataFrame) -> None:
    def agreement(table: pd.DataFrame) -> float:
        return float(
            np.mean([marker_is_up(p) == (f == "COVID-19") for p, f in zip(table.path, table.finding, strict=True)])
        )

    planted = {
        marker: draw(cache_dir=cache_dir, num_patients=30, prevalence=0.4, marker=marker).records
        for marker in (0.5, 1.0)
    }
    assert 0.38 < agreement(records) < 0.62
    assert 0.62 < agreement(planted[0.5]) < 0.88
    assert agreement(planted[1.0]) == 1.0


def test_look_b_is_another_scanner(cache_dir: Path) -> None:
    image = pixels(draw(cache_dir=cache_dir, num_patients=1, look="b", size=128).records["path"][0])

    height, width = image.shape
    assert (height, width) == (102, 88)
    assert max(image[0].max(), image[-1].max(), image[:, 0].max(), image[:, -1].max()) < 20


def test_what_is_missing_or_empty_is_drawn_again_and_nothing_else(tmp_path: Path) -> None:
    collection = draw(cache_dir=tmp_path, num_patients=3, images_per_patient=2)
    before = contents(collection)
    missing, empty, *rest = (Path(path) for path in collection.records["path"])
    missing.unlink()
    empty.write_bytes(b"")
    times = [path.stat().st_mtime_ns for path in rest]

    assert contents(draw(cache_dir=tmp_path, num_patients=3, images_per_patient=2)) == before
    assert [path.stat().st_mtime_ns for path in rest] == times


def draw_in_process(cache_dir: str) -> list[str]:
    return list(draw(cache_dir=cache_dir, num_patients=8).records["path"])


def test_what_another_process_is_drawing_may_be_gone_when_it_is_looked_at(tmp_path: Path) -> None:
    drawn = draw(cache_dir=tmp_path, num_patients=3)
    folder = Path(drawn.records["path"].iloc[0]).parent
    (folder / ".half.part").symlink_to(folder / "gone")

    assert contents(draw(cache_dir=tmp_path, num_patients=3)) == contents(drawn)


def test_processes_that_draw_at_once_share_one_folder(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        answers = list(pool.map(draw_in_process, [str(tmp_path)] * 2))

    assert answers[0] == answers[1]
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert sorted(str(path) for path in folder.iterdir()) == sorted(answers[0])


def test_what_another_process_is_just_writing_does_not_matter(tmp_path: Path) -> None:
    folder = Path(draw_in_process(str(tmp_path))[0]).parent
    ended = Event()

    def write() -> None:
        while not ended.is_set():
            parts = [folder / f".{number}.part" for number in range(40)]
            for part in parts:
                part.touch()
            for part in parts:
                part.unlink()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            answers = [draw_in_process(str(tmp_path)) for _ in range(50)]
        finally:
            ended.set()
        writing.result()
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_patients", 0),
        ("num_patients", 2.5),
        ("num_patients", True),
        ("images_per_patient", 0.5),
        ("images_per_patient", 5),
        ("prevalence", 1.4),
        ("prevalence", float("nan")),
        ("strength", -0.1),
        ("strength", "high"),
        ("look", "c"),
        ("marker", 2),
        ("size", 8),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_range_is_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"source 'phantom': {key}=") as caught:
        read("phantom", cache_dir=tmp_path, **{key: value})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(DataError, match=r"cannot write the drawings to .*file"):
        draw(cache_dir=tmp_path / "file", num_patients=1)
