from __future__ import annotations

import numpy as np
from rich.console import Console

from cxr.evaluation.metrics import measure
from cxr.evaluation.summary import metrics_table


def test_table_shows_value_baseline_and_n_and_names_what_is_undefined() -> None:
    probabilities = np.array([[0.9, 0.1]] * 3, dtype=np.float32)
    entry = measure(probabilities, np.array([1, 1, 1]), ["covid", "[red]other"], "covid", "[red]other")
    entry |= {
        "counts": {"images": 3, "patients": 1},
        "positive": "covid",
        "majority_class": "[red]other",
        "majority_of": "x",
    }
    console = Console(width=100, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(metrics_table("test", entry))
    text = capture.get()
    assert "test: 3 images of 1 patient" in text
    assert "always [red]other, the commonest class of x" in text
    accuracy = next(line for line in text.splitlines() if " accuracy" in line and "balanced" not in line)
    assert accuracy.replace("│", " ").split() == ["accuracy", "0.000", "1.000", "3"]
    auroc = next(line for line in text.splitlines() if "AUROC" in line and "undefined" not in line)
    assert auroc.replace("│", " ").split()[:2] == ["AUROC", "-"]
    assert "(no image of class covid)" in " ".join(text.split())
