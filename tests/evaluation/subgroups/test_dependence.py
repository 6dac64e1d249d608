from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats.contingency import association

from cxr.errors import ConfigurationError, DataError
from cxr.evaluation.subgroups.bands import COLUMNS
from cxr.evaluation.subgroups.dependence import cramers_v, dependence_table
from cxr.sources.covid_chestxray import read
from cxr.sources.labels import assign_labels
from cxr.sources.manifest import combine

CLASSES = ["covid", "other"]


def records(**columns: Any) -> pd.DataFrame:
    length = len(next(iter(columns.values())))
    return pd.DataFrame({"group": [f"p{number}" for number in range(length)]} | columns)


def only(entries: list[dict[str, Any]]) -> dict[str, Any]:
    (entry,) = entries
    json.dumps(entry, allow_nan=False)
    return entry


@pytest.mark.parametrize("shape", [(2, 2), (2, 7), (4, 3)])
def test_the_correction_starts_from_the_v_of_scipy(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    counts = generator.poisson(40 * generator.dirichlet(np.ones(shape[1]), size=shape[0]) + 3)
    total, (rows, columns) = counts.sum(), shape
    squared = association(counts, method="cramer") ** 2 * (min(shape) - 1)
    # Bergsma (2013): phi squared less its expectation, over the corrected numbers of rows and columns.
    excess = max(0.0, squared - (rows - 1) * (columns - 1) / (total - 1))
    corrected = (rows - (rows - 1) ** 2 / (total - 1), columns - (columns - 1) ** 2 / (total - 1))
    assert cramers_v(counts) == pytest.approx(np.sqrt(excess / (min(corrected) - 1)))


def test_bounds_of_v() -> None:
    assert cramers_v(np.array([[30, 10], [60, 20]])) == 0.0
    assert cramers_v(np.array([[30, 0], [0, 20]])) == pytest.approx(1.0)
    assert cramers_v(np.array([[30, 0, 0], [0, 20, 0]])) == pytest.approx(1.0)  # an empty band is none
    assert cramers_v(np.array([[30, 0], [20, 0]])) is None


def test_where_every_image_is_a_patient_the_table_gives_that_v() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=2000)
    view = np.where(generator.random(2000) < np.where(labels == 0, 0.5, 0.8), "PA", "AP")
    entry = only(dependence_table(records(view=view), labels, CLASSES, columns=["view"]))
    counts = [[((labels == label) & (view == name)).sum() for name in ("PA", "AP")] for label in (0, 1)]
    # The number of independent images is found by resampling, so it is 2,000 but for chance.
    assert entry["association"]["value"] == pytest.approx(cramers_v(np.array(counts)), abs=0.002)
    assert entry["association"]["low"] < entry["association"]["value"] < entry["association"]["high"]
    assert (entry["association"]["n"], entry["association"]["patients"]) == (2000, 2000)


def test_counts_shares_and_verdict() -> None:
    labels = np.repeat([0, 1, -1], [100, 100, 50])
    view = ["PA"] * 50 + ["AP"] * 30 + ["AP Supine"] * 20 + ["PA"] * 81 + ["AP"] * 14 + [None] * 5 + ["PA"] * 50
    entry = only(dependence_table(records(view=view), labels, ["COVID", "other"], columns=["view"]))
    assert entry["classes"] == {
        "COVID": {"PA": 50, "AP": 30, "AP Supine": 20},
        "other": {"PA": 81, "AP": 14, "AP Supine": 0},
    }
    assert entry["missing"] == {"COVID": 0, "other": 5}
    assert entry["shares"]["other"]["PA"] == pytest.approx(81 / 95)
    assert entry["verdict"].startswith("view: PA is 50 % of COVID and 85 % of other (Cramér's V 0.")
    assert entry["verdict"].endswith("; not known for 0 % of COVID and 5 % of other")


def test_independent_columns_are_not_called_dependent() -> None:
    called, covered = 0, 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        group = np.repeat(np.arange(150), 3)
        labels = generator.integers(2, size=150)[group]
        frame = pd.DataFrame(
            {
                "group": group.astype(str),
                "sex": np.array(["F", "M"])[generator.integers(2, size=150)][group],
                "country": np.array(list("abcdefg"))[generator.integers(7, size=150)][group],
            }
        )
        for entry in dependence_table(frame, labels, CLASSES, columns=["sex", "country"], num_resamples=200):
            called += "no dependence on the class shown" not in entry["verdict"]
            covered += entry["association"]["low"] == 0.0
    # Both columns together have a chance near one in twenty, twelve times; 24 intervals miss 0 as seldom.
    assert called <= 3
    assert covered >= 20


def test_several_images_of_a_patient_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    group = np.repeat(np.arange(200), 5)
    labels = generator.integers(2, size=200)
    sex = np.where(generator.random(200) < np.where(labels == 0, 0.35, 0.65), "F", "M")
    frame = pd.DataFrame({"group": group.astype(str), "sex": sex[group]})
    grouped = only(dependence_table(frame, labels[group], CLASSES, columns=["sex"]))["association"]
    frame["group"] = [str(number) for number in range(1000)]
    alone = only(dependence_table(frame, labels[group], CLASSES, columns=["sex"]))["association"]
    assert grouped["high"] - grouped["low"] > 1.8 * (alone["high"] - alone["low"])
    assert grouped["p"] > alone["p"]


def test_a_column_that_gives_the_class_away_has_an_interval_all_the_same() -> None:
    labels = np.arange(60) % 2
    entry = only(dependence_table(records(source=np.array(["a", "b"])[labels]), labels, CLASSES, columns=["source"]))
    assert entry["association"]["value"] == pytest.approx(1.0)
    assert 0.5 < entry["association"]["low"] < 0.95
    assert entry["association"]["high"] == 1.0
    assert "a is 100 % of covid and 0 % of other" in entry["verdict"]


def test_the_most_and_the_least_of_several_classes_are_named() -> None:
    labels = np.repeat([0, 1, 2], 100)
    view = ["PA"] * 50 + ["AP"] * 50 + ["PA"] * 90 + ["AP"] * 10 + ["PA"] * 20 + ["AP"] * 80
    entry = only(dependence_table(records(view=view), labels, ["a", "b", "c"], columns=["view"]))
    assert "PA is 90 % of b and 20 % of c" in entry["verdict"]


def test_what_cannot_be_said_is_said_so() -> None:
    labels = np.repeat([0, 1], 20)
    frame = records(sex=[None] * 40, source=["phantom"] * 40, view=["PA"] * 10 + ["AP"] * 10 + [None] * 20)
    sex, source, view = dependence_table(frame, labels, CLASSES, columns=["sex", "source", "view"])
    for entry in (sex, source, view):
        assert entry["association"]["value"] is entry["association"]["p"] is None
    assert sex["verdict"] == "sex: not known for any image"
    assert source["verdict"] == "source: the same for every image (phantom)"
    assert view["verdict"].startswith("view: known for images of one class only")
    assert view["verdict"].endswith("not known for 0 % of covid and 100 % of other")


def test_wrong_columns_and_unlabelled_images_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="nearest: 'view'"):
        dependence_table(records(view=["PA"]), np.array([0]), CLASSES, columns=["views"])
    with pytest.raises(DataError, match="no image has a label"):
        dependence_table(records(view=["PA"]), np.array([-1]), CLASSES, columns=["view"])


@pytest.mark.real_data
def test_the_view_gives_the_label_of_the_real_collection_away(tmp_path: Path) -> None:
    folder = os.environ.get("CXR_REAL_DATA")
    if not folder:
        pytest.skip("CXR_REAL_DATA is not set: no real radiographs to test with")
    root = Path(folder) / "covid-chestxray-dataset"
    shutil.copy(root / "metadata.csv", tmp_path)
    with (root / "metadata.csv").open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):  # only the table is of interest: any file will do
            image = tmp_path / row["folder"] / row["filename"]
            image.parent.mkdir(exist_ok=True)
            image.write_bytes(b"")
    collection = read("covid", tmp_path, views=["PA", "AP", "AP Supine"])
    labels = assign_labels(list(collection.records["finding"]), {"covid": ["COVID-19"], "other": ["rest"]}).labels
    manifest = combine([collection], CLASSES)
    numbers = np.array([-1 if label is None else CLASSES.index(label) for label in labels])
    entries = {entry["column"]: entry for entry in dependence_table(manifest.records, numbers, CLASSES)}
    assert set(entries) == set(COLUMNS)
    view = entries["view"]
    assert 0.45 < view["shares"]["covid"]["PA"] < 0.55
    assert 0.75 < view["shares"]["other"]["PA"] < 0.85
    assert view["verdict"].startswith("view: PA is ")
    assert view["association"]["low"] > 0
