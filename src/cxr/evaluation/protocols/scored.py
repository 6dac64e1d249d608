"""What did the networks of a protocol say of the images that they had not seen, and which network of which image?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cxr.errors import DataError
from cxr.sources.spreadsheet import restored
from cxr.training.run_directory import RunDirectory

KEY = ["source", "image"]


def read_scored(pooled: Path, runs: Mapping[str, Path], positive: str) -> pd.DataFrame:
    """One row for every image that was tested.

    Args:
        pooled: the folder of the out-of-fold evaluation.
        runs: network -> its run directory.
        positive: the class that the scores are of.

    Returns:
        Indexed by source and image, sorted: ``network``, ``group``, ``country`` (None: unknown), ``is_positive``,
        ``called`` (whether the positive class was predicted), ``score``.

    Raises:
        DataError: a file is missing, or an image was tested by no network or by two.
    """
    predictions = _read(RunDirectory(pooled).predictions_dir / "test.csv")
    tested = []
    for name, run in runs.items():
        split = _read(RunDirectory(run).split_path)
        tested.append(split.loc[split["split"] == "test", [*KEY, "country"]].assign(network=name))
    networks = pd.concat(tested, ignore_index=True)
    joined = predictions.merge(networks, on=KEY, how="outer", indicator=True, validate="one_to_one")
    strange = joined[joined["_merge"] != "both"]
    if len(strange):
        first = "/".join(strange.iloc[0][KEY])
        raise DataError(
            f"{pooled}: {len(strange)} images were not both tested and scored ({first}); the runs are not those of "
            "this evaluation, score them again"
        )
    scored = pd.DataFrame(
        {
            **{name: joined[name] for name in KEY},
            "network": joined["network"],
            "group": joined["group"],
            "country": joined["country"].where(joined["country"] != "", None),
            "is_positive": joined["label"] == positive,
            "called": joined["predicted"] == positive,
            "score": pd.to_numeric(joined[f"prob_{positive}"]),
        }
    )
    return scored.set_index(KEY).sort_index()


def _read(path: Path) -> pd.DataFrame:
    """A table of a run, everything as text: a patient called "007" keeps its name."""
    try:
        return restored(pd.read_csv(path, dtype=str, na_filter=False))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
