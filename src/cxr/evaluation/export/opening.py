"""Which network does an exported folder hold?  It may come from anybody: nothing in it is run, nothing is believed.

Read are a description (JSON, see `description`) and tensors (safetensors). The network is built from timm's registry;
names, shapes and types of all tensors are held against it, and their numbers looked at, before it takes any memory.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cxr.errors import CheckpointError, ConfigurationError, DataError
from cxr.evaluation.calibration.stored import StoredCalibration
from cxr.evaluation.export.description import ModelDescription, read_folder
from cxr.evaluation.scoring.checkpoint import OpenedRun, open_run
from cxr.evaluation.scoring.run_path import WEIGHTS_FILE, exported_folder, find_checkpoint, without_own_data
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.backbones import tensors_of_backbone
from cxr.training.module import CXRModule

_DTYPES = {torch.float32: "F32", torch.int64: "I64"}


@dataclass(frozen=True)
class ExportedNetwork(OpenedRun):
    """A network that came without the data that it was trained on.

    Args:
        description: what its ``model.json`` says.
    """

    description: ModelDescription

    @property
    def training_counts(self) -> Counter[str]:
        return Counter(self.description.training_images)

    @property
    def results_dir(self) -> Path:
        """Beside the folder: results name patients and files, which an exported folder must not."""
        folder = self.path.resolve().parent
        return folder.with_name(f"{folder.name}_evaluation")

    def datamodule(self, **overrides: Any) -> CXRDataModule:
        """There is none.

        Raises:
            DataError: always.
        """
        raise DataError(without_own_data(self.path.parent))

    def data_settings(self, **overrides: Any) -> dict[str, Any]:
        """As prepared for the training, from where the program looks for data by default."""
        settings: dict[str, Any] = {
            "classes": None,
            "max_unreadable": 0.01,
            "image_size": self.description.preparation.size,
            "aspect": self.description.preparation.aspect,
            "evaluation_batch_size": 32,
            "num_workers": 0,
            "data_dir": os.environ.get("CXR_DATA", "data"),
            "cache_dir": "outputs/cache",
            "progress": True,
        }
        return settings | {name: value for name, value in overrides.items() if value is not None}

    def calibration(
        self, sha256: str, *, method: str, rules: Sequence[str], abstain: str | None, tta: str
    ) -> tuple[StoredCalibration | None, list[str]]:
        """Calibration and thresholds that came with the network: there are no images to fit others to.

        Args:
            sha256: hex, of the weights.
            method, rules, abstain, tta: what was asked for; where it is not what came, a note says so.

        Returns:
            None where none came, and what must be said of it.
        """
        given = self.description
        if given.fitted_on is None:
            return None, ["no calibration and no thresholds: the exported network came without any"]
        if tta != "none":
            return None, [
                f"no calibration and no thresholds: those of the exported network are for tta=none, not {tta}"
            ]
        stored = StoredCalibration(
            calibration=given.calibration,
            operating_points=given.operating_points,
            positive=given.positive,
            checkpoint=self.path.name,
            checkpoint_sha256=sha256,
            fitted_on=given.fitted_on,
            time="",
        )
        own = [point.rule for point in given.operating_points]
        bands = {None if point.abstain is None else point.abstain.rule for point in given.operating_points}
        if given.calibration.method == method and own == list(rules) and bands <= {abstain}:
            return stored, []
        return stored, [
            f"calibration={given.calibration.method} and operating_points=[{','.join(own)}] came with the exported "
            "network and are used: there are no validation images to fit others to"
        ]


def open_network(run: str | Path, which: str | None = None) -> OpenedRun:
    """Open a run directory, a checkpoint file or an exported folder.

    Args:
        run, which: see `cxr.evaluation.scoring.run_path.find_checkpoint`.

    Raises:
        CheckpointError: see `open_run` and `open_exported`.
    """
    folder = exported_folder(Path(run).expanduser())
    if folder is None:
        return open_run(run, which)
    find_checkpoint(run, which)
    return open_exported(folder)


def open_exported(folder: Path) -> ExportedNetwork:
    """Open an exported folder.

    Raises:
        CheckpointError: anything that is missing, damaged or not what the description says; one line.
    """
    content = read_folder(folder)
    path = folder / WEIGHTS_FILE
    if WEIGHTS_FILE not in content.files or sha256_of(path) != content.files[WEIGHTS_FILE]:
        raise CheckpointError(f"{path}: not the file that the description was written for: its sha256 is another")
    return ExportedNetwork(
        path=path,
        run_dir=None,
        epoch=content.description.epoch,
        module=build_network(content.description, path),
        training_split=pd.DataFrame(columns=["source", "image", "sha256", "split"], dtype=object),
        notes=["an exported network does not name its training images: whether some of them are here is not known"],
        description=content.description,
    )


def build_network(description: ModelDescription, weights: Path) -> CXRModule:
    """The network of a description, with weights from a file, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: an unknown backbone; tensors of other names, shapes or types, or that are not finite.
    """
    num_classes, size = len(description.class_names), description.preparation.size
    try:
        expected = tensors_of_backbone(
            description.backbone, num_classes=num_classes, image_size=size, head=description.head
        )
        tensors = _read_tensors(weights, expected)
        module = CXRModule(
            description.backbone,
            class_names=description.class_names,
            positive=description.positive,
            image_size=size,
            aspect=description.preparation.aspect,
            pretrained=False,
            head=description.head,
        )
    except ConfigurationError as error:
        raise CheckpointError(f"{weights.parent}: {error}") from None
    module.network.load_state_dict(tensors)
    module.pixel_scale.copy_(torch.tensor(description.normalisation.scale))
    module.pixel_offset.copy_(torch.tensor(description.normalisation.offset))
    return module.eval()


def _read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, once they are known to be those that are expected.

    Args:
        path: the file.
        expected: name -> a tensor of this shape and type, which may be without memory.

    Raises:
        CheckpointError: the file is damaged or holds others.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            unknown, missing = sorted(names - expected.keys()), sorted(expected.keys() - names)
            if unknown or missing:
                raise CheckpointError(
                    f"{path}: not of this network: {len(missing)} tensors missing, {len(unknown)} unknown (the first "
                    f"is {ascii((missing or unknown)[0])[:80]})"
                )
            for name, tensor in expected.items():
                part = file.get_slice(name)
                shape, dtype = part.get_shape(), part.get_dtype()
                if list(tensor.shape) != list(shape) or _DTYPES.get(tensor.dtype) != dtype:
                    raise CheckpointError(
                        f"{path}: {name} is {dtype} {shape}, not {_DTYPES.get(tensor.dtype)} {list(tensor.shape)}"
                    )
            tensors = {}
            for name in expected:
                tensors[name] = file.get_tensor(name)
                if not torch.isfinite(tensors[name]).all():
                    raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
            return tensors
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged ({' '.join(str(error).split())[:160]})") from None


def sha256_of(path: Path) -> str:
    """Hex, of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
