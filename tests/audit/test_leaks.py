from __future__ import annotations

import pandas as pd

from cxr.audit.leaks import COLUMNS, find_leaks
from cxr.sources.manifest import make_records


def make(rows: list[tuple[str, str, str | None, str]]) -> pd.DataFrame:
    """Records from (patient, label, view, split)."""
    records = make_records(
        {
            "source": "s",
            "image": f"{number}.png",
            "patient": patient,
            "group": f"s/{patient}",
            "label": label,
            "view": view,
        }
        for number, (patient, label, view, _) in enumerate(rows)
    )
    return records.assign(split=[row[3] for row in rows])


def pairs(*rows: tuple[int, int, str, float]) -> pd.DataFrame:
    return pd.DataFrame([(*row, 1.0) for row in rows], columns=["row_a", "row_b", "kind", "score", "scale"])


def test_a_pair_on_two_sides_is_a_leak_and_says_what_differs() -> None:
    records = make([("a", "covid", "PA", "train"), ("b", "other", None, "test"), ("c", "other", "PA", "train")])
    found = find_leaks(records, pairs((0, 1, "crop", 0.97), (0, 2, "near_duplicate", 0.99)))
    assert list(found.columns) == list(COLUMNS)
    (leak,) = found.to_dict("records")
    assert (leak["image_a"], leak["image_b"], leak["kind"], leak["score"]) == ("0.png", "1.png", "crop", 0.97)
    assert (leak["split_a"], leak["split_b"]) == ("train", "test")
    assert leak["label_differs"] is True
    assert leak["view_differs"] is None  # one of them is not known


def test_a_patient_on_two_sides_is_a_leak_without_a_shared_picture() -> None:
    records = make(
        [
            ("a", "covid", "PA", "train"),
            ("a", "covid", "PA", "train"),
            ("a", "covid", "AP", "test"),
            ("a", "covid", "AP", "val"),
            ("b", "other", "PA", "test"),
        ]
    )
    found = find_leaks(records, pairs())
    assert found[["image_a", "image_b", "kind"]].to_numpy().tolist() == [
        ["0.png", "2.png", "patient"],
        ["0.png", "3.png", "patient"],
    ]
    assert found["score"].isna().all()
    assert found["view_differs"].tolist() == [True, True]


def test_a_patient_whose_picture_leaks_is_listed_once() -> None:
    records = make([("a", "covid", "PA", "train"), ("a", "covid", "PA", "test")])
    assert find_leaks(records, pairs((0, 1, "pixels", 1.0)))["kind"].tolist() == ["pixels"]


def test_an_honest_split_has_none() -> None:
    records = make([("a", "covid", "PA", "train"), ("a", "covid", "PA", "train"), ("b", "other", "PA", "test")])
    assert find_leaks(records, pairs((0, 1, "crop", 0.9))).empty
