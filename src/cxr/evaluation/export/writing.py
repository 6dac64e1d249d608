"""How does a trained network become a folder that serves it elsewhere, and is it still the same network there?"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from cxr.errors import ConfigurationError, CxrError, DataError, DivergedError
from cxr.evaluation.calibration.calibration import Calibration
from cxr.evaluation.calibration.fitting import fit_or_recall
from cxr.evaluation.calibration.operating_points import OPERATING_POINTS
from cxr.evaluation.calibration.stored import StoredCalibration, read_calibration
from cxr.evaluation.export.description import (
    ONNX_FILE,
    TOLERANCE,
    ExportedFolder,
    ModelDescription,
    Normalisation,
    Parity,
    program_version,
)
from cxr.evaluation.export.onnx_file import require_calibration, require_packages, run_onnx, write_onnx
from cxr.evaluation.export.opening import build_network, sha256_of
from cxr.evaluation.scoring.answers import Answers, answer
from cxr.evaluation.scoring.checkpoint import OpenedRun, open_run
from cxr.evaluation.scoring.run_path import DESCRIPTION_FILE, WEIGHTS_FILE, exported_folder
from cxr.evaluation.scoring.subject import Subject, own_split
from cxr.images.prepare import Preparation
from cxr.training.module import CXRModule

FORMATS = {"safetensors": WEIGHTS_FILE, "onnx": ONNX_FILE}
DEFAULT_OPSET = 18
_BATCH_SIZE = 16


@dataclass(frozen=True)
class ExportResult:
    """What was exported.

    Args:
        folder: the files lie here.
        content: what ``model.json`` holds.
        notes: what must be known, a sentence each.
    """

    folder: Path
    content: ExportedFolder
    notes: list[str]


def export_run(
    run: str | Path,
    *,
    which: str | None = None,
    output_dir: str | Path | None = None,
    formats: Sequence[str] = tuple(FORMATS),
    opset: int = DEFAULT_OPSET,
    calibration: str | None = None,
    operating_points: Sequence[str] | None = None,
    num_images: int = 32,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> ExportResult:
    """Write the network of a run to a folder, and hold every file in it against PyTorch before it is there.

    Args:
        run: a run directory or a checkpoint file.
        which: 'best' or 'last' checkpoint of a run directory; None: as its ``trainer.checkpoint``.
        output_dir: the folder; an exported network that lies there is replaced. None: ``export`` in the run, or
            ``<stem>_export`` beside a lone checkpoint.
        formats: of ``FORMATS``; ``model.json`` comes with all.
        opset: version of ONNX's operators.
        calibration, operating_points: see `fit_calibration` and `choose_operating_points`; None: those in the run's
            ``calibration.json``; where it has none, a temperature and ``OPERATING_POINTS``, fitted to validation.
        num_images: radiographs of the validation split that the files are tried on, at most.
        data_dir, cache_dir: where the run's own data lie; None = as in training.
        progress: show a bar on a terminal.

    Raises:
        CheckpointError: no checkpoint that can be opened.
        ConfigurationError: a format, a backbone or a folder that is not to be had.
        CxrError: a file gives other answers than PyTorch, by more than ``TOLERANCE``.
        DataError: there is nothing to fit the calibration to.
        DivergedError: the network gives no finite probabilities.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ConfigurationError(f"formats=[{','.join(formats)}]: one or more of {', '.join(FORMATS)}")
    if "onnx" in formats:
        require_packages()
    if exported_folder(Path(run).expanduser()) is not None:
        raise ConfigurationError(f"run={run}: is an exported network already; give the run or its checkpoint")
    opened = open_run(run, which)
    folder = (_beside(opened) if output_dir is None else Path(output_dir).expanduser()).absolute()
    _require_free(folder)
    validation = _Validation(opened, data_dir=data_dir, cache_dir=cache_dir, progress=progress)
    digest = sha256_of(opened.path)
    fitted = _fit(opened, validation, digest, calibration, operating_points)
    description = _describe(opened, fitted, digest)
    if "onnx" in formats:
        require_calibration(description.calibration)
    images, drawn_from, notes = validation.images(num_images, description.preparation.size)
    notes = [*opened.notes, *_said(fitted), *notes]

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        files = {}
        if "safetensors" in formats:
            _write_weights(opened.module, temporary / WEIGHTS_FILE)
        if "onnx" in formats:
            write_onnx(opened.module, description, temporary / ONNX_FILE, opset=opset)
        for name in (WEIGHTS_FILE, ONNX_FILE):
            if (temporary / name).exists():
                files[name] = sha256_of(temporary / name)
        differences = _differences(opened.module, description, temporary, list(files), images)
        content = ExportedFolder(description, files, Parity(len(images), drawn_from, differences))
        (temporary / DESCRIPTION_FILE).write_text(content.to_json(), encoding="utf-8")
        _put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExportResult(folder, content, notes)


class _Validation:
    """The validation split of a run, read once and only where it is asked for."""

    def __init__(
        self, opened: OpenedRun, *, data_dir: str | Path | None, cache_dir: str | Path | None, progress: bool
    ) -> None:
        self._opened = opened
        self._places = {"data_dir": _text(data_dir), "cache_dir": _text(cache_dir), "progress": progress}
        self._progress = progress
        self._subject: Subject | None = None

    def subject(self) -> Subject:
        """
        Raises:
            DataError: the files of the training are not to be had.
        """
        if self._subject is None:
            self._subject = own_split(self._opened, "val", **self._places)
        return self._subject

    def answers(self) -> Answers:
        return answer([self._opened], [self.subject()], torch.device("cpu"), progress=self._progress)

    def images(self, limit: int, size: int) -> tuple[NDArray[np.uint8], str, list[str]]:
        """Prepared radiographs uint8 (n, 1, S, S) from all over the split, or random pixels and a note that says so."""
        try:
            subject = self.subject()
        except DataError as error:
            pixels = np.random.default_rng(0).integers(0, 256, (limit, 1, size, size), dtype=np.uint8)
            said = " ".join(str(error).split())
            return pixels, "random", [f"tried on random pixels, the data of the training are not at hand: {said}"]
        number = min(limit, len(subject.records))
        rows = np.linspace(0, len(subject.records) - 1, number).round().astype(np.int64)
        return subject.images(rows).numpy(), "val", []


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _beside(opened: OpenedRun) -> Path:
    if opened.run_dir is not None:
        return opened.run_dir / "export"
    return opened.path.with_name(f"{opened.path.stem}_export")


def _require_free(folder: Path) -> None:
    """Nothing but an exported network is ever replaced.

    Raises:
        ConfigurationError: something else lies there.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    known = {DESCRIPTION_FILE, *FORMATS.values()}
    if folder.is_symlink() or not folder.is_dir() or any(path.name not in known for path in folder.iterdir()):
        raise ConfigurationError(f"output={folder}: holds something else than an exported network; give a new folder")


def _fit(
    opened: OpenedRun, validation: _Validation, digest: str, method: str | None, rules: Sequence[str] | None
) -> StoredCalibration | None:
    """Calibration and thresholds: those of the run, else new ones from its validation split.

    Raises:
        DataError: there is nothing to fit them to.
    """
    if method == "none" and rules is not None and not rules:
        return None
    with tempfile.TemporaryDirectory() as elsewhere:
        path = Path(elsewhere) / "calibration.json"
        abstain = None
        if opened.run_dir is not None:
            own = opened.run_dir / "calibration.json"
            stored = read_calibration(own)
            if stored is not None and stored.checkpoint_sha256 == digest:
                points = stored.operating_points
                abstain = next((point.abstain.rule for point in points if point.abstain is not None), None)
                if method in (None, stored.calibration.method) and rules is None:
                    return stored
                method = stored.calibration.method if method is None else method
                rules = [point.rule for point in points] if rules is None else rules
            elif method is None and rules is None:
                path = own  # as evaluate.py does
        fitted, notes = fit_or_recall(
            path,
            validation.answers,
            opened.module.class_names,
            opened.module.positive,
            method="temperature" if method is None else method,
            rules=OPERATING_POINTS if rules is None else rules,
            abstain=abstain,
            checkpoint=opened.path.name,
            checkpoint_sha256=digest,
        )
    if fitted is None:
        raise DataError(
            f"{'; '.join(notes)}; give paths.data=<folder>, or calibration=none and operating_points=[] to export "
            "without them"
        )
    return fitted


def _describe(opened: OpenedRun, fitted: StoredCalibration | None, digest: str) -> ModelDescription:
    """
    Raises:
        ConfigurationError: what a reader would refuse, such as a class name with a line break.
    """
    module = opened.module
    names = tuple(module.class_names)
    scale, offset = (tuple(each.tolist()) for each in (module.pixel_scale, module.pixel_offset))
    description = ModelDescription(
        cxr_version=program_version(),
        backbone=str(module.hparams["backbone"]),
        head=str(module.hparams["head"]),
        class_names=names,
        positive=module.positive,
        preparation=Preparation(module.hparams["image_size"], module.hparams["aspect"]),
        normalisation=Normalisation(scale, offset),
        calibration=Calibration("none", names) if fitted is None else replace(fitted.calibration, notes=()),
        operating_points=() if fitted is None else tuple(replace(each, notes=()) for each in fitted.operating_points),
        fitted_on=None if fitted is None else fitted.fitted_on,
        training_images={name: opened.training_counts[name] for name in names if opened.training_counts},
        epoch=opened.epoch,
        checkpoint_sha256=digest,
    )
    try:
        ModelDescription.from_dict(description.to_dict())
    except DataError as error:
        raise ConfigurationError(f"{opened.path}: cannot be exported: {error}") from None
    return description


def _said(fitted: StoredCalibration | None) -> list[str]:
    """What calibration and thresholds have to say for themselves; the files have no room for sentences."""
    if fitted is None:
        return ["probabilities are not calibrated, and there are no thresholds"]
    points = (f"{point.name}: {note}" for point in fitted.operating_points for note in point.notes)
    return [*fitted.calibration.notes, *points]


def _write_weights(module: CXRModule, path: Path) -> None:
    """The state dict of the timm network, without any metadata."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in module.network.state_dict().items()}
    safetensors.torch.save_file(tensors, path)


def _differences(
    module: CXRModule, description: ModelDescription, folder: Path, files: Sequence[str], images: NDArray[np.uint8]
) -> dict[str, float]:
    """The largest difference of each file from PyTorch, over logits and calibrated probabilities.

    Raises:
        CxrError: it is above ``TOLERANCE``.
    """
    expected = _answers(module, description, images)
    readers: dict[str, Callable[[], tuple[NDArray[np.float32], NDArray[np.float32]]]] = {
        WEIGHTS_FILE: lambda: _answers(build_network(description, folder / WEIGHTS_FILE), description, images),
        ONNX_FILE: lambda: run_onnx(folder / ONNX_FILE, images),
    }
    differences = {}
    for name in files:
        given = readers[name]()
        largest = max(float(np.abs(a - b).max()) for a, b in zip(given, expected, strict=True))
        if not largest <= TOLERANCE:  # written so that NaN fails
            raise CxrError(
                f"{name} gives other answers than PyTorch, by up to {largest:.2g} where {TOLERANCE:g} is allowed: "
                f"nothing was exported; give formats without {name.partition('.')[2]}"
            )
        differences[name] = largest
    return differences


def _answers(
    module: CXRModule, description: ModelDescription, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and calibrated probabilities (N, C) by PyTorch, as it comes."""
    with torch.inference_mode():
        parts = [module(part) for part in torch.split(torch.from_numpy(images), _BATCH_SIZE)]
    logits = torch.cat(parts)
    if not torch.isfinite(logits).all():
        raise DivergedError(
            "the network gives logits that are not finite: its training diverged, export an earlier checkpoint"
        )
    return logits.numpy(), description.calibration.apply(logits.softmax(dim=1).numpy())


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename the whole folder, so that it is never there in part."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)  # mkdtemp makes folders for their owner alone
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _require_free(folder)
    if folder.exists():
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        folder.replace(old)
        try:
            temporary.replace(folder)
        except OSError:
            old.replace(folder)
            raise
        shutil.rmtree(old)
    else:
        temporary.replace(folder)
