from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cxr.evaluation.metrics.measures import METRICS, measure
from cxr.evaluation.summary import metrics_table

ABOUT = {"positive": "covid", "majority_class": "[red]other", "majority_of": "the training split"}


def shown(split: str, entry: dict[str, Any], images: int, patients: int) -> str:
    console = Console(width=100, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(metrics_table(split, entry | {"counts": {"images": images, "patients": patients}} | ABOUT))
    return capture.get()


def row(text: str, name: str) -> list[str]:
    """The cells of the first row that begins with the name."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return next(line for line in cells if line[0] == name)


@pytest.fixture
def entry() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    labels = (np.arange(4200) % 3 == 0).astype(np.int64)
    chance = np.clip(generator.normal(0.4 + 0.2 * (labels == 0), 0.2), 0.001, 0.999).astype(np.float32)
    probabilities = np.stack([chance, 1 - chance], axis=1)
    groups = [f"p{number}" for number in np.arange(4200) // 2]
    return measure(
        probabilities, labels, groups, ["covid", "[red]other"], "covid", "[red]other",
        prevalences=[0.5, 0.5], num_resamples=50,
    )  # fmt: skip


def test_each_metric_stands_with_interval_baseline_and_its_images_and_patients(entry: dict[str, Any]) -> None:
    text = shown("test", entry, 4200, 2100)
    assert "test: 4,200 images of 2,100 patients" in text
    accuracy = entry["accuracy"]
    interval = f"{accuracy['low']:.3f} to {accuracy['high']:.3f}"
    baseline = f"{accuracy['baseline']:.3f}"
    assert row(text, "accuracy") == ["accuracy", f"{accuracy['value']:.3f}", interval, baseline, "4,200", "2,100"]
    assert row(text, "sensitivity")[-2:] == ["2,800", "2,100"]
    assert row(text, "PPV")[3] == "-"
    assert row(text, "Brier score")[3] == "0.250"
    assert max(len(line) for line in text.splitlines()) <= 100


def test_the_method_of_every_interval_is_named_once(entry: dict[str, Any]) -> None:
    text = " ".join(shown("test", entry, 4200, 2100).split())
    assert "interval of AUROC, average precision, balanced accuracy, MCC, Brier score: patient bootstrap" in text
    for name in METRICS:
        if name in entry:
            assert text.count(entry[name]["method"] + " ") <= 2
            assert entry[name]["method"] in text
    assert "baseline: always [red]other, the commonest class of the training split" in text
    assert "baseline of Brier score, log-loss: always the shares of the classes in the training split" in text


def test_what_is_undefined_and_what_has_no_interval_are_told_apart_with_the_reason() -> None:
    probabilities = np.array([[0.9, 0.1]] * 3, dtype=np.float32)
    entry = measure(probabilities, np.array([1, 1, 1]), ["a"] * 3, ["covid", "[red]other"], "covid", "[red]other")
    text = shown("test", entry, 3, 1)
    assert "test: 3 images of 1 patient" in text
    assert row(text, "accuracy") == ["accuracy", "0.000", "-", "1.000", "3", "1"]
    assert row(text, "AUROC")[1:3] == ["-", "-"]
    words = " ".join(text.split())
    assert "undefined: AUROC, average precision, balanced accuracy, sensitivity, MCC (no image of class covid)" in words
    assert (
        "no interval of accuracy, specificity, PPV, F1, Brier score, log-loss (all its images are of one patient)"
        in words
    )
