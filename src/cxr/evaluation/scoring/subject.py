"""Which images are scored, what is known of them, and what must be said of them first?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from cxr.errors import ConfigurationError, DataError
from cxr.evaluation.scoring.checkpoint import OpenedRun
from cxr.pipeline.batch_sampler import EpochBatches
from cxr.pipeline.datamodule import CXRDataModule
from cxr.pipeline.splits import SPLITS

# Settings of another collection; all others are as in training, and lie in the checkpoint.
COLLECTION_SETTINGS = ("sources", "classes", "positive", "views", "download", "on_bad", "max_unreadable")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Subject:
    """The images of one evaluation.

    Args:
        name: 'train', 'val', 'test', or the name of another collection.
        title: the same in words.
        records: (N,) rows of the manifest; the index is the record index of the batches.
        batches: every one of the records once, unchanged, in order.
        labels: (N,) class by the network's order, -1 = unlabelled.
        class_counts: split or collection -> class -> images, of all that is known.
        majority: the class that the baseline always answers.
        majority_of: where that class is the commonest, in words.
        warnings: what puts the numbers in doubt, a sentence each.
        notes: what else must be known, a sentence each.
        run_records: the records of all splits of the training; None for another collection.
        dropped: every row of another collection that is not scored, and why; None for a split.
    """

    name: str
    title: str
    records: pd.DataFrame
    batches: DataLoader[dict[str, Tensor]]
    labels: NDArray[np.int64]
    class_counts: dict[str, dict[str, int]]
    majority: str
    majority_of: str
    warnings: list[str]
    notes: list[str]
    run_records: pd.DataFrame | None = None
    dropped: pd.DataFrame | None = None

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """The prepared images uint8 (n, 1, H, W) of n rows (counted from 0) of `records`."""
        index = self.records.index.to_numpy(np.int64)[rows]
        images: Tensor = self.batches.dataset[index]["image"]
        return images


def own_split(opened: OpenedRun, split: str, **overrides: Any) -> Subject:
    """A split of the data that the network was trained on, divided as in training.

    Args:
        opened: the run.
        split: 'train', 'val' or 'test'.
        overrides: see :meth:`OpenedRun.datamodule`.

    Raises:
        ConfigurationError: another split.
        DataError: files that are missing or are not those of the training; an empty split.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"split={split}: one of {', '.join(SPLITS)}")
    data = opened.datamodule(**overrides)
    data.setup("test")
    class_names = opened.module.class_names
    if data.class_names != class_names:
        raise DataError(f"the data now give the classes {data.class_names}, the network was trained on {class_names}")
    records = data.records[data.records["split"] == split]
    if records.empty:
        raise DataError(f"split={split}: the run kept no image for it; choose another split")
    warnings = []
    if data.leaks:
        named = f"{', '.join(data.leaks[:3])}{', ...' if len(data.leaks) > 3 else ''}"
        warnings.append(
            f"LEAK: patients on more than one side of this split: {len(data.leaks)} ({named}); "
            "the numbers are no measure of what the network does for new patients"
        )
    counts = data.class_counts
    return Subject(
        name=split,
        title={"train": "Training", "val": "Validation", "test": "Test"}[split] + " split",
        records=records,
        batches=_in_order(data, records.index),
        labels=labels_of(records, class_names),
        class_counts=counts,
        majority=max(class_names, key=counts["train"].__getitem__),
        majority_of="the training split",
        warnings=warnings,
        notes=[],
        run_records=data.records,
    )


def collection_name(settings: Mapping[str, Any], name: str | None) -> str:
    """What the results of another collection are called: as it was given, else by its sources."""
    return "_and_".join(settings.get("sources", ())) if name is None else name


def other_collection(opened: OpenedRun, settings: Mapping[str, Any], name: str | None, **overrides: Any) -> Subject:
    """Another collection, prepared as in training; all its records are scored, also those without a label.

    Args:
        opened: the run.
        settings: ``sources`` and any other of ``COLLECTION_SETTINGS``, as for `CXRDataModule`. Without ``classes``,
            those of the training; ``classes=None`` takes the findings themselves.
        name: names the results; None: the names of the sources.
        overrides: see :meth:`OpenedRun.datamodule`.

    Raises:
        ConfigurationError: a setting that the checkpoint fixes, or a name that cannot name a file.
        DataError: classes that are not the network's; they are compared by name, never by position.
    """
    unknown = [key for key in settings if key not in COLLECTION_SETTINGS]
    if unknown or "sources" not in settings:
        wrong = f"{unknown[0]} is as in training" if unknown else "sources is missing"
        raise ConfigurationError(f"data: {wrong}; another collection takes {', '.join(COLLECTION_SETTINGS)}")
    name = collection_name(settings, name)
    if FILE_NAME.fullmatch(name) is None or name in SPLITS:
        raise ConfigurationError(
            f"data_name={name!r}: names the files of the results; give letters, digits, '.', '_' and '-', and none of "
            f"{', '.join(SPLITS)}"
        )
    module = opened.module
    if settings.get("positive") not in (None, module.positive):
        raise ConfigurationError(
            f"data.positive={settings['positive']}: the network was trained with {module.positive}; leave it out"
        )
    given = {key: value for key, value in settings.items() if key != "positive"}
    data = CXRDataModule(**opened.data_settings(**overrides) | given)
    data.setup("predict")
    if not set(data.class_names) <= set(module.class_names):
        raise DataError(
            f"{name}: its classes are [{', '.join(data.class_names)}], those of the network "
            f"[{', '.join(module.class_names)}]; give data.classes with the network's names"
        )
    records, labels = data.records, labels_of(data.records, module.class_names)
    counts = {known: int((labels == number).sum()) for number, known in enumerate(module.class_names)}
    known, majority_of = opened.training_counts, "the training split"
    if not known:
        known, majority_of = Counter(counts), "this collection"
    majority = max(module.class_names, key=known.__getitem__)
    return Subject(
        name=name,
        title=name,
        records=records,
        batches=_in_order(data, records.index),
        labels=labels,
        class_counts={name: counts},
        majority=majority,
        majority_of=majority_of,
        warnings=_seen_in_training(opened, records),
        notes=[*_accounts(data), *data.notes, *_absent(counts)],
        dropped=data.dropped,
    )


def _in_order(data: CXRDataModule, index: pd.Index[int]) -> DataLoader[dict[str, Tensor]]:
    """The loader that serves all records, narrowed to some of them."""
    everything = data.predict_dataloader()
    chosen = index.to_numpy(np.int64)
    batches = EpochBatches(chosen, np.zeros_like(chosen), data.hparams["evaluation_batch_size"], shuffle=False)
    return DataLoader(everything.dataset, sampler=batches, batch_size=None, num_workers=everything.num_workers)


def labels_of(records: pd.DataFrame, class_names: Sequence[str]) -> NDArray[np.int64]:
    """(N,) class of each record by its place in `class_names`, -1 = unlabelled or of another class."""
    number = {name: place for place, name in enumerate(class_names)}
    return np.array([number.get(label, -1) for label in records["label"]], dtype=np.int64)


def _seen_in_training(opened: OpenedRun, records: pd.DataFrame) -> list[str]:
    known = opened.training_split
    seen = records["sha256"].isin(known.loc[known["split"].isin(["train", "val"]), "sha256"])
    if not seen.any():
        return []
    return [
        f"LEAK: {int(seen.sum())} of these {len(records)} images are files that the network was trained or selected "
        "on: the numbers are no measure of what it does for new patients"
    ]


def _accounts(data: CXRDataModule) -> list[str]:
    notes = []
    for line in data.accounting.to_dict("records"):
        reasons = [f"{line[key]:,} {key}" for key in data.accounting.columns[3:] if line[key]]
        dropped = f"; dropped: {', '.join(reasons)}" if reasons else ""
        notes.append(f"{line['source']}: {line['rows']:,} rows read, {line['kept']:,} kept{dropped}")
    return notes


def _absent(counts: Mapping[str, int]) -> list[str]:
    absent = [name for name, number in counts.items() if number == 0]
    if len(absent) == len(counts):
        return ["no image has a label of the network's classes: predictions only, no metrics"]
    return [f"no image of class {', '.join(absent)}"] if absent else []
