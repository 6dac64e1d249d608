"""Splits: no group is divided, no class is missing, and nothing but the seed decides."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.errors import ConfigurationError, DataError
from cxr.pipeline.splits import assign_splits, leaking_groups, strays
from cxr.sources.reading import read_sources

MakeManifest = Callable[..., pd.DataFrame]
SEEDS = range(25)


def random_patients(seed: int, num_patients: int) -> list[int]:
    """Mostly one or two images, a few patients with many: as collections are."""
    return np.minimum(np.random.default_rng(seed).geometric(0.5, num_patients), 9).tolist()


def shares(records: pd.DataFrame, split: pd.Series[str]) -> pd.DataFrame:
    return pd.crosstab(records["label"], split, normalize="index")


@pytest.mark.parametrize("seed", SEEDS)
def test_holdout_divides_no_group_and_meets_the_fractions_in_each_class(make_manifest: MakeManifest, seed: int) -> None:
    records = make_manifest({"covid": random_patients(seed, 30), "other": random_patients(seed + 1, 90)})
    split = assign_splits(records, val_fraction=0.25, test_fraction=0.2, seed=seed)
    assert leaking_groups(records, split) == []
    # No group can be cut: a class may miss its share by about the images of one patient.
    for label, line in shares(records, split).iterrows():
        slack = 5 / (records["label"] == label).sum()
        assert line["val"] == pytest.approx(0.25, abs=slack)
        assert line["test"] == pytest.approx(0.2, abs=slack)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_patients", [3, 4, 5])
def test_a_class_of_few_patients_stands_in_every_split(
    make_manifest: MakeManifest, seed: int, num_patients: int
) -> None:
    records = make_manifest({"rare": random_patients(seed, num_patients), "common": [2] * 40})
    split = assign_splits(records, seed=seed)
    assert set(split[records["label"] == "rare"]) == {"train", "val", "test"}


@pytest.mark.parametrize("seed", SEEDS)
def test_patients_with_two_findings_keep_every_class_everywhere(make_manifest: MakeManifest, seed: int) -> None:
    records = make_manifest({"a": [1] * 6, "b": [1] * 6, "c": [2] * 30})
    both = records["patient"].isin([f"{label}-{number}" for label in "ab" for number in range(4)])
    records.loc[both, "group"] = "a/" + records.loc[both, "patient"].str[-1]  # a-0 and b-0 are one person
    split = assign_splits(records, seed=seed)
    assert leaking_groups(records, split) == []
    for label in "abc":
        assert set(split[records["label"] == label]) == {"train", "val", "test"}


def test_too_few_patients_name_the_class_and_its_number(make_manifest: MakeManifest) -> None:
    records = make_manifest({"rare": [5, 5], "common": [1] * 30})
    with pytest.raises(DataError, match=r"'rare' has 2 patient groups.*3 parts"):
        assign_splits(records)
    assert set(assign_splits(records, test_fraction=0)[records["label"] == "rare"]) == {"train", "val"}


def test_without_a_test_set_nothing_is_kept_for_it(make_manifest: MakeManifest) -> None:
    split = assign_splits(make_manifest({"a": [1] * 20, "b": [1] * 20}), test_fraction=0)
    assert split.value_counts().to_dict() == {"train": 30, "val": 10}


@pytest.mark.parametrize(
    ("kind", "unit"),
    [("holdout", "group"), ("kfold", "group"), ("kfold", "patient"), ("kfold", "image"), ("random_image", "group")],
)
def test_the_order_of_the_records_does_not_matter_and_the_seed_does(
    make_manifest: MakeManifest, kind: str, unit: str
) -> None:
    records = make_manifest({"a": random_patients(0, 40), "b": random_patients(1, 40)})
    shuffled = records.sample(frac=1, random_state=0)
    split = assign_splits(records, kind=kind, unit=unit)
    pd.testing.assert_series_equal(assign_splits(shuffled, kind=kind, unit=unit).sort_index(), split)
    assert not assign_splits(records, kind=kind, unit=unit, seed=1).equals(split)
    assert assign_splits(records, kind=kind, unit=unit, seed=0).equals(split)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_folds", [2, 5])
def test_each_record_is_in_the_test_set_of_exactly_one_fold(
    make_manifest: MakeManifest, seed: int, num_folds: int
) -> None:
    records = make_manifest({"a": random_patients(seed, 20), "b": random_patients(seed + 1, 50)})
    options: dict[str, Any] = {"kind": "kfold", "num_folds": num_folds, "seed": seed, "val_fraction": 0.25}
    splits = [assign_splits(records, fold=fold, **options) for fold in range(num_folds)]
    in_test = sum((split == "test").astype(int) for split in splits)
    assert (in_test == 1).all()
    for split in splits:
        assert leaking_groups(records, split) == []
        assert set(split[records["label"] == "a"]) == {"train", "val", "test"}
        rest = split[split != "test"]
        assert (rest == "val").mean() == pytest.approx(0.25, abs=0.06)


def test_a_fold_needs_a_group_of_each_class(make_manifest: MakeManifest) -> None:
    records = make_manifest({"a": [3] * 4, "b": [1] * 50})
    with pytest.raises(DataError, match=r"'a' has 4 patient groups.*5 parts"):
        assign_splits(records, kind="kfold")


def test_random_image_divides_patients_and_they_are_reported(make_manifest: MakeManifest) -> None:
    records = make_manifest({"a": [6] * 10, "b": [1] * 60})
    split = assign_splits(records, kind="random_image")
    leaks = leaking_groups(records, split)
    assert leaks
    assert all(group.startswith("a/a-") for group in leaks)
    assert shares(records, split).loc["a", "val"] == pytest.approx(0.25, abs=0.02)


def joined_patients(records: pd.DataFrame, label: str, *numbers: int) -> pd.DataFrame:
    """The records, some patients of a class found to be one person."""
    same = records["patient"].isin([f"{label}-{number}" for number in numbers])
    records.loc[same, "group"] = f"a/{label}-{numbers[0]}"
    return records


@pytest.mark.parametrize("kind", ["holdout", "kfold"])
@pytest.mark.parametrize("seed", range(5))
def test_a_split_by_listed_patient_divides_no_patient_and_knows_nothing_of_joined_ones(
    make_manifest: MakeManifest, kind: str, seed: int
) -> None:
    records = joined_patients(make_manifest({"a": random_patients(seed, 30), "b": [2] * 40}), "a", *range(12))
    split = assign_splits(records, kind=kind, unit="patient", seed=seed)
    assert split.groupby(records["patient"]).nunique().max() == 1
    assert leaking_groups(records, split) == ["a/a-0"]
    assert leaking_groups(records, assign_splits(records, kind=kind, seed=seed)) == []


def test_the_same_id_in_two_sources_is_two_patients(make_manifest: MakeManifest) -> None:
    records = make_manifest({"a": [1] * 30, "b": [1] * 30})
    both = pd.concat([records, records.assign(source="b")], ignore_index=True)
    split = assign_splits(both, unit="patient")
    assert split.groupby(both["patient"]).nunique().max() > 1
    assert split.groupby([both["source"], both["patient"]]).nunique().max() == 1


def test_images_without_a_patient_are_patients_of_their_own(make_manifest: MakeManifest) -> None:
    records = make_manifest({"a": [5] * 10, "b": [5] * 10})
    records["patient"] = pd.Series([None] * len(records), dtype=object)
    split = assign_splits(records, unit="patient")
    assert split.equals(assign_splits(records, unit="image"))


def test_a_split_by_image_deals_out_images(make_manifest: MakeManifest) -> None:
    records = make_manifest({"a": [6] * 10, "b": [1] * 60})
    assert assign_splits(records, unit="image").equals(assign_splits(records, kind="random_image"))
    splits = [assign_splits(records, kind="kfold", unit="image", num_folds=3, fold=fold) for fold in range(3)]
    assert (sum((split == "test").astype(int) for split in splits) == 1).all()
    assert all(leaking_groups(records, split) for split in splits)
    # No unit is larger than an image, so every fold has its share of each class to the image.
    for split in splits:
        assert shares(records, split)["test"].to_numpy() == pytest.approx(1 / 3, abs=0.02)


def from_countries(records: pd.DataFrame, countries: list[str | None]) -> pd.DataFrame:
    """The patients dealt out to the countries in turn."""
    codes = pd.factorize(records["patient"])[0]
    records["country"] = pd.Series([countries[code % len(countries)] for code in codes], dtype=object)
    return records


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_out_is_the_test_set_and_nothing_else_is(make_manifest: MakeManifest, seed: int) -> None:
    records = make_manifest({"a": random_patients(seed, 40), "b": random_patients(seed + 1, 60)})
    records = from_countries(records, ["Italy", "Spain", None, "China"])
    tested = pd.Series(0, records.index)
    for value in ("Italy", "Spain", "China"):
        options: dict[str, Any] = {"kind": "leave_one_out", "column": "country", "value": value, "seed": seed}
        split = assign_splits(records, **options)
        assert ((split == "test") == (records["country"] == value)).all()
        assert leaking_groups(records, split) == []
        rest = split[split != "test"]
        assert (rest == "val").mean() == pytest.approx(0.25, abs=0.06)
        assert set(split[records["label"] == "a"]) == set(split[records["label"] == "b"]) == {"train", "val", "test"}
        shuffled = records.sample(frac=1, random_state=0)
        pd.testing.assert_series_equal(assign_splits(shuffled, **options).sort_index(), split)
        tested += split == "test"
    assert (tested == records["country"].notna()).all()


def test_a_source_of_one_class_can_be_left_out_and_one_that_alone_has_a_class_cannot(
    make_manifest: MakeManifest,
) -> None:
    records = make_manifest({"a": [1] * 20, "b": [1] * 60})
    number = records["patient"].str.split("-").str[1].astype(int)
    records.loc[(records["label"] == "b") & (number >= 20), "source"] = "healthy"
    split = assign_splits(records, kind="leave_one_out", value="healthy")
    assert set(records.loc[split == "test", "label"]) == {"b"}
    with pytest.raises(DataError, match=r"value=a: without this source no image of class 'a' is left to train on"):
        assign_splits(records, kind="leave_one_out", value="a")
    with pytest.raises(DataError, match="all records are of this source"):
        assign_splits(records.assign(source="a"), kind="leave_one_out", value="a")


def test_a_value_that_nobody_has_is_refused_with_the_nearest(make_manifest: MakeManifest) -> None:
    records = from_countries(make_manifest({"a": [1] * 20, "b": [1] * 20}), ["Italy", "Spain"])
    with pytest.raises(ConfigurationError, match=r"did you mean 'Italy'.*Italy, Spain"):
        assign_splits(records, kind="leave_one_out", column="country", value="Itally")
    unknown = records.assign(country=pd.Series([None] * len(records), dtype=object))
    with pytest.raises(ConfigurationError, match="no record has a country"):
        assign_splits(unknown, kind="leave_one_out", column="country", value="Italy")


def test_records_that_would_show_a_tested_patient_in_training_are_strays(make_manifest: MakeManifest) -> None:
    records = from_countries(make_manifest({"a": [1] * 20, "b": [1] * 20}), ["Italy", "Spain"])
    records = joined_patients(records, "a", 0, 1)  # one of Italy, one of Spain
    for value, stray in (("Italy", "a-1"), ("Spain", "a-0")):
        gone = strays(records, "country", value)
        assert records.loc[gone, "patient"].tolist() == [stray]
        with pytest.raises(DataError, match=rf"1 records of another country .*{stray}-0.png"):
            assign_splits(records, kind="leave_one_out", column="country", value=value)
        split = assign_splits(records[~gone], kind="leave_one_out", column="country", value=value)
        assert leaking_groups(records[~gone], split) == []


def test_predefined_keeps_the_test_folder_and_carves_validation_by_group(make_manifest: MakeManifest) -> None:
    records = make_manifest({"a": [3] * 30, "b": [2] * 30})
    number = records["patient"].str.split("-").str[1].astype(int)
    records["predefined_split"] = np.where(number < 10, "test", "train").astype(object)
    split = assign_splits(records, kind="predefined", val_fraction=0.2)
    assert ((split == "test") == (number < 10)).all()
    assert leaking_groups(records, split) == []
    assert (split == "val").sum() / (number >= 10).sum() == pytest.approx(0.2, abs=0.02)


def test_predefined_reports_the_collections_own_leaks(make_manifest: MakeManifest) -> None:
    records = make_manifest({"a": [2] * 6, "b": [2] * 6})
    records["predefined_split"] = pd.Series(["train", "val"] * 12, dtype=object)
    split = assign_splits(records, kind="predefined")
    assert split.tolist() == ["train", "val"] * 12
    assert len(leaking_groups(records, split)) == 12


def test_predefined_refuses_records_without_a_split(make_manifest: MakeManifest) -> None:
    records = make_manifest({"a": [2] * 6, "b": [2] * 6})
    records.loc[4:, "predefined_split"] = "train"
    with pytest.raises(DataError, match="4 of 24 records have no split"):
        assign_splits(records, kind="predefined")


def saved(records: pd.DataFrame, split: pd.Series[str], path: Path) -> Path:
    records.assign(split=split)[["source", "image", "split", "sha256"]].to_csv(path, index=False)
    return path


def test_a_saved_split_comes_back(make_manifest: MakeManifest, tmp_path: Path) -> None:
    records = make_manifest({"a": [2] * 12, "b": [2] * 12})
    split = assign_splits(records, seed=3)
    path = saved(records, split, tmp_path / "split.csv")
    moved = records.assign(image="elsewhere/" + records["image"]).sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(assign_splits(records, kind="file", path=path), split)
    # Found by their bytes where they lie elsewhere now.
    pd.testing.assert_series_equal(assign_splits(moved, kind="file", path=path).sort_index(), split)


def test_a_file_that_does_not_fit_is_refused(make_manifest: MakeManifest, tmp_path: Path) -> None:
    records = make_manifest({"a": [2] * 12, "b": [2] * 12})
    split = assign_splits(records)
    more = make_manifest({"a": [2] * 12, "b": [2] * 13})
    path = saved(records, split, tmp_path / "split.csv")
    with pytest.raises(DataError, match=r"2 of 50 records are not in it \(a/b-12-0.png\)"):
        assign_splits(more, kind="file", path=path)
    with pytest.raises(DataError, match="1 of 48 files are not those"):
        assign_splits(records.assign(sha256=["other", *records["sha256"][1:]]), kind="file", path=path)
    saved(records, split.replace("val", "valid"), path)
    with pytest.raises(DataError, match="have a split like 'valid'"):
        assign_splits(records, kind="file", path=path)
    with pytest.raises(DataError, match="cannot be read"):
        assign_splits(records, kind="file", path=tmp_path / "none.csv")
    with pytest.raises(ConfigurationError, match=r"data.split.path"):
        assign_splits(records, kind="file")


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "hold-out"},
        {"val_fraction": 0.0},
        {"val_fraction": 0.6, "test_fraction": 0.4},
        {"test_fraction": -0.1},
        {"kind": "kfold", "fold": 5},
        {"num_folds": 1},
        {"seed": -1},
        {"unit": "person"},
        {"kind": "random_image", "unit": "patient"},
        {"kind": "leave_one_out"},
        {"kind": "leave_one_out", "column": "view", "value": "PA"},
    ],
)
def test_settings_out_of_range_are_refused(make_manifest: MakeManifest, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.split"):
        assign_splits(make_manifest({"a": [1] * 9, "b": [1] * 9}), **options)


@pytest.mark.real_data
@pytest.mark.skipif("CXR_REAL_DATA" not in os.environ, reason="CXR_REAL_DATA is not set")
def test_real_patients_are_never_divided(tmp_path: Path) -> None:
    manifest = read_sources(
        {"covid": {"kind": "covid_chestxray"}},
        data_dir=os.environ["CXR_REAL_DATA"],
        cache_dir=tmp_path,
        classes={"covid": ["COVID-19"], "other": ["rest"]},
        views=["PA", "AP"],
        download=False,
        progress=False,
    )
    records = manifest.records
    for seed in SEEDS:
        split = assign_splits(records, seed=seed)
        divided = records.assign(split=split)
        assert divided.groupby("patient")["split"].nunique().max() == 1
        assert divided.groupby("sha256")["split"].nunique().max() == 1
        assert shares(records, split)["val"].to_numpy() == pytest.approx(0.25, abs=0.04)
        assert shares(records, split)["test"].to_numpy() == pytest.approx(0.2, abs=0.04)
    by_image = assign_splits(records, kind="random_image")
    assert leaking_groups(records, by_image)
    for country in ("China", "Germany", "Italy", "Spain"):
        left = records[~strays(records, "country", country)]
        split = assign_splits(left, kind="leave_one_out", column="country", value=country)
        assert ((split == "test") == (left["country"] == country)).all()
        assert leaking_groups(left, split) == []
