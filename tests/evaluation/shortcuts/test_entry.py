from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from cxr.evaluation.shortcuts.entry import shortcuts_entry

SIZE, NUM = 64, 120
CORNER = (slice(0, 4), slice(0, 4))
LUNG = (slice(24, 28), slice(10, 14))


class Reader(nn.Module):
    """A network that reads the brightness of one place and nothing else."""

    def __init__(self, place: tuple[slice, slice]) -> None:
        super().__init__()
        self.place = place
        self.hparams = {"image_size": SIZE, "aspect": "crop"}

    def forward(self, image: Tensor) -> Tensor:
        score = image[:, 0, self.place[0], self.place[1]].float().mean(dim=(1, 2)) / 25.0
        return torch.stack([score, torch.full_like(score, 4.0)], dim=1)


class Rows:
    """Images that know which of their rows were asked for."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.asked: set[int] = set()

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        self.asked |= set(rows.tolist())
        return torch.from_numpy(self.images[rows])


def task(place: tuple[slice, slice], *, shift: float = 60.0, share: float = 0.4) -> SimpleNamespace:
    """Images of patients, two each; positives are brighter at the place, by so many grey levels."""
    generator = np.random.default_rng(0)
    is_positive = np.repeat(generator.random(NUM // 2) < share, 2)
    images = generator.integers(60, 100, (NUM, 1, SIZE, SIZE), dtype=np.uint8)
    levels = generator.normal(90 + shift * is_positive, 40).clip(0, 255).astype(np.uint8)
    images[:, :, place[0], place[1]] = levels[:, None, None, None]
    module = Reader(place)
    with torch.no_grad():
        probabilities = module(torch.from_numpy(images)).softmax(1).numpy()
    records = pd.DataFrame({"group": np.repeat([f"p{n}" for n in range(NUM // 2)], 2)}, index=range(500, 500 + NUM))
    labels = np.where(is_positive, 0, 1).astype(np.int64)
    return SimpleNamespace(module=module, images=images, records=records, probabilities=probabilities, labels=labels)


def run(given: SimpleNamespace, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], Rows]:
    rows = Rows(given.images)
    entry = shortcuts_entry(
        given.module,
        rows,
        given.records,
        given.probabilities,
        given.labels,
        ["covid", "other"],
        "covid",
        device=torch.device("cpu"),
        num_resamples=300,
        progress=False,
        **settings,
    )
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    return entry, {row["input"]: row for row in entry["rows"]}, rows


def test_a_network_that_reads_a_corner_keeps_everything_without_the_lungs() -> None:
    given = task(CORNER)
    entry, rows, _ = run(given)
    assert entry["auroc"]["value"] == pytest.approx(roc_auc_score(given.labels == 0, given.probabilities[:, 0]))
    assert entry["auroc"]["low"] < entry["auroc"]["value"] < entry["auroc"]["high"]
    for name in ("without lungs", "border only"):
        assert rows[name]["kept"]["value"] == pytest.approx(1.0)
        assert rows[name]["kept"]["low"] == pytest.approx(1.0)
        assert rows[name]["flagged"] is True
        assert "keeps 1.00" in rows[name]["verdict"]
    assert rows["lungs only"]["auroc"]["value"] == pytest.approx(0.5)
    assert rows["lungs only"]["kept"]["value"] == pytest.approx(0.0)
    assert rows["lungs only"]["flagged"] is None


def test_a_network_that_reads_the_lungs_keeps_nothing_without_them() -> None:
    entry, rows, _ = run(task(LUNG))
    assert rows["without lungs"]["kept"]["value"] == pytest.approx(0.0)
    assert rows["lungs only"]["kept"]["value"] == pytest.approx(1.0)
    assert rows["re-encoded"]["kept"]["value"] > 0.9
    assert [row["flagged"] for row in entry["rows"]] == [False, None, False, False, None]


def test_a_network_that_reads_what_re_encoding_wipes_out_is_flagged() -> None:
    given = task(LUNG)
    # A pattern of single pixels: its contrast, too faint for a JPEG, goes with the label; its mean does not.
    is_positive = given.labels == 0
    generator = np.random.default_rng(1)
    contrast = (generator.normal(2 + 2 * is_positive, 0.8).clip(0, 5)).astype(np.int64)
    pattern = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 2 - 1
    given.images = (128 + contrast[:, None, None] * pattern).astype(np.uint8)[:, None]

    class Fine(Reader):
        def forward(self, image: Tensor) -> Tensor:
            score = image[:, 0].float().std(dim=(1, 2)) / 2.0
            return torch.stack([score, torch.full_like(score, 4.0)], dim=1)

    given.module = Fine(LUNG)
    with torch.no_grad():
        given.probabilities = given.module(torch.from_numpy(given.images)).softmax(1).numpy()
    entry, rows, _ = run(given)
    assert entry["auroc"]["low"] > 0.8
    half = rows["re-encoded at half size"]
    assert half["kept"]["high"] < 0.8
    assert half["flagged"] is None
    assert rows["re-encoded"]["kept"]["high"] < 0.8
    assert rows["re-encoded"]["flagged"] is True


def test_no_more_images_are_asked_about_than_allowed_and_as_many_of_each_side() -> None:
    given = task(CORNER, share=0.3)
    entry, _, rows = run(given, limit=40)
    assert (entry["images"], entry["of"], entry["limit"]) == (40, NUM, 40)
    assert len(rows.asked) == 40
    asked = np.array(sorted(rows.asked))
    assert (given.labels[asked] == 0).sum() == 20
    assert entry["patients"] == given.records["group"].iloc[asked].nunique()
    again, _, _ = run(given, limit=40)
    assert again == entry
    # What the smaller side lacks the larger fills up.
    num_positives = int((given.labels == 0).sum())
    entry, _, rows = run(given, limit=2 * num_positives + 10)
    assert len(rows.asked) == 2 * num_positives + 10


def test_where_nothing_is_shown_there_is_nothing_to_keep() -> None:
    entry, rows, _ = run(task(CORNER, shift=0.0))
    assert entry["auroc"]["low"] <= 0.5
    for row in rows.values():
        assert row["kept"]["value"] is None
        assert row["flagged"] is None
        assert "not shown to be above chance" in row["verdict"]


def test_one_class_alone_gives_a_reason() -> None:
    given = task(CORNER)
    given.labels = np.ones_like(given.labels)
    entry, rows, _ = run(given)
    assert rows == {}
    assert "covid" in entry["reason"]
