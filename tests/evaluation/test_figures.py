from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.evaluation.figure_style import short_name
from cxr.evaluation.figures import (
    draw_class_counts,
    draw_confusion,
    draw_precision_recall,
    draw_roc,
    draw_training_curves,
)
from cxr.evaluation.metrics.curves import Band, ThresholdRates, threshold_rates


@pytest.fixture
def rates() -> ThresholdRates:
    generator = np.random.default_rng(0)
    is_positive = generator.random(60) < 0.4
    return threshold_rates(generator.random(60), is_positive)


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype=float)


def confusion(path: Path, matrix: np.ndarray, names: list[str]) -> None:
    draw_confusion(matrix, names, path, title="test", majority=names[0])


BAND = Band(np.linspace(0, 1, 5), np.array([0.1, 0.3, 0.4, 0.6, 0.8]), np.array([0.5, 0.7, 0.9, 1.0, 1.0]))
POINTS = {"Youden": 0.4, "a rule with a very long name": 0.2, "$x_{": 2.0}

DRAWINGS: dict[str, Callable[[Path, ThresholdRates], object]] = {
    "counts": lambda path, _: draw_class_counts({"train": {"a": 9, "b": 3}, "test": {"a": 1, "b": 0}}, path),
    "confusion": lambda path, _: confusion(path, np.array([[4, 0], [3, 71]]), ["covid", "other"]),
    "confusion, a class absent": lambda path, _: confusion(path, np.array([[4, 2], [0, 0]]), ["covid", "other"]),
    "confusion, many classes": lambda path, _: confusion(
        path, np.eye(15, dtype=int), [f"class {n}" for n in range(15)]
    ),
    "roc": lambda path, rates: draw_roc(path=path, rates=rates, title="t", sides="s", auroc=0.5, threshold=0.5),
    "precision-recall": lambda path, rates: draw_precision_recall(
        path=path, rates=rates, title="t", sides="s", average_precision=0.5, prevalence=0.4, threshold=None
    ),
    "roc, all of it": lambda path, rates: draw_roc(
        rates,
        path,
        title="t",
        sides="s",
        auroc=0.5,
        threshold=0.5,
        interval=(0.4, 0.6),
        band=BAND,
        operating_points=POINTS,
    ),
    "precision-recall, all of it": lambda path, rates: draw_precision_recall(
        rates,
        path,
        title="t",
        sides="s",
        average_precision=0.5,
        prevalence=0.4,
        threshold=0.5,
        interval=(0.4, 0.6),
        band=BAND,
        operating_points=POINTS,
    ),
    "curves": lambda path, _: draw_training_curves(
        pd.DataFrame({"epoch": [0, 0, 1], "val/loss": [None, 0.7, 0.6], "lr": [1e-4, 1e-3, 1e-5]}), path, best_epoch=1
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_figure_is_a_png_with_ink_and_a_clear_margin(name: str, tmp_path: Path, rates: ThresholdRates) -> None:
    path = tmp_path / "figures" / "figure.png"
    DRAWINGS[name](path, rates)
    pixels = grey(path)
    assert (pixels < 100).mean() > 0.003
    # Anything in the outermost pixels would be a label that runs over the edge.
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert border.min() == 255
    assert [file.name for file in path.parent.iterdir()] == ["figure.png"]


def test_drawing_leaves_no_global_state(tmp_path: Path, rates: ThresholdRates) -> None:
    before = dict(mpl.rcParams)
    draw_roc(rates, tmp_path / "roc.png", title="t", sides="s", auroc=None, threshold=None)
    assert dict(mpl.rcParams) == before


def test_a_band_is_grey_on_paper_where_there_was_none(tmp_path: Path, rates: ThresholdRates) -> None:
    for name, band in (("without", None), ("with", BAND)):
        draw_roc(rates, tmp_path / f"{name}.png", title="t", sides="s", auroc=0.5, threshold=None, band=band)
    shares = [
        ((grey(tmp_path / f"{name}.png") > 200) & (grey(tmp_path / f"{name}.png") < 225)).mean()
        for name in ("without", "with")
    ]
    assert shares[1] > shares[0] + 0.03


def test_class_names_are_never_read_as_formulas(tmp_path: Path) -> None:
    confusion(tmp_path / "confusion.png", np.array([[1, 0], [0, 1]]), ["$x_{", "\\frac"])
    draw_class_counts({"train": {"$x_{": 1, "\\frac": 2}}, tmp_path / "counts.png")


def test_series_differ_in_grey(tmp_path: Path) -> None:
    history = pd.DataFrame({"epoch": range(5), "train/loss": [0.9] * 5, "val/loss": [0.2] * 5})
    draw_training_curves(history, tmp_path / "curves.png")
    pixels = grey(tmp_path / "curves.png")
    # Where the two level lines lie, the darkest row of each half is that line's own grey.
    levels = [np.median(row[(row < 200)]) for row in pixels if (row < 200).mean() > 0.4]
    assert max(levels) - min(levels) > 60


def test_stages_are_told_apart_in_every_panel(tmp_path: Path) -> None:
    history = pd.DataFrame({"epoch": range(4), "train/loss": [0.9] * 4, "lr": [1e-3] * 4})
    rates = pd.DataFrame({"epoch": [0.0, 1.0, 2.0, 3.0], "lr": [1e-3] * 4, "lr_first": [1e-4] * 4})
    columns = []
    for name, stages in (("one", [1, 1, 1, 1]), ("two", [1, 1, 2, 2])):
        draw_training_curves(history, tmp_path / f"{name}.png", rates=rates.assign(stage=stages))
        columns.append(int(((grey(tmp_path / f"{name}.png") < 235).mean(axis=0) > 0.6).sum()))
    assert columns[1] >= columns[0] + 2, "a line from top to bottom in each of the two panels"


def test_history_without_any_known_column_draws_nothing(tmp_path: Path) -> None:
    assert not draw_training_curves(pd.DataFrame({"epoch": [0, 1], "other": [1, 2]}), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_long_names_keep_both_ends() -> None:
    short = short_name("bacterial pneumonia, left lower lobe")
    assert len(short) == 22
    assert short.startswith("bacterial")
    assert short.endswith("lower lobe")
    assert short_name("covid") == "covid"
