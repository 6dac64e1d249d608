"""What did the network say of every image?  One row per image, safe to open in a spreadsheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.files import write_atomically
from cxr.sources.spreadsheet import to_csv


def predictions_table(
    records: pd.DataFrame,
    probabilities: NDArray[np.float32],
    predicted: Sequence[str],
    class_names: Sequence[str],
    threshold: float | None,
    calibrated: NDArray[np.float32] | None = None,
) -> pd.DataFrame:
    """The table of a split, in the order of its records.

    Args:
        records: (N,) rows of the manifest: columns ``image``, ``patient``, ``group``, ``source``, ``label`` (None:
            unlabelled).
        probabilities: (N, C) rows as `records`, columns as `class_names`.
        predicted: (N,) class names.
        class_names: (C,).
        threshold: the probability of the positive class from which it was predicted; None where the likeliest of
            more than two classes was.
        calibrated: (N,) calibrated probability of the positive class; None: there is no calibration.

    Returns:
        Columns image, patient, group, source, label, prob_<class> each, predicted, threshold, and, where given,
        prob_calibrated.
    """
    table = records[["image", "patient", "group", "source", "label"]].reset_index(drop=True)
    for place, name in enumerate(class_names):
        table[f"prob_{name}"] = probabilities[:, place]
    table["predicted"] = list(predicted)
    table["threshold"] = np.nan if threshold is None else threshold
    if calibrated is not None:
        table["prob_calibrated"] = calibrated
    return table


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write the table so that it is whole or absent, and no text in it runs as a formula.

    See `cxr.sources.spreadsheet.to_csv`; it is read back by `cxr.sources.spreadsheet.restored`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_csv(table))
