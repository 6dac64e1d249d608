"""What does a trained network do on data that it was not fitted to?  The one door to test and external data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cxr.errors import ConfigurationError
from cxr.evaluation.checkpoint import OpenedRun, open_run
from cxr.evaluation.curves import threshold_rates
from cxr.evaluation.figures import (
    draw_class_counts,
    draw_confusion,
    draw_precision_recall,
    draw_roc,
    draw_training_curves,
)
from cxr.evaluation.looks import record_look
from cxr.evaluation.metrics import measure
from cxr.evaluation.metrics_file import merge_metrics, read_metrics
from cxr.evaluation.predictions import predictions_table, write_predictions
from cxr.evaluation.scoring import score
from cxr.evaluation.subject import Subject, other_collection, own_split
from cxr.training.accelerators import resolve_devices
from cxr.training.metrics import predicted_classes
from cxr.training.run_directory import RunDirectory


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found, and where it lies.

    Args:
        split: 'train', 'val', 'test', or the name of another collection.
        entry: what ``metrics.json`` holds of it; None where no image has a label.
        predictions: the table of all images.
        output_dir: the run, or the folder that was given.
        predictions_path: ``predictions/<split>.csv`` therein.
        metrics_path: ``metrics.json`` therein.
        figures: the PNG files that were drawn.
        checkpoint_path: what was evaluated.
        num_looks: how often this split has been scored in this run, this time included.
        warnings: what puts the numbers in doubt; to be said first.
        notes: what else must be known.
    """

    split: str
    entry: dict[str, Any] | None
    predictions: pd.DataFrame
    output_dir: Path
    predictions_path: Path
    metrics_path: Path
    figures: list[Path]
    checkpoint_path: Path
    num_looks: int
    warnings: list[str]
    notes: list[str]


def evaluate_run(
    run: str | Path,
    *,
    which: str = "best",
    split: str = "test",
    data: Mapping[str, Any] | None = None,
    data_name: str | None = None,
    output_dir: str | Path | None = None,
    gpus: int | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    cache_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> EvaluationResult:
    """Score a split of the run's own data, or another collection, and write and record everything.

    Args:
        run: a run directory or a checkpoint file.
        which: 'best' or 'last' checkpoint of a run directory.
        split: 'train', 'val' or 'test'; of no meaning with `data`.
        data: another collection: ``sources`` and ``classes``, ``views``, ``download``, ``max_unreadable`` of
            `CXRDataModule`. Its images are prepared as in training.
        data_name: names its results; None: the names of its sources.
        output_dir: receives the results; None: the run, or ``<stem>_evaluation`` beside a lone checkpoint.
        gpus: None = one accelerator if there is one; 0 = CPU; 1 = one GPU.
        batch_size: images in a batch; None = four times as many as in training.
        num_workers, cache_dir, data_dir: None = as in training.
        progress: show bars on a terminal.

    Raises:
        CheckpointError: no checkpoint that can be opened.
        ConfigurationError: a device, split or setting that is not to be had.
        DataError: data that are missing, changed, or of other classes.
        DivergedError: the network gives no finite probabilities.
    """
    if gpus is not None and gpus > 1:
        raise ConfigurationError(f"trainer.gpus={gpus}: an evaluation runs on one device; give 1, 0 or null")
    if data is None and data_name is not None:
        raise ConfigurationError(f"data_name={data_name!r}: names another collection; give data, or leave it out")
    device = torch.device(resolve_devices(gpus)["accelerator"])
    opened = open_run(run, which)
    place = RunDirectory(_output_dir(opened, output_dir))
    read_metrics(place.metrics_path)  # a damaged file is found before an hour of scoring, not after
    overrides = {
        "evaluation_batch_size": batch_size,
        "num_workers": num_workers,
        "cache_dir": cache_dir,
        "data_dir": data_dir,
        "progress": progress,
    }
    if data is None:
        subject = own_split(opened, split, **overrides)
    else:
        subject = other_collection(opened, data, data_name, **overrides)
    scores = score(
        opened.module,
        subject.batches,
        device,
        num_images=len(subject.records),
        title=f"Scoring {subject.title}",
        progress=progress,
    )
    sha256 = _sha256(opened.path)
    num_looks = record_look(
        place.looks_path,
        split=subject.name,
        checkpoint=opened.path.name,
        checkpoint_sha256=sha256,
        num_images=len(subject.records),
    )
    class_names, positive = opened.module.class_names, opened.module.positive
    threshold = 0.5 if len(class_names) == 2 else None
    called = predicted_classes(scores.probabilities, class_names.index(positive))
    predictions = predictions_table(
        subject.records, scores.probabilities, [class_names[place] for place in called], class_names, threshold
    )
    predictions_path = place.predictions_dir / f"{subject.name}.csv"
    write_predictions(predictions, predictions_path)

    entry = None
    if (subject.labels >= 0).any():
        entry = _entry(opened, subject, scores.probabilities, threshold) | {
            "checkpoint": opened.path.name,
            "checkpoint_sha256": sha256,
            "epoch": opened.epoch,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "looks": num_looks,
        }
        merge_metrics(place.metrics_path, subject.name, entry)
    figures, notes = _draw(opened, subject, scores.probabilities, entry, place)
    return EvaluationResult(
        split=subject.name,
        entry=entry,
        predictions=predictions,
        output_dir=place.path,
        predictions_path=predictions_path,
        metrics_path=place.metrics_path,
        figures=figures,
        checkpoint_path=opened.path,
        num_looks=num_looks,
        warnings=subject.warnings,
        notes=[*opened.notes, *subject.notes, *notes],
    )


def _output_dir(opened: OpenedRun, output_dir: str | Path | None) -> Path:
    if output_dir is not None:
        return Path(output_dir).expanduser()
    return opened.path.with_name(f"{opened.path.stem}_evaluation") if opened.run_dir is None else opened.run_dir


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(
    opened: OpenedRun, subject: Subject, probabilities: NDArray[np.float32], threshold: float | None
) -> dict[str, Any]:
    class_names, positive = opened.module.class_names, opened.module.positive
    labelled = subject.labels >= 0
    labels = subject.labels[labelled]
    per_class = np.bincount(labels, minlength=len(class_names)).tolist()
    return {
        **measure(probabilities[labelled], labels, class_names, positive, subject.majority),
        "counts": {
            "images": int(labelled.sum()),
            "patients": int(subject.records.loc[labelled, "group"].nunique()),
            "positives": per_class[class_names.index(positive)],
            "classes": dict(zip(class_names, per_class, strict=True)),
            "unlabelled": int((~labelled).sum()),
        },
        "positive": positive,
        "threshold": threshold,
        "majority_class": subject.majority,
        "majority_of": subject.majority_of,
        "warnings": subject.warnings,
        "notes": subject.notes,
    }


def _draw(
    opened: OpenedRun,
    subject: Subject,
    probabilities: NDArray[np.float32],
    entry: Mapping[str, Any] | None,
    place: RunDirectory,
) -> tuple[list[Path], list[str]]:
    """Draw what there is to see; say what could not be drawn."""
    drawn: list[Path] = []
    notes: list[str] = []

    def figure(name: str) -> Path:
        drawn.append(place.figures_dir / f"{name}.png")
        return drawn[-1]

    if opened.run_dir is not None:
        history_path = RunDirectory(opened.run_dir).history_path
        path = place.figures_dir / "training_curves.png"
        if history_path.is_file() and draw_training_curves(pd.read_csv(history_path), path, opened.epoch):
            drawn.append(path)
        else:
            notes.append(f"no training curves: {history_path} is missing or empty")
    if entry is None:
        return drawn, notes
    own = len(subject.class_counts) > 1
    draw_class_counts(subject.class_counts, figure("class_counts" if own else f"{subject.name}_class_counts"))
    matrix = np.array(entry["confusion_matrix"]["counts"])
    class_names, positive = opened.module.class_names, opened.module.positive
    draw_confusion(
        matrix, class_names, figure(f"{subject.name}_confusion"), title=subject.title, majority=subject.majority
    )
    num_images, num_positives = entry["counts"]["images"], entry["counts"]["positives"]
    if num_positives in (0, num_images):
        notes.append(f"no ROC and no precision-recall curve: {entry['auroc']['reason']}")
        return drawn, notes
    labelled, target = subject.labels >= 0, class_names.index(positive)
    rates = threshold_rates(probabilities[labelled, target], subject.labels[labelled] == target)
    rest = class_names[1 - target] if len(class_names) == 2 else "the rest"
    title = f"{subject.title}: {positive} against {rest}"
    sides = (
        f"{num_positives:,} {positive}, {num_images - num_positives:,} {rest}; {entry['counts']['patients']:,} patients"
    )
    draw_roc(
        rates,
        figure(f"{subject.name}_roc"),
        title=title,
        sides=sides,
        auroc=entry["auroc"]["value"],
        threshold=entry["threshold"],
    )
    draw_precision_recall(
        rates,
        figure(f"{subject.name}_precision_recall"),
        title=title,
        sides=sides,
        average_precision=entry["average_precision"]["value"],
        prevalence=num_positives / num_images,
        threshold=entry["threshold"],
    )
    return drawn, notes
