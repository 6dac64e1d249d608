from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.evaluation.saliency.figures import Panel, draw_panels


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype=float)


def panel(saliency: np.ndarray | None = None, *, lungs: bool = False, caption: str = "covid: 0.9") -> Panel:
    image = np.full((64, 64), 150, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[10:50, 10:25] = mask[10:50, 40:55] = True
    saliency = np.ones((64, 64), np.float32) if saliency is None else saliency
    return Panel(image, saliency, mask if lungs else None, (caption, "label: covid", "x.png"))


def halves(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of the plain radiograph and of the one below it, for a figure of one panel."""
    pixels = grey(path)
    rows = np.flatnonzero((pixels < 250).mean(axis=1) > 0.5)
    breaks = np.flatnonzero(np.diff(rows) > 5)
    top, below = rows[: breaks[0] + 1], rows[breaks[0] + 1 :]
    columns = np.flatnonzero((pixels[top] < 250).mean(axis=0) > 0.9)
    return pixels[np.ix_(top, columns)], pixels[np.ix_(below, columns)]


@pytest.mark.parametrize("number", [1, 4])
def test_panels_are_a_png_with_a_clear_margin(number: int, tmp_path: Path) -> None:
    path = tmp_path / "figures" / "panels.png"
    draw_panels([panel(lungs=place % 2 == 0) for place in range(number)], path, title="t")
    pixels = grey(path)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert border.min() == 255
    assert [file.name for file in path.parent.iterdir()] == ["panels.png"]


def test_more_evidence_is_brighter_without_colour_and_the_radiograph_stays(tmp_path: Path) -> None:
    saliency = np.zeros((64, 64), np.float32)
    saliency[:, 32:] = 1.0
    draw_panels([panel(saliency)], tmp_path / "panels.png", title="t")
    plain, below = halves(tmp_path / "panels.png")
    quarter = below.shape[1] // 4
    without, with_evidence = np.median(below[:, :quarter]), np.median(below[:, -quarter:])
    assert with_evidence == pytest.approx(np.median(plain), abs=2)
    assert 0.2 * with_evidence < without < 0.7 * with_evidence


def test_lungs_are_outlined(tmp_path: Path) -> None:
    draw_panels([panel()], tmp_path / "without.png", title="t")
    draw_panels([panel(lungs=True)], tmp_path / "with.png", title="t")
    _, without = halves(tmp_path / "without.png")
    _, outlined = halves(tmp_path / "with.png")
    upper = slice(5, without.shape[0] * 3 // 4)  # below are the words of a map without contours
    assert np.ptp(without[upper, 5:-5]) < 3
    assert np.count_nonzero(outlined[upper, 5:-5] > 200) > 100


def test_a_map_of_zeros_and_odd_captions_are_drawn(tmp_path: Path) -> None:
    draw_panels([panel(np.zeros((64, 64), np.float32), caption="$x_{: \\frac <b>")], tmp_path / "zero.png", title="$_{")
    plain, below = halves(tmp_path / "zero.png")
    assert np.median(below) < 0.7 * np.median(plain)
