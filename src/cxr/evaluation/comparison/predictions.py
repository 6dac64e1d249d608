"""What did each run say of which record?  Predictions of several runs, matched by the content of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import DataError
from cxr.evaluation.comparison.finished_runs import FinishedRun
from cxr.pipeline.splits import SPLITS
from cxr.sources.spreadsheet import restored

BY_CONTENT = "the SHA-256 of each file"
BY_NAME = "source and file name"


@dataclass(frozen=True)
class Predictions:
    """The labelled images of one split, and what one network, or the networks of several folds, said of them.

    Args:
        names: the runs that it comes from.
        keys: (N,) what makes a record the same in all runs; distinct.
        probabilities: (N, C) float32, rows sum to 1.
        labels: (N,) 0..C-1.
        groups: (N,) patient group.
        class_names: (C,) sorted, so that the runs' own order has no say.
        positive: the class that AUROC and the like are about.
        threshold: the probability from which the positive class is called; None: the likeliest class is.
    """

    names: tuple[str, ...]
    keys: NDArray[np.object_]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.object_]
    class_names: tuple[str, ...]
    positive: str
    threshold: float | None

    def take(self, places: NDArray[np.intp]) -> Predictions:
        """Some of the records, in the order given."""
        return replace(
            self,
            keys=self.keys[places],
            probabilities=self.probabilities[places],
            labels=self.labels[places],
            groups=self.groups[places],
        )


@dataclass(frozen=True)
class _Read:
    predictions: Predictions  # keys are source and image
    sha256: NDArray[np.object_] | None


def read_all(
    runs: Sequence[FinishedRun], split: str
) -> tuple[dict[str, Predictions], dict[str, str], str, dict[str, int]]:
    """The predictions of every run that has any, under keys that mean the same record in all of them.

    Args:
        runs: those that can be compared.
        split: 'train', 'val', 'test' or the name of a collection.

    Returns:
        Name of the run -> predictions, in the order of the runs and each sorted by key; name -> why it has none;
        how the records were matched, `BY_CONTENT` or `BY_NAME`; name -> labelled images without a hash, where that is
        why they were matched by name.
    """
    read: dict[str, _Read] = {}
    problems: dict[str, str] = {}
    for run in runs:
        try:
            read[run.name] = _read(run, split)
        except DataError as error:
            problems[run.name] = str(error)
    hashed = {name: one.sha256 is not None for name, one in read.items()}
    by_content = all(hashed.values())
    keyed = {}
    for name, one in read.items():
        found = one.predictions
        if by_content and one.sha256 is not None:
            found = replace(found, keys=_content_keys(one.sha256, found))
        keyed[name] = found.take(np.argsort(found.keys.astype(str), kind="stable"))
    without = {} if by_content else {name: len(read[name].predictions.keys) for name in read if not hashed[name]}
    return keyed, problems, BY_CONTENT if by_content else BY_NAME, without


def pool(parts: Sequence[Predictions]) -> Predictions | None:
    """The predictions of several folds as one set; None where a record stands in two of them.

    Folds whose thresholds differ are pooled under none: only metrics of the probabilities are of use then.
    """
    keys = np.concatenate([part.keys for part in parts])
    if len(set(keys)) < len(keys) or len({(part.class_names, part.positive) for part in parts}) > 1:
        return None
    joined = Predictions(
        names=tuple(name for part in parts for name in part.names),
        keys=keys,
        probabilities=np.concatenate([part.probabilities for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        groups=np.concatenate([part.groups for part in parts]),
        class_names=parts[0].class_names,
        positive=parts[0].positive,
        threshold=parts[0].threshold if len({part.threshold for part in parts}) == 1 else None,
    )
    return joined.take(np.argsort(keys.astype(str), kind="stable"))


def _read(run: FinishedRun, split: str) -> _Read:
    path = run.directory.predictions_dir / f"{split}.csv"
    if not path.is_file():
        held = f"; it has {', '.join(run.splits)}" if run.splits else ""
        raise DataError(f"no predictions of {split}{held}")
    class_names, positive = _classes(run.metrics, split)
    # Everything as text: a patient called "007" or "NA" keeps its name.
    try:
        table = restored(pd.read_csv(path, dtype=str, na_filter=False))
    except (ValueError, OSError) as error:
        raise DataError(f"predictions/{split}.csv cannot be read ({type(error).__name__})") from None
    needed = ["image", "patient", "source", "label", "threshold", *(f"prob_{name}" for name in class_names)]
    missing = [name for name in needed if name not in table]
    if missing:
        raise DataError(f"predictions/{split}.csv has no column {missing[0]}")
    number = {name: place for place, name in enumerate(class_names)}
    table = table[table["label"] != ""].reset_index(drop=True)
    strange = sorted(set(table["label"]) - set(number))
    if strange:
        raise DataError(f"predictions/{split}.csv has the label {strange[0]!r}, which is no class of the network")
    if table.empty:
        raise DataError(f"no labelled image in {split}")
    try:
        columns = [pd.to_numeric(table[f"prob_{name}"]).to_numpy(np.float32) for name in class_names]
        thresholds = {float(text) for text in table["threshold"] if text != ""}
    except ValueError:
        raise DataError(f"predictions/{split}.csv has a probability that is no number") from None
    probabilities = np.stack(columns, axis=1)
    if not np.isfinite(probabilities).all():
        raise DataError(f"predictions/{split}.csv has a probability that is not finite")
    names = _pairs(table["source"], table["image"])
    if len(set(names)) < len(names):
        raise DataError(f"predictions/{split}.csv names an image twice")
    sha256, groups = _from_split(run, names) if split in SPLITS else (None, None)
    if "group" in table:
        groups = table["group"].to_numpy(object)
    elif groups is None:
        groups = np.where(table["patient"] == "", names, _pairs(table["source"], table["patient"]))
    predictions = Predictions(
        names=(run.name,),
        keys=names,
        probabilities=probabilities,
        labels=np.array([number[label] for label in table["label"]], dtype=np.int64),
        groups=groups,
        class_names=tuple(class_names),
        positive=positive,
        threshold=thresholds.pop() if len(thresholds) == 1 else None,
    )
    return _Read(predictions, sha256)


def _classes(metrics: Mapping[str, Any], split: str) -> tuple[list[str], str]:
    try:
        entry = metrics[split]
        return sorted(entry["confusion_matrix"]["classes"]), str(entry["positive"])
    except KeyError:
        raise DataError(f"metrics.json holds nothing of {split}: no image has a label, or evaluate again") from None
    except TypeError:
        raise DataError(f"metrics.json: {split} is no entry of metrics; evaluate again") from None


def _from_split(run: FinishedRun, names: NDArray[np.object_]) -> tuple[NDArray[np.object_] | None, Any]:
    """Hash and patient group of each image, from the run's ``split.csv``; None where it does not hold them all.

    Not for another collection: its images may bear the same names, and be others.
    """
    path = run.directory.split_path
    if not path.is_file():
        return None, None
    try:
        table = restored(pd.read_csv(path, dtype=str, na_filter=False))[["source", "image", "group", "sha256"]]
    except (ValueError, KeyError, OSError):
        return None, None
    table.index = pd.Index(_pairs(table["source"], table["image"]))
    table = table[~table.index.duplicated(keep=False)].reindex(names)
    if table["sha256"].isna().any() or (table["sha256"] == "").any():
        return None, None
    return table["sha256"].to_numpy(object), table["group"].to_numpy(object)


def _pairs(first: pd.Series[Any], second: pd.Series[Any]) -> NDArray[np.object_]:
    return (first + "\0" + second).to_numpy(object)  # no name of a file or folder can hold this character


def _content_keys(sha256: NDArray[np.object_], predictions: Predictions) -> NDArray[np.object_]:
    """Files of one content are told apart by their place among their like, the label first, then the name."""
    order = np.lexsort((predictions.keys.astype(str), predictions.labels))
    place = pd.Series(sha256[order]).groupby(sha256[order]).cumcount().to_numpy()
    keys = np.empty(len(sha256), dtype=object)
    keys[order] = [f"{text}#{number}" for text, number in zip(sha256[order], place, strict=True)]
    return keys
