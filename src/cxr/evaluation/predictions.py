"""What did the network say of every image?  One row per image, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.training.run_directory import write_atomically

# A cell that begins so is a formula to spreadsheet programs; file names and patient ids come from strangers.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


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

    Text that begins like a formula gets an apostrophe in front; numbers stay numbers, with the nine digits that a
    float32 needs to be read back exactly.
    """
    safe = table.copy()
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = safe[column].map(defuse, na_action="ignore")
        elif safe[column].dtype == np.float32:
            safe[column] = [float(f"{number:.9g}") for number in safe[column]]
    safe.columns = pd.Index([defuse(str(column)) for column in safe.columns])
    path.parent.mkdir(parents=True, exist_ok=True)
    # Text always in quotes: a carriage return within a name would else end the row.
    write_atomically(path, safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n"))


def defuse(text: str) -> str:
    """Text that a spreadsheet program does not run: an apostrophe in front of what begins like a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
