from __future__ import annotations

import pandas as pd
import pytest

from cxr.sources.manifest import COLUMNS, Collection, combine, make_dropped, make_records


def collection(name: str, *rows: dict[str, object], aliases: tuple[tuple[str, str], ...] = ()) -> Collection:
    full = [{"source": name, "path": f"/{name}/{row['image']}"} | row for row in rows]
    return Collection(name, make_records(full), make_dropped([]), len(full), aliases=aliases)


def groups(*collections: Collection) -> list[str]:
    return list(combine(collections, []).records["group"])


def test_missing_text_is_none_and_missing_age_is_nan() -> None:
    records = make_records([{"image": "a.png", "age": 3}, {"image": "b.png", "sex": float("nan"), "view": "PA"}])

    assert tuple(records.columns) == COLUMNS
    assert records["view"].tolist() == [None, "PA"]
    assert records["sex"].tolist() == [None, None]
    assert records["age"].tolist()[0] == 3.0
    assert pd.isna(records["age"][1])
    assert records["view"].dtype == object


def test_a_reader_that_loses_or_repeats_a_row_is_refused() -> None:
    row = {"source": "s", "row": 1, "image": "b.png", "reason": "view", "detail": None}
    records = make_records([{"image": "a.png"}])

    with pytest.raises(ValueError, match=r"kept 1 [+] dropped 1 != rows 3"):
        Collection("s", records, make_dropped([row]), 3)
    with pytest.raises(ValueError, match="distinct"):
        Collection("s", records, make_dropped([row, row]), 3)
    with pytest.raises(ValueError, match="distinct"):
        Collection("s", records, make_dropped([row | {"row": 0}]), 2)
    with pytest.raises(ValueError, match="columns"):
        Collection("s", records.drop(columns="sha256"), make_dropped([row]), 2)


def test_dropping_records_names_the_rows_that_they_came_from() -> None:
    first = {"source": "s", "row": 2, "image": "gone.png", "reason": "file missing", "detail": None}
    records = make_records([{"image": name} for name in ("one.png", "three.png", "four.png")])

    after = Collection("s", records, make_dropped([first]), 4).drop([None, "view", None], [None, "L", None])

    assert after.records["image"].tolist() == ["one.png", "four.png"]
    assert after.dropped[["row", "image", "reason"]].values.tolist() == [
        [2, "gone.png", "file missing"],
        [3, "three.png", "view"],
    ]
    assert after.dropped["detail"][1] == "L"
    again = after.drop([None, "unlabelled"], [None, None])
    assert again.dropped["row"].tolist() == [2, 3, 4]


def test_a_patient_is_one_group_within_a_source_only() -> None:
    one = collection("one", {"image": "1.png", "patient": "7"}, {"image": "2.png", "patient": "7"})
    two = collection("two", {"image": "1.png", "patient": "7"})

    assert groups(one, two) == ["one/7", "one/7", "two/7"]


def test_an_image_without_a_patient_is_a_patient_of_its_own() -> None:
    one = collection("one", {"image": "1.png"}, {"image": "2.png"}, {"image": "3.png", "patient": "p"})

    assert groups(one) == ["one/1.png", "one/2.png", "one/p"]


def test_the_same_bytes_join_patients_across_sources_and_through_others() -> None:
    one = collection(
        "b", {"image": "1", "patient": "x", "sha256": "aa"}, {"image": "2", "patient": "y", "sha256": "bb"}
    )
    two = collection(
        "a", {"image": "1", "patient": "z", "sha256": "bb"}, {"image": "2", "patient": "z", "sha256": "aa"}
    )
    apart = collection("c", {"image": "1", "patient": "w", "sha256": "cc"}, {"image": "2", "patient": "v"})

    assert groups(one, two, apart) == ["a/z", "a/z", "a/z", "a/z", "c/w", "c/v"]


def test_the_same_file_joins_patients() -> None:
    one = collection("one", {"image": "1", "patient": "x", "path": "/same"})
    two = collection("two", {"image": "9", "patient": "y", "path": "/same"})

    assert groups(one, two) == ["one/x", "one/x"]


def test_aliases_join_also_through_a_patient_of_whom_no_image_is_left() -> None:
    rows = ({"image": "1", "patient": "97"}, {"image": "2", "patient": "178"}, {"image": "3", "patient": "5"})

    assert groups(collection("s", *rows, aliases=(("97", "gone"), ("178", "gone")))) == ["s/178", "s/178", "s/5"]


def test_a_table_that_tells_sources_apart_does_not_divide_a_patient() -> None:
    one = collection(
        "t",
        {"image": "1", "patient": "7", "source": "t/first scan"},
        {"image": "2", "patient": "7", "source": "t/second scan"},
    )

    manifest = combine([one], [])

    assert manifest.records["group"].tolist() == ["t/7", "t/7"]
    assert manifest.accounting()["kept"].tolist() == [2]


def test_the_accounting_adds_up_for_every_source() -> None:
    full = collection("full", {"image": "1"}, {"image": "2"}, {"image": "3"})
    some = full.drop([None, "view", "unlabelled"], [None, None, None])
    other = collection("other", {"image": "1"}, {"image": "2"}).drop(["view", None], ["L", None])
    empty = collection("empty")

    manifest = combine([some, other, empty], ["a", "b"])
    table = manifest.accounting()

    assert table.columns.tolist() == ["source", "rows", "kept", "view", "unlabelled"]
    assert table.values.tolist() == [["full", 3, 1, 1, 1], ["other", 2, 1, 1, 0], ["empty", 0, 0, 0, 0]]
    assert manifest.rows == 5 == len(manifest.records) + len(manifest.dropped)
    assert manifest.records.index.tolist() == [0, 1]
    assert manifest.class_names == ["a", "b"]


def test_nothing_at_all_is_a_manifest_too() -> None:
    manifest = combine([collection("empty")], [])

    assert manifest.records.empty
    assert manifest.accounting().values.tolist() == [["empty", 0, 0]]


def test_two_collections_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        combine([collection("s"), collection("s")], [])
