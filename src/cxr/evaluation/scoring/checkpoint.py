"""Which network, and which data, does a path stand for?  A run directory or a checkpoint file, opened safely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cxr.errors import CheckpointError
from cxr.evaluation.scoring.run_path import find_checkpoint, run_of, runs_nearby
from cxr.evaluation.scoring.stored_settings import count, data_arguments, network_arguments, training_split
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.backbones import tensors_of_backbone
from cxr.training.module import CXRModule
from cxr.training.torch_files import one_line, read_torch_file, require_state

# Lightning keeps the state of a data module under the name of its class.
DATA_STATE = CXRDataModule.__qualname__
# What every checkpoint of this program holds; other Lightning programs lack the last.
REQUIRED_KEYS = ("state_dict", "epoch", CXRModule.CHECKPOINT_HYPER_PARAMS_KEY, DATA_STATE)
DATA_SETTINGS = CXRDataModule.CHECKPOINT_HYPER_PARAMS_KEY

# What another collection takes over from the training; its classes only where it names none.
COLLECTION_READING = ("classes", "on_bad", "max_unreadable", "image_size", "aspect", "evaluation_batch_size",
                      "num_workers", "data_dir", "cache_dir", "progress")  # fmt: skip


@dataclass(frozen=True)
class OpenedRun:
    """A checkpoint and what belongs to it.

    Args:
        path: the checkpoint file.
        run_dir: the run that it lies in; None for a checkpoint that was copied out of its run.
        epoch: the epoch after which it was saved, counted from 0.
        module: the network, on the CPU, in evaluation mode.
        training_split: columns source, image, sha256, split (and label, where the checkpoint keeps it) of every
            record that stood in a split of the training.
        notes: what a person must know of the choice of the checkpoint, a sentence each.
    """

    path: Path
    run_dir: Path | None
    epoch: int
    module: CXRModule
    training_split: pd.DataFrame
    notes: list[str]

    @property
    def training_counts(self) -> Counter[str]:
        """Images of each class in the training split; empty where the checkpoint does not keep the labels."""
        known = self.training_split
        return Counter(known.loc[known["split"] == "train", "label"]) if "label" in known else Counter()

    @property
    def results_dir(self) -> Path:
        """Where results go unless told otherwise: the run, or a folder beside a lone checkpoint."""
        return self.path.with_name(f"{self.path.stem}_evaluation") if self.run_dir is None else self.run_dir

    @property
    def num_parameters(self) -> int:
        """The weights that training may change; buffers, such as the statistics of batch norms, are not counted."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def datamodule(self, **overrides: Any) -> CXRDataModule:
        """The data that the network was trained on, with the split of the training.

        Args:
            overrides: any of cache_dir, data_dir, num_workers, evaluation_batch_size, progress; None leaves the
                trained value.

        Raises:
            CheckpointError: where the checkpoint holds no data settings that can be read.
            DataError: from ``setup``, where the files are not those of the training.
        """
        allowed = {"cache_dir", "data_dir", "num_workers", "evaluation_batch_size", "progress"}
        if not overrides.keys() <= allowed:
            raise TypeError(f"fixed by the checkpoint: {', '.join(sorted(overrides.keys() - allowed))}")
        given = {name: value for name, value in overrides.items() if value is not None}
        content = read_torch_file(self.path)
        with _one_line(self.path):
            data = CXRDataModule(**{**data_arguments(content.get(DATA_SETTINGS)), **given})
            state = content[DATA_STATE]
            if state:
                data.load_state_dict({"split": training_split(state).to_dict("list")})
            return data

    def data_settings(self, **overrides: Any) -> dict[str, Any]:
        """How the images of another collection are read: as in training.

        Args:
            overrides: see `datamodule`.

        Returns:
            ``classes``, ``on_bad``, ``max_unreadable``, ``image_size``, ``aspect``, ``evaluation_batch_size``,
            ``num_workers``, ``data_dir``, ``cache_dir`` and ``progress`` of `CXRDataModule`.

        Raises:
            CheckpointError: see `datamodule`.
        """
        trained = self.datamodule(**overrides).hparams
        return {name: trained[name] for name in COLLECTION_READING}


def open_run(run: str | Path, which: str | None = None) -> OpenedRun:
    """Open a run directory or a checkpoint file.

    Args:
        run: a run directory, its ``checkpoints`` folder, or a ``.ckpt`` file, also one that was copied elsewhere.
        which: 'best' or 'last', for a directory; None: as its ``trainer.checkpoint``. Where there is no best one, the
            last is taken and the note says so.

    Raises:
        CheckpointError: nothing there, an empty or damaged file, or a checkpoint of another program; one line that
            names what was looked for and the runs nearby.
    """
    path, notes = find_checkpoint(run, which)
    content = read_torch_file(path)
    missing = [key for key in REQUIRED_KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        nearby = runs_nearby(Path(run))
        raise CheckpointError(f"{path} is no checkpoint of cxr: it holds no {', '.join(missing)}{nearby}")
    with _one_line(path):
        known, epoch = training_split(content[DATA_STATE]), count(content["epoch"], "epoch")
        module = _build(path, content)
    return OpenedRun(path, run_of(path), epoch, module, known, notes)


def _build(path: Path, content: Mapping[str, Any]) -> CXRModule:
    """The network of a checkpoint, from timm's registry, on the CPU, in evaluation mode.

    It takes no memory before names, shapes and types of all tensors of the file are known to be its own.
    """
    arguments = network_arguments(content[CXRModule.CHECKPOINT_HYPER_PARAMS_KEY])
    expected = tensors_of_backbone(
        arguments["backbone"],
        num_classes=len(arguments["class_names"]),
        image_size=arguments.get("image_size", 224),
        head=arguments.get("head", "linear"),
    )
    own = {f"network.{name}": tensor for name, tensor in expected.items()}
    own |= {name: torch.empty(3, device="meta") for name in ("pixel_scale", "pixel_offset")}
    state = require_state(path, content["state_dict"], own)
    module = CXRModule(**arguments)
    module.load_state_dict(state)
    return module.eval()


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Whatever a broken or foreign file makes the reader raise, in one line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # what is made of its settings has no common exception
        raise CheckpointError(f"{path} is damaged or no checkpoint of cxr ({one_line(error)})") from error
