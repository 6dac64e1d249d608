from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.evaluation.calibration.calibration import fit_calibration
from cxr.evaluation.calibration.figures import draw_operating_points, draw_reliability
from cxr.evaluation.calibration.metrics import measure_calibration
from cxr.evaluation.calibration.operating_point_metrics import measure_operating_points
from cxr.evaluation.calibration.operating_points import choose_operating_points
from cxr.evaluation.metrics.curves import threshold_rates

NAME = "$x_{ COVID-19, a long name \\frac"
RULES = ["youden", "sensitivity=0.95", "specificity=0.95", "fixed=0.5"]


def drawn(num_images: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(0)
    odds = generator.normal(-1, 2, num_images)
    labels = (generator.random(num_images) > 1 / (1 + np.exp(-odds))).astype(np.int64)
    scores = (1 / (1 + np.exp(-3 * odds))).astype(np.float32)
    return np.stack([scores, 1 - scores], axis=1), labels, [f"p{number // 2}" for number in range(num_images)]


def reliability(path: Path, num_images: int = 60, method: str = "temperature", all_positive: bool = False) -> None:
    before, labels, groups = drawn(num_images)
    calibration = fit_calibration(before, labels, (NAME, "other"), method=method)
    after = calibration.apply(before)
    labels = np.zeros_like(labels) if all_positive else labels
    entry = measure_calibration(before, after, labels, groups, 0, calibration, num_resamples=50)
    draw_reliability(entry, before[:, 0], after[:, 0], path, title="Test split", positive=NAME)


def operating(path: Path, num_images: int = 60, abstain: str | None = None, rules: list[str] = RULES) -> None:
    probabilities, labels, groups = drawn(num_images)
    points = choose_operating_points(probabilities, labels, 0, rules, abstain=abstain)
    entries = measure_operating_points(points, probabilities, labels, groups, 0)
    rates = threshold_rates(probabilities[:, 0], labels == 0)
    draw_operating_points(rates, entries, path, title="Test split", sides="20 of $x, 40 other")


DRAWINGS: dict[str, Callable[[Path], None]] = {
    "few images": lambda path: reliability(path, 30),
    "very few images": lambda path: reliability(path, 9),
    "many images": lambda path: reliability(path, 3000),
    "no calibration": lambda path: reliability(path, method="none"),
    "platt": lambda path: reliability(path, method="platt"),
    "isotonic": lambda path: reliability(path, method="isotonic"),
    "one side only": lambda path: reliability(path, all_positive=True),
    "points": operating,
    "points of few images": lambda path: operating(path, 12),
    "points with bands": lambda path: operating(path, 300, abstain="share=0.2"),
    "one point": lambda path: operating(path, rules=["fixed=0.5"]),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_figure_is_a_png_with_ink_and_a_clear_margin(name: str, tmp_path: Path) -> None:
    path = tmp_path / "figures" / "figure.png"
    DRAWINGS[name](path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    assert (pixels < 100).mean() > 0.003
    # Anything in the outermost pixels would be a label that runs over the edge.
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert border.min() == 255
    assert [file.name for file in path.parent.iterdir()] == ["figure.png"]


def test_calibration_gets_a_panel_of_its_own(tmp_path: Path) -> None:
    reliability(tmp_path / "both.png")
    reliability(tmp_path / "one.png", method="none")
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "one.png") as one:
        assert both.width > 1.8 * one.width


def test_sensitivity_and_specificity_differ_in_grey(tmp_path: Path) -> None:
    # All scores at the ends: both curves are level lines over nearly the whole width.
    scores = np.array([1.0] * 8 + [0.0] * 2 + [1.0] * 4 + [0.0] * 6, dtype=np.float32)
    rates = threshold_rates(scores, np.arange(20) < 10)
    draw_operating_points(rates, [], tmp_path / "levels.png", title="t", sides="s")
    with Image.open(tmp_path / "levels.png") as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    # Sensitivity .8 and specificity .6: the rows of the two lines, each in its own grey.
    levels = [np.median(row[row < 200]) for row in pixels if (row < 200).mean() > 0.4]
    assert max(levels) - min(levels) > 60
