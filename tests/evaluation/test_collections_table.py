from __future__ import annotations

import io
from typing import Any

import numpy as np
from rich.console import Console

from cxr.evaluation.collections_table import collections_table
from cxr.evaluation.metrics.measures import measure


def entry(seed: int, number: int, share: float = 0.5) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    labels = (generator.random(number) >= share).astype(np.int64)
    first = np.clip(0.5 + 0.2 * (labels == 0) + 0.2 * generator.standard_normal(number), 0.01, 0.99).astype(np.float32)
    groups = [str(place) for place in range(number)]
    found = measure(np.stack([first, 1 - first], axis=1), labels, groups, ["sick", "well"], "sick", "well")
    return {**found, "counts": {"images": number, "patients": number, "positives": int((labels == 0).sum())}}


def lines(entries: dict[str, Any]) -> list[str]:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as capture:
        console.print(collections_table("outputs/run", entries))
    return [line for line in capture.get().splitlines() if "internal" in line or "external" in line]


def test_the_runs_own_splits_come_first_and_every_value_has_its_interval() -> None:
    entries = {"hospital": entry(0, 80), "val": entry(1, 60), "test": entry(2, 70)}
    shown = lines(entries)
    assert [line.split()[1] for line in shown] == ["test", "val", "hospital"]
    assert ["external" in line for line in shown] == [False, False, True]
    auroc = entries["hospital"]["auroc"]
    assert f"{auroc['value']:.3f} ({auroc['low']:.3f}-{auroc['high']:.3f})" in shown[2]


def test_what_is_undefined_is_said_to_be() -> None:
    (line,) = lines({"hospital": entry(0, 30, share=0.0)})
    assert "undefined" in line
