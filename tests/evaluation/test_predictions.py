from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.evaluation.predictions import predictions_table, write_predictions


def table_of(images: list[str], probabilities: np.ndarray, **columns: list[object]) -> pd.DataFrame:
    records = pd.DataFrame(
        {
            "image": images,
            "patient": columns.get("patient", ["p"] * len(images)),
            "group": "g",
            "source": "s",
            "label": columns.get("label", ["covid"] * len(images)),
        },
        dtype=object,
    )
    return predictions_table(records, probabilities, ["covid"] * len(images), ["covid", "other"], 0.5)


def test_text_that_begins_like_a_formula_is_defused_and_numbers_stay_numbers(tmp_path: Path) -> None:
    images = ["=1+1.png", "+a.png", "-b.png", "@c.png", "\td.png", "\re.png", "plain.png"]
    probabilities = np.full((7, 2), 0.5, dtype=np.float32)
    write_predictions(table_of(images, probabilities, patient=["=cmd()", *"234567"]), tmp_path / "test.csv")

    with (tmp_path / "test.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [*(f"'{image}" for image in images[:-1]), "plain.png"]
    assert rows[0]["patient"] == "'=cmd()"
    assert {float(row["prob_covid"]) for row in rows} == {0.5}


def test_small_and_negative_looking_numbers_are_not_defused(tmp_path: Path) -> None:
    probabilities = np.array([[1e-30, 1.0]], dtype=np.float32)
    write_predictions(table_of(["a.png"], probabilities), tmp_path / "test.csv")
    assert pd.read_csv(tmp_path / "test.csv")["prob_covid"].astype(np.float32)[0] == probabilities[0, 0]


def test_probabilities_are_read_back_exactly(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).random((200, 2)).astype(np.float32)
    write_predictions(table_of([f"{n}.png" for n in range(200)], probabilities), tmp_path / "test.csv")
    back = pd.read_csv(tmp_path / "test.csv")
    assert np.array_equal(back[["prob_covid", "prob_other"]].to_numpy(np.float32), probabilities)
    assert list(back.columns) == [
        "image",
        "patient",
        "group",
        "source",
        "label",
        "prob_covid",
        "prob_other",
        "predicted",
        "threshold",
    ]


def test_unlabelled_images_have_an_empty_label(tmp_path: Path) -> None:
    probabilities = np.full((2, 2), 0.5, dtype=np.float32)
    write_predictions(table_of(["a.png", "b.png"], probabilities, label=[None, "other"]), tmp_path / "test.csv")
    with (tmp_path / "test.csv").open(newline="", encoding="utf-8") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["", "other"]
