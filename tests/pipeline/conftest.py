"""Manifests made of patients, and folders of small pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.sources.manifest import make_records


@pytest.fixture
def make_manifest() -> Callable[..., pd.DataFrame]:
    """Class name -> images of each of its patients; a patient is a group of its own."""

    def make(classes: dict[str, list[int]]) -> pd.DataFrame:
        rows = []
        for label, patients in classes.items():
            for number, num_images in enumerate(patients):
                patient = f"{label}-{number}"
                for image in range(num_images):
                    name = f"{patient}-{image}.png"
                    rows.append(
                        {
                            "source": "a",
                            "image": name,
                            "path": f"/a/{name}",
                            "finding": label,
                            "label": label,
                            "patient": patient,
                            "group": f"a/{patient}",
                            "sha256": f"bytes of {name}",
                        }
                    )
        return make_records(rows)

    return make


@pytest.fixture
def picture_folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder per class of small grey pictures, each another; the brightness tells which is which."""

    def make(classes: dict[str, int], size: int = 24) -> Path:
        root = tmp_path / "pictures"
        rng = np.random.default_rng(0)
        for name, num_images in classes.items():
            (root / name).mkdir(parents=True)
            for number in range(num_images):
                grey = rng.integers(0, 256, (size, size), np.uint8)
                Image.fromarray(grey).save(root / name / f"{Path(name).name}-{number:03d}.png")
        return root

    return make
