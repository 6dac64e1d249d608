"""How do collections of radiographs become batches?"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cxr.audit.same_patient import Join
from cxr.errors import ConfigurationError, DataError
from cxr.images.cache import prepare_images
from cxr.images.prepare import Preparation
from cxr.pipeline.augmentation import Augmentation, Changes
from cxr.pipeline.bad_input import check_policy
from cxr.pipeline.balance import check_balance, class_priors, class_weights
from cxr.pipeline.batch_sampler import EpochBatches
from cxr.pipeline.contents import Contents, read_contents
from cxr.pipeline.mixing import Mixing, Mixture
from cxr.pipeline.prepared_records import PreparedRecords
from cxr.pipeline.splits import SPLITS, assign_splits, leaking_groups, match_split

Batch = dict[str, Tensor]


class CXRDataModule(pl.LightningDataModule):
    """Reads, divides and prepares radiographs, and serves them in batches.

    A batch is a dict: ``image`` uint8 (B, 1, H, W), ``label`` int64 (B,), -1 = unlabelled, ``index`` int64 (B,), the
    row of ``records``. Training batches are augmented on the device that trains, when a Trainer trains; where images
    are mixed, they also hold ``partner_label`` int64 (B,), the class of what was mixed into each image, and ``share``
    float32 (B,), how much of the image is its own. Evaluation sees every record once, as it is. ``setup`` may be called
    any number of times, by any number of processes at once.

    The hyper-parameters, the split and the groups lie in the checkpoint: ``CXRDataModule.load_from_checkpoint(path)``
    divides the same files in the same way, without another look for copies, or raises DataError where they are not
    the same files.

    Args:
        sources: name -> ``kind`` and options of a collection, see `cxr.sources.reading.read_sources`.
        data_dir: where collections are looked for.
        cache_dir: where prepared images, drawings and fingerprints are kept.
        classes: class name -> findings, in the order of the labels; None: the findings are the classes, sorted.
        positive: the class that metrics are about; None: the first.
        views: views to keep; None: all.
        download: fetch a collection that is absent, where it has a public address.
        image_size: side of the square images, pixels.
        training_sizes: side of the training images of each epoch, the last for all that follow; None: ``image_size``.
        aspect: ``crop`` or ``pad``.
        on_bad, max_unreadable: what becomes of bad rows and files, see `cxr.pipeline.bad_input.require_sound`.
        look_for_copies: compare all pictures before patients are divided, and join those who share one.
        batch_size: images in a training batch of one process.
        evaluation_batch_size: images in a batch that is only looked at, so that nothing is kept for a backward pass;
            None: four times as many as in a training batch.
        num_workers: loader processes; 0 reads in the training process and is fastest on most machines.
        split: keyword arguments of `assign_splits`.
        balance: ``sampler`` and ``weighting``, see `cxr.pipeline.balance`; ``beta``; ``allow_both``.
        augment: keyword arguments of `Augmentation` and of `Mixing`.
        seed: of order and augmentation, 0 or more.
        progress: show bars on a terminal.

    Raises:
        ConfigurationError: a setting is unknown or out of its range.
    """

    def __init__(
        self,
        sources: Mapping[str, Mapping[str, Any]],
        *,
        data_dir: str | Path = "data",
        cache_dir: str | Path = "outputs/cache",
        classes: Mapping[str, Sequence[str]] | None = None,
        positive: str | None = None,
        views: Sequence[str] | None = None,
        download: bool = True,
        image_size: int = 224,
        training_sizes: Sequence[int] | None = None,
        aspect: str = "crop",
        on_bad: str = "skip",
        max_unreadable: float = 0.01,
        look_for_copies: bool = True,
        batch_size: int = 32,
        evaluation_batch_size: int | None = None,
        num_workers: int = 0,
        split: Mapping[str, Any] | None = None,
        balance: Mapping[str, Any] | None = None,
        augment: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__()
        # The names under which a checkpoint keeps them: anything but plain types would not be read back.
        sources, data_dir, cache_dir = _plain(sources), str(data_dir), str(cache_dir)
        classes, views, training_sizes = _plain(classes), _plain(views), _plain(training_sizes)
        split, balance, augment = _plain(split or {}), _plain(balance or {}), _plain(augment or {})
        if evaluation_batch_size is None:
            evaluation_batch_size = 4 * batch_size
        self.save_hyperparameters(logger=False)

        for key, value, low in (
            ("data.batch_size", batch_size, 1),
            ("evaluation_batch_size", evaluation_batch_size, 1),
            ("data.num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < low:
                raise ConfigurationError(f"{key}: {value} is below {low}")
        check_policy(on_bad, max_unreadable)
        self._preparation = Preparation(image_size, aspect)  # type: ignore[arg-type]
        _check_names("data.split", split, assign_splits)
        _check_names("augment", augment, Augmentation, Mixing)
        _check_names("balance", balance, check_balance)
        self._balance = {"sampler": "none", "weighting": "none", "beta": 0.999, "allow_both": False, **balance}
        check_balance(**self._balance)
        mixes = inspect.signature(Mixing).parameters
        self.augmentation = Augmentation(**{name: value for name, value in augment.items() if name not in mixes})
        self.mixing = Mixing(**{name: value for name, value in augment.items() if name in mixes})

        # An evaluation deals out every record once, so that a process may have none.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._given_split: pd.DataFrame | None = None
        self._labelled: Contents | None = None
        self._everything: Contents | None = None
        self._current: Contents | None = None
        self._of_size: dict[int, PreparedRecords] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read, divide and prepare, once.

        Args:
            stage: 'predict' takes every record, labelled or not, and divides nothing; any other stage divides the
                labelled ones.

        Raises:
            DataError: files are missing or not those of the checkpoint; a class is too small to divide.
            BadInputError: rows or files are bad, more than the policy allows.
        """
        if stage == "predict":
            if self._everything is None:
                self._everything = self._read(divides=False)
            self._current = self._everything
        else:
            if self._labelled is None:
                self._labelled = self._read(divides=True)
            self._current = self._labelled

    def _read(self, *, divides: bool) -> Contents:
        taken = ("data_dir", "cache_dir", "classes", "positive", "views", "download", "on_bad", "max_unreadable")
        return read_contents(
            self.hparams["sources"],
            **{name: self.hparams[name] for name in (*taken, "look_for_copies", "split", "progress")},
            preparation=self._preparation,
            given_split=self._given_split,
            divides=divides,
        )

    def _contents(self) -> Contents:
        if self._current is None:
            raise RuntimeError("CXRDataModule: call setup() first")
        return self._current

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the labels."""
        return list(self._contents().manifest.class_names)

    @property
    def positive(self) -> str:
        """The class that metrics are about."""
        positive = self.hparams["positive"]
        return self.class_names[0] if positive is None else str(positive)

    @property
    def records(self) -> pd.DataFrame:
        """The manifest with a column ``split``; row number = record index of the batches."""
        return self._contents().manifest.records

    @property
    def dropped(self) -> pd.DataFrame:
        """Every row that is not used: source, row, image, reason, detail."""
        return self._contents().manifest.dropped

    @property
    def accounting(self) -> pd.DataFrame:
        """Rows read and kept of each source, and how many were dropped for each reason."""
        return self._contents().manifest.accounting()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the reading, a sentence each."""
        return self._contents().manifest.notes

    @property
    def pairs(self) -> pd.DataFrame | None:
        """Records that show the same picture, by row; None where nobody looked, see `Contents.pairs`."""
        return self._contents().pairs

    @property
    def joins(self) -> list[Join]:
        """The patients that became one because they share a picture."""
        return self._contents().joins

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """Split -> class -> number of images."""
        records = self.records
        return {
            split: {
                name: int(((records["split"] == split) & (records["label"] == name)).sum()) for name in self.class_names
            }
            for split in SPLITS
        }

    @property
    def class_weights(self) -> list[float] | None:
        """Weights of the training loss, or None."""
        counts = list(self.class_counts["train"].values())
        return class_weights(counts, self._balance["weighting"], beta=self._balance["beta"])

    @property
    def class_priors(self) -> list[float]:
        """Share of each class in the training images.

        Raises:
            DataError: a class without a training image.
        """
        return class_priors(list(self.class_counts["train"].values()))

    @property
    def preparation(self) -> dict[str, int | str]:
        """How the images were prepared: keyword arguments of `cxr.images.prepare.Preparation`."""
        return self._preparation.as_dict()

    @property
    def leaks(self) -> list[str]:
        """The patient groups that stand on two sides of the split."""
        records = self.records
        return leaking_groups(records, records["split"])

    def train_dataloader(self) -> DataLoader[Batch]:
        """Of the epoch that begins; Lightning asks for every epoch anew where their sizes differ."""
        batches = self._batches("train")
        if self.trainer is not None:
            batches.resume(self.trainer)
        return self._loader(batches, self._training_records(batches.epoch))

    def training_batches(self, device: torch.device) -> Iterator[Batch]:
        """Training batches without end, as a training that begins here would see them, apart from the training itself.

        Short epochs are repeated, each in an order and with changes of its own.
        """
        first = 0 if self.trainer is None else self.trainer.current_epoch
        records = self._training_records(first)
        for epoch in itertools.count(first):
            batches = self._batches("train")
            batches.set_epoch(epoch)
            for index in batches:
                batch = records[index]
                batch = {**batch, **self._drawn(index, batch["image"], epoch)}
                yield self._changed({name: tensor.to(device) for name, tensor in batch.items()})

    def _training_records(self, epoch: int) -> PreparedRecords:
        """The records with the training images of an epoch."""
        contents, sizes = self._contents(), self.hparams["training_sizes"]
        size = self.hparams["image_size"] if sizes is None else sizes[min(epoch, len(sizes) - 1)]
        if size == self.hparams["image_size"]:
            return contents.dataset
        if size not in self._of_size:
            records = contents.manifest.records
            images = prepare_images(
                records["path"].tolist(),
                records["sha256"].tolist(),
                Preparation(size, self.hparams["aspect"]),
                self.hparams["cache_dir"],
                progress=self.hparams["progress"],
            )
            if (images.rows < 0).any():
                path, reason = images.unreadable[0]
                raise DataError(f"{path}: {reason}; it could be read when the training began")
            self._of_size[size] = PreparedRecords(images, contents.dataset.labels)
        return self._of_size[size]

    def val_dataloader(self) -> DataLoader[Batch]:
        num_records = int((self.records["split"] == "val").sum())
        if self.trainer is not None and num_records < self.trainer.world_size:
            # A process without a record would leave its epoch early, and the others waiting for it.
            raise DataError(
                f"data.split: {num_records} validation records for {self.trainer.world_size} processes; use fewer "
                "processes, or raise data.split.val_fraction"
            )
        return self._loader(self._batches("val"), self._contents().dataset)

    def test_dataloader(self) -> DataLoader[Batch]:
        if not (self.records["split"] == "test").any():
            raise DataError("data.split: no record was kept for the test; set data.split.test_fraction above 0")
        return self._loader(self._batches("test"), self._contents().dataset)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Every record, also those without a label."""
        return self._loader(self._batches(None), self._contents().dataset)

    def _batches(self, split: str | None) -> EpochBatches:
        contents = self._contents()
        chosen = (
            contents.manifest.records["split"] == split if split is not None else np.ones(len(contents.dataset), bool)
        )
        index = np.flatnonzero(chosen)
        return EpochBatches(
            index,
            contents.dataset.labels[index],
            self.hparams["batch_size" if split == "train" else "evaluation_batch_size"],
            shuffle=split == "train",
            sampler=self._balance["sampler"] if split == "train" else "none",
            seed=self.hparams["seed"],
            rank=0 if self.trainer is None else self.trainer.global_rank,
            world_size=1 if self.trainer is None else self.trainer.world_size,
        )

    def _loader(self, batches: EpochBatches, records: PreparedRecords) -> DataLoader[Batch]:
        num_workers = self.hparams["num_workers"]
        return DataLoader(
            records,
            sampler=batches,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self._trains_on_cuda(),
            # Its own: the seeds that it deals to its workers must not move the random numbers of the training.
            generator=torch.Generator().manual_seed(self.hparams["seed"]),
        )

    def _trains_on_cuda(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Draw what changes in a training batch: here, because reading its indices back would make a GPU wait."""
        trainer = self.trainer
        if trainer is None or not trainer.training:
            return batch
        drawn = self._drawn(batch["index"].tolist(), batch["image"], trainer.current_epoch)
        if self._trains_on_cuda():  # the loader has pinned the rest; a copy from other memory can make a GPU wait
            drawn = {name: tensor.pin_memory() for name, tensor in drawn.items()}
        return {**batch, **drawn}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment a training batch on the device that trains, then mix its images."""
        return self._changed(batch)

    def _drawn(self, index: list[int], images: Tensor, epoch: int) -> Batch:
        """What is done to the images of one batch, as tensors that travel with it."""
        drawn: Batch = {}
        if not self.augmentation.is_identity:
            drawn |= vars(self.augmentation.draw(index, seed=self.hparams["seed"], epoch=epoch))
        if not self.mixing.is_identity:
            height, width = images.shape[-2:]
            drawn |= vars(self.mixing.draw(index, (height, width), seed=self.hparams["seed"], epoch=epoch))
        return drawn

    def _changed(self, batch: Batch) -> Batch:
        """A batch with what was drawn for it done to it."""
        if "homographies" in batch:
            changes = Changes(batch.pop("homographies"), batch.pop("tables"))
            batch["image"] = self.augmentation.apply(batch["image"], changes)
        if "partners" in batch:
            partners, shares = batch.pop("partners"), batch.pop("shares")
            mixture = Mixture(partners, shares, batch.pop("blends"), batch.pop("boxes"))
            batch["image"] = self.mixing.apply(batch["image"], mixture)
            batch |= {"partner_label": batch["label"][partners], "share": shares}
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The split, in plain lists."""
        given = self._given_split if self._labelled is None else self._labelled.manifest.records
        if given is None:
            return {}
        # With the groups, so that whoever divides the same files again need not compare all pictures for them.
        kept = [name for name in ("source", "image", "sha256", "label", "group", "split") if name in given]
        return {"split": {name: given[name].tolist() for name in kept}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Divide as the checkpoint did, now or at the next `setup`."""
        if "split" not in state_dict:
            return
        self._given_split = pd.DataFrame(state_dict["split"], dtype=object)
        if self._labelled is not None:
            records = self._labelled.manifest.records
            given = match_split(records, self._given_split, "the checkpoint", whole=True)
            records["split"] = given["split"].astype(object)


def _check_names(key: str, given: Mapping[str, Any], *takers: Callable[..., Any]) -> None:
    known = [name for taker in takers for name in inspect.signature(taker).parameters if name != "records"]
    for name in given:
        if name not in known:
            raise ConfigurationError(f"{key}.{name} is not known; there are: {', '.join(known)}")


def _plain(value: Any) -> Any:
    """Mappings as dict, sequences as list, paths as text, all the way down."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
