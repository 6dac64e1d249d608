from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.evaluation.subgroups.dependence import dependence_table
from cxr.evaluation.subgroups.figures import draw_dependence, draw_subgroups
from cxr.evaluation.subgroups.subgroups import subgroup_table

CLASSES = ["covid", "bacterial pneumonia of the left lower lobe, $x_{"]


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype=float)


def data(num_values: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=900)
    names = [f"$\\frac{number} a hospital with a very long name, in the north of the country" for number in range(30)]
    frame = pd.DataFrame(
        {
            "group": np.arange(900).astype(str),
            "sex": np.array(["F", "M"])[generator.integers(2, size=900)],
            "age": generator.uniform(10, 95, 900),
            "view": np.array(names)[np.minimum(generator.geometric(0.2, 900), num_values)],
            "source": None,
        }
    )
    score = np.clip(generator.normal(0.4 + 0.2 * (labels == 0), 0.15), 0, 1)
    return frame, labels, np.column_stack([score, 1 - score]).astype(np.float32)


def rows_of(columns: list[str]) -> list[dict[str, Any]]:
    frame, labels, probabilities = data(25)
    return subgroup_table(frame, probabilities, labels, CLASSES, "covid", columns=columns, num_resamples=50)


def assert_drawn(path: Path) -> None:
    pixels = grey(path)
    assert (pixels < 100).mean() > 0.003
    # Anything in the outermost pixels would be a text that runs over the edge.
    assert np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).min() == 255
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("columns", [["sex"], ["source"], ["sex", "age", "view", "source"]])
@pytest.mark.parametrize("metric", ["auroc", "specificity"])
def test_forest_stays_within_its_edges(columns: list[str], metric: str, tmp_path: Path) -> None:
    path = tmp_path / "figures" / "forest.png"
    overall = None if columns == ["source"] else 0.8
    assert draw_subgroups(rows_of(columns), path, metric=metric, title="Subgroups", overall=overall)
    assert_drawn(path)


def test_what_is_too_few_has_less_ink_than_what_is_measured(tmp_path: Path) -> None:
    rows = rows_of(["sex"])
    draw_subgroups(rows, tmp_path / "measured.png", metric="auroc", title="t", overall=0.8)
    reason = "too few: 3 images (20 are needed)"
    for row in rows:
        row["estimate"] = {"value": None, "low": None, "high": None, "method": None, "reason": reason}
        row["note"] = reason
    draw_subgroups(rows, tmp_path / "few.png", metric="auroc", title="t", overall=0.8)
    measured, few = ((grey(tmp_path / f"{name}.png") < 60).sum() for name in ("measured", "few"))
    assert few < 0.75 * measured


def test_a_difference_that_remains_is_seen_without_colour(tmp_path: Path) -> None:
    rows = rows_of(["sex"])
    ink = []
    for remains in (False, True):
        rows[0]["difference"]["remains"] = remains
        draw_subgroups(rows, tmp_path / "forest.png", metric="auroc", title="t", overall=None)
        top = grey(tmp_path / "forest.png")
        ink.append((top[: len(top) * 2 // 3] < 60).sum())
    assert ink[1] > ink[0] + 20


@pytest.mark.parametrize("columns", [["sex"], ["source"], ["sex", "age", "view", "source"]])
def test_dependence_stays_within_its_edges(columns: list[str], tmp_path: Path) -> None:
    frame, labels, _ = data(25)
    path = tmp_path / "figures" / "dependence.png"
    entries = dependence_table(frame, labels, CLASSES, columns=columns, num_resamples=50)
    assert draw_dependence(entries, path, title="What goes with the class")
    assert_drawn(path)


def test_bars_side_by_side_differ_in_grey(tmp_path: Path) -> None:
    labels = np.arange(120) % 2
    frame = pd.DataFrame({"group": np.arange(120).astype(str), "view": [f"v{n}" for n in np.arange(120) // 2 % 6]})
    entries = dependence_table(frame, labels, ["a", "b"], columns=["view"], num_resamples=20)
    draw_dependence(entries, tmp_path / "bars.png", title="t")
    # A row of pixels that crosses a bar near its upper edge, above the numbers: six shades of equal length.
    for row in grey(tmp_path / "bars.png"):
        shades = [value for value, length in runs(row) if length > 60 and value < 250]
        if len(shades) == 6:
            assert np.abs(np.diff(shades)).min() > 0.25 * 255
            return
    pytest.fail("no bar of six segments was found")


def runs(row: np.ndarray) -> list[tuple[float, int]]:
    starts = np.flatnonzero(np.diff(row, prepend=-1.0))
    return list(zip(row[starts], np.diff(np.append(starts, len(row))), strict=True))


def test_nothing_to_draw_leaves_no_file(tmp_path: Path) -> None:
    assert not draw_subgroups([], tmp_path / "a.png", metric="auroc", title="t", overall=None)
    assert not draw_dependence([], tmp_path / "b.png", title="t")
    assert not list(tmp_path.iterdir())
