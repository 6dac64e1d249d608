from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxr.evaluation.saliency.entry import saliency_entry
from cxr.images.lung_masks import FOLDER
from cxr.training.module import CXRModule

NUM = 14


class Counted:
    """Images that know which of their rows were asked for."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.asked: set[int] = set()

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        self.asked |= set(rows.tolist())
        return torch.from_numpy(self.images[rows])


@pytest.fixture(scope="module")
def module() -> CXRModule:
    torch.manual_seed(0)
    made = CXRModule("test_resnet", class_names=["covid", "other"], positive="covid", image_size=64, pretrained=False)
    with torch.no_grad():  # its features are never negative: there is evidence for covid in every image
        made.network.get_classifier().weight[0].fill_(1.0)
    return made.eval()


@pytest.fixture
def records(tmp_path: Path) -> pd.DataFrame:
    """Fourteen drawn images, the first twelve with a mask."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(NUM):
        image = f"images/{number:02d}.png"
        path = tmp_path / "data" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (80, 64), dtype=np.uint8)).save(path)
        if number < 12:
            mask = np.zeros((80, 64), np.uint8)
            mask[20:60, 10:50] = 255
            target = tmp_path / "data" / FOLDER / f"{number:02d}_mask.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(target)
        rows.append({"image": image, "path": str(path), "group": f"p{number}"})
    return pd.DataFrame(rows, index=range(100, 100 + NUM))  # a split has record numbers of its own


def run(
    module: CXRModule, records: pd.DataFrame, folder: Path, *, labelled: bool = True, **options: object
) -> tuple[dict, list[Path], Counted]:
    generator = np.random.default_rng(1)
    images = Counted(generator.integers(0, 256, (NUM, 1, 64, 64), dtype=np.uint8))
    of_covid = np.linspace(0.05, 0.95, NUM)
    labels = np.array([0, 1] * (NUM // 2)) if labelled else np.full(NUM, -1)
    entry, figures = saliency_entry(
        module,
        images,
        records,
        np.stack([of_covid, 1 - of_covid], axis=1).astype(np.float32),
        labels,
        ["covid", "other"],
        "covid",
        figures_dir=folder,
        name="test",
        title="Test split",
        num_panels=1,
        **options,  # type: ignore[arg-type]
    )
    return entry, figures, images


def test_entry_says_what_was_measured_and_on_how_many(module: CXRModule, records: pd.DataFrame, tmp_path: Path) -> None:
    entry, figures, _ = run(module, records, tmp_path / "figures", randomised=6)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert entry["class"] == "covid"
    assert "Grad-CAM" in entry["method"]
    assert entry["masks"] == {"files": 12, "matched": 12, "used": 12, "left_out": {}}
    assert (entry["lung_share"]["n"], entry["without_evidence"]) == (12, 0)
    # Of 80 rows the crop keeps 8 to 72, so that the lungs are 40 of its 64 rows and as many columns.
    assert entry["area_share"] == pytest.approx(40 * 40 / 64**2, abs=0.01)
    assert entry["randomisation"]["correlation"]["n"] <= 6
    assert entry["panels"] == [path.name for path in figures]
    assert [path.name for path in figures] == [
        f"test_saliency_{kind}.png"
        for kind in ("true_positives", "false_positives", "false_negatives", "true_negatives")
    ]
    assert all(path.is_file() for path in figures)


def test_only_as_many_images_as_the_limits_allow_are_read(
    module: CXRModule, records: pd.DataFrame, tmp_path: Path
) -> None:
    entry, _, images = run(module, records, tmp_path / "figures", limit=3, randomised=2)
    assert entry["masks"]["used"] == 3
    assert entry["limits"] == {"lung_share": 3, "randomisation": 2, "panels": 1}
    assert len(images.asked) <= 3 + 2 + 4


def test_without_masks_and_labels_there_is_all_else(module: CXRModule, records: pd.DataFrame, tmp_path: Path) -> None:
    for mask in (tmp_path / "data" / FOLDER).iterdir():
        mask.unlink()
    entry, figures, _ = run(module, records, tmp_path / "figures", labelled=False, randomised=2)
    assert entry["lung_share"]["value"] is None
    assert "no lung masks" in entry["lung_share"]["reason"]
    assert (entry["area_share"], entry["passed"]) == (None, None)
    assert (entry["panels"], figures) == ([], [])
    assert json.dumps(entry, allow_nan=False)


def test_the_same_images_are_chosen_every_time(module: CXRModule, records: pd.DataFrame, tmp_path: Path) -> None:
    first, _, asked = run(module, records, tmp_path / "a", labelled=False, limit=4, randomised=3)
    again, _, asked_again = run(module, records, tmp_path / "b", labelled=False, limit=4, randomised=3)
    assert again == first
    assert asked.asked == asked_again.asked
