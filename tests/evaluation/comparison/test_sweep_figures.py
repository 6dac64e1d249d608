"""Do the figures of a sweep show every run, on fitting scales?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cxr.evaluation.comparison import sweep_figures
from cxr.evaluation.comparison.configurations import Factor, find_factors, is_full_grid, same_configuration, short_names
from cxr.evaluation.comparison.finished_runs import FinishedRun
from cxr.evaluation.comparison.sweep_figures import draw_main_effects, draw_parallel_coordinates, is_rate
from cxr.evaluation.figure_style import drawing


def run(name: str, **settings: object) -> FinishedRun:
    given = {key.replace("__", "."): value for key, value in settings.items()}
    return FinishedRun(name, Path(name), "finished", None, {"seed": 0, **given}, {}, ("val",), 1, 1.0, 10)


def grid() -> list[FinishedRun]:
    choices = itertools.product((1e-4, 1e-3), (64, 96), (("none", "none"), ("oversample", "none"), ("none", "inverse")))
    return [
        run(
            str(number),
            optimizer__lr=lr,
            data__image_size=size,
            data__batch_size=size // 4,
            balance__sampler=sampler,
            balance__weighting=weighting,
        )
        for number, (lr, size, (sampler, weighting)) in enumerate(choices)
    ]


def values(runs: list[FinishedRun]) -> dict[str, float]:
    return {one.name: 0.7 + 0.01 * place for place, one in enumerate(runs)}


@contextmanager
def kept(figures: list[Figure]) -> Iterator[None]:
    """Keeps the figures that are drawn, so that a test can look at what stands in them."""
    original = sweep_figures.drawing

    @contextmanager
    def keeping(*given: object, **named: object) -> Iterator[Figure]:
        with drawing(*given, **named) as figure:  # type: ignore[arg-type]
            figures.append(figure)
            yield figure

    sweep_figures.drawing = keeping  # type: ignore[assignment]
    try:
        yield
    finally:
        sweep_figures.drawing = original


def test_settings_that_change_together_are_one_factor_and_balance_is_one_question() -> None:
    factors = find_factors(grid())
    assert [(factor.name, factor.also, factor.levels) for factor in factors] == [
        ("lr", (), [1e-4, 1e-3]),
        ("image_size", ("batch_size",), [64, 96]),
        ("balance", (), ["none", "oversample", "inverse"]),
    ]
    assert is_full_grid(factors)
    assert not is_full_grid(find_factors(grid()[:-1]))


def test_names_are_as_short_as_they_can_be_and_no_shorter() -> None:
    assert short_names(["optimizer.name", "model.name", "optimizer.lr"]) == {
        "optimizer.name": "optimizer.name",
        "model.name": "model.name",
        "optimizer.lr": "lr",
    }


def test_true_is_not_one() -> None:
    together = same_configuration([run("0", a=1), run("1", a=True), run("2", a=1.0), run("3", a=1)])
    assert [[one.name for one in group] for group in together] == [["0", "3"], ["1"], ["2"]]


@pytest.mark.parametrize(("numbers", "expected"), [([1e-4, 1e-3], True), ([64, 96], False), ([0, 1e-3], False)])
def test_rates_get_a_logarithmic_scale(numbers: list[float], expected: bool) -> None:
    assert is_rate(numbers) is expected


def test_main_effects_show_every_run_and_the_mean(tmp_path: Path) -> None:
    runs, figures = grid(), []
    scores = values(runs)
    with kept(figures):
        assert draw_main_effects(find_factors(runs), scores, tmp_path / "m.png", metric="AUROC", full_grid=True)
    panels = [axes for axes in figures[0].axes if axes.axison]
    assert [axes.get_xscale() for axes in panels] == ["log", "linear", "linear"]
    for axes in panels:
        points = [y for line in axes.lines if line.get_marker() == "o" for y in line.get_ydata()]
        assert sorted(points) == pytest.approx(sorted(scores.values()))
    means = next(line for line in panels[0].lines if line.get_marker() == "_")
    low_rates = [scores[one.name] for one in runs if one.settings["optimizer.lr"] == 1e-4]
    assert means.get_xdata() == pytest.approx([1e-4, 1e-3])
    assert means.get_ydata()[0] == pytest.approx(np.mean(low_rates))
    with Image.open(tmp_path / "m.png") as image:
        assert image.size[0] > 1000


def test_main_effects_of_part_of_a_grid_say_so(tmp_path: Path) -> None:
    figures: list[Figure] = []
    runs = grid()[:-1]
    with kept(figures):
        draw_main_effects(find_factors(runs), values(runs), tmp_path / "m.png", metric="AUROC", full_grid=False)
    assert "Not every combination" in str(figures[0].get_supxlabel())


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_parallel_coordinates_have_a_line_for_each_run_and_the_better_end_on_top(
    lower_is_better: bool, tmp_path: Path
) -> None:
    runs, figures = grid(), []
    with kept(figures):
        assert draw_parallel_coordinates(
            find_factors(runs), values(runs), tmp_path / "p.png", metric="metric", lower_is_better=lower_is_better
        )
    axes = figures[0].axes[0]
    lines = axes.collections
    assert len(lines) == len(runs)
    ends = [collection.get_segments()[0][-1][1] for collection in lines]
    assert len({tuple(np.round(line.get_segments()[0][0], 6)) for line in lines}) == len(runs), "none hides another"
    # Drawn from the worst to the best: the last line ends highest.
    assert ends[-1] == max(ends)
    ticks = {text.get_text(): text.xy[1] for text in axes.texts if hasattr(text, "xy")}
    assert (ticks["0.800"] < ticks["0.700"]) is lower_is_better


def test_the_lines_differ_in_grey(tmp_path: Path) -> None:
    def grey(color: str) -> float:
        return sum(share * int(color[at : at + 2], 16) for share, at in ((0.299, 1), (0.587, 3), (0.114, 5)))

    shades = sorted(grey(str(style["color"])) for style in sweep_figures.THIRDS)
    assert min(np.diff(shades)) > 30
    assert len({str(style["linestyle"]) for style in sweep_figures.THIRDS}) == 3


def test_too_little_to_draw_is_not_drawn(tmp_path: Path) -> None:
    runs = [run("0", lr=0.1), run("1", lr=0.2)]
    factors = find_factors(runs)
    assert not draw_parallel_coordinates(factors, values(runs), tmp_path / "p.png", metric="AUROC")
    assert not draw_main_effects([], {}, tmp_path / "m.png", metric="AUROC", full_grid=True)
    assert list(tmp_path.iterdir()) == []


def test_names_of_any_kind_are_drawn(tmp_path: Path) -> None:
    strange = ["$x", None, True, "a very long name of a network that nobody can read", 3, "\n"]
    runs = [run(str(place), model__name=value, lr=0.1 * (place % 2)) for place, value in enumerate(strange)]
    factors = find_factors(runs)
    assert not factors[0].is_numeric
    assert draw_main_effects(factors, values(runs), tmp_path / "m.png", metric="AUROC", full_grid=False)
    assert draw_parallel_coordinates(factors, values(runs), tmp_path / "p.png", metric="AUROC")


def test_many_runs_and_levels(tmp_path: Path) -> None:
    factors = [
        Factor("lr", (), {str(n): 10.0 ** (-4 + n / 16) for n in range(48)}),
        Factor("size", (), {str(n): n % 12 for n in range(48)}),
    ]
    scores = {str(n): 0.5 + n / 160 for n in range(48)}
    assert draw_parallel_coordinates(factors, scores, tmp_path / "p.png", metric="AUROC")
    assert draw_main_effects(factors, scores, tmp_path / "m.png", metric="AUROC", full_grid=False)
