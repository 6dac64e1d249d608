"""On which images was the network surest, and wrong?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cxr.evaluation.report.figures import thumbnail
from cxr.training.run_directory import RunDirectory

SHOWN = 12


@dataclass(frozen=True, eq=False)
class Mistake:
    """An image that was called another class than its own.

    Args:
        image: its name in the collection.
        patient: as the collection calls the patient; '' where it does not say.
        label: its class.
        predicted: what it was called.
        probability: of the class that it was called, 0..1.
        pixels: (H, W) uint8 as the network saw it, or None.
        source: the collection or part of it that the image comes from.
        row: its row in the table of predictions.
    """

    image: str
    patient: str
    label: str
    predicted: str
    probability: float
    pixels: NDArray[np.uint8] | None = None
    source: str = ""
    row: int = -1


def find_mistakes(predictions: pd.DataFrame, *, number: int = SHOWN) -> list[Mistake]:
    """The wrong answers that were given with the highest probability, the surest first, without pixels.

    Args:
        predictions: (N,) rows as in ``predictions/<split>.csv``: columns image, patient, source, label, predicted and
            prob_<class> each; text or numbers. An image without a label is no mistake.
        number: at most so many.
    """
    if not {"image", "label", "predicted"} <= set(predictions.columns):
        return []
    table = predictions.reindex(columns=["image", "patient", "source", "label", "predicted"]).astype(object)
    table = table.where(table.notna(), "").astype(str)
    probabilities = _of_predicted(predictions, table["predicted"])
    wrong = (table["label"] != "") & (table["label"] != table["predicted"]) & np.isfinite(probabilities)
    rows = np.flatnonzero(wrong)
    surest = rows[np.argsort(-probabilities[rows], kind="stable")][:number]
    return [
        Mistake(
            image=table["image"].iloc[row],
            patient=table["patient"].iloc[row],
            label=table["label"].iloc[row],
            predicted=table["predicted"].iloc[row],
            probability=float(probabilities[row]),
            source=table["source"].iloc[row],
            row=int(row),
        )
        for row in surest
    ]


def keep_thumbnails(run: RunDirectory, name: str, mistakes: list[Mistake]) -> list[Mistake]:
    """Store the pixels that are given, and take those that an earlier report stored for the others.

    A report is written anew at each evaluation, which knows the pixels of its own images only.

    Args:
        run: thumbnails lie in ``figures/mistakes``.
        name: of the split or collection.
        mistakes: with pixels or without.
    """
    folder = run.figures_dir / "mistakes"
    kept = []
    for mistake in mistakes:
        path = folder / f"{_digest(name, mistake)}.png"
        if mistake.pixels is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(thumbnail(mistake.pixels))
            kept.append(mistake)
        else:
            kept.append(replace(mistake, pixels=_read(path)))
    return kept


def _of_predicted(predictions: pd.DataFrame, predicted: pd.Series[str]) -> NDArray[np.float64]:
    """(N,) the probability of the class that each image was called; NaN where no column holds it."""
    found = np.full(len(predictions), np.nan)
    for name in predicted.unique():
        if f"prob_{name}" in predictions:
            called = (predicted == name).to_numpy()
            found[called] = pd.to_numeric(predictions[f"prob_{name}"], errors="coerce").to_numpy(float)[called]
    return found


def _digest(name: str, mistake: Mistake) -> str:
    return hashlib.sha256("\0".join((name, mistake.source, mistake.image)).encode("utf-8", "replace")).hexdigest()[:20]


def _read(path: Path) -> NDArray[np.uint8] | None:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError):
        return None
