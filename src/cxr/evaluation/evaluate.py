"""What does a trained network do on data that it was not fitted to?  The one door to test and external data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr.errors import ConfigurationError
from cxr.evaluation.assessment import Wishes, assess
from cxr.evaluation.assessment_figures import draw_assessment
from cxr.evaluation.calibration.fitting import fit_or_recall
from cxr.evaluation.calibration.operating_points import OPERATING_POINTS
from cxr.evaluation.export.opening import ExportedNetwork, open_network, sha256_of
from cxr.evaluation.looks import record_look
from cxr.evaluation.metrics_file import merge_metrics, read_metrics
from cxr.evaluation.predictions import predictions_table, write_predictions
from cxr.evaluation.report.mistakes import Mistake, find_mistakes
from cxr.evaluation.report.model_card import write_model_card
from cxr.evaluation.report.page import write_report, write_shared_report
from cxr.evaluation.saliency.entry import draw_evidence_without_labels, saliency_entry
from cxr.evaluation.scoring.answers import Answers, answer, require_same_task
from cxr.evaluation.scoring.checkpoint import OpenedRun
from cxr.evaluation.scoring.run_path import without_own_data
from cxr.evaluation.scoring.subject import Subject, collection_name, other_collection, own_split
from cxr.evaluation.shortcuts.entry import shortcuts_entry
from cxr.evaluation.subgroups.bands import COLUMNS
from cxr.evaluation.tracked import track_evaluation
from cxr.files import write_atomically
from cxr.pipeline.bad_input import naming_all_bad
from cxr.sources.spreadsheet import to_csv
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
        report_path: ``report.html`` therein; None where no image has a label, or none was asked for.
        shared_report_path: ``report_shared.html`` therein; None where none was asked for.
        figures: the PNG files that were drawn.
        checkpoint_path: what was evaluated; of several networks, the first.
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
    report_path: Path | None
    shared_report_path: Path | None
    figures: list[Path]
    checkpoint_path: Path
    num_looks: int
    warnings: list[str]
    notes: list[str]


def evaluate_run(
    run: str | Path | Sequence[str | Path],
    *,
    which: str | None = None,
    split: str = "test",
    data: Mapping[str, Any] | None = None,
    data_name: str | None = None,
    output_dir: str | Path | None = None,
    gpus: int | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    cache_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    tta: str = "none",
    calibration: str = "temperature",
    operating_points: Sequence[str] = OPERATING_POINTS,
    abstain: str | None = None,
    prevalence: float | None = None,
    subgroups: Sequence[str] = COLUMNS,
    saliency: int = 64,
    auroc_interval: str = "bootstrap",
    shortcuts: bool = True,
    num_resamples: int = 1000,
    report: bool = True,
    thumbnails: bool = True,
    share: bool = False,
    tracking: str | None = "none",
    tracking_thumbnails: bool = False,
    progress: bool = True,
) -> EvaluationResult:
    """Score a split of the run's own data, or another collection, and write and record everything.

    Calibration and thresholds are fitted to the validation split and to nothing else, kept in ``calibration.json``,
    and applied unchanged to whatever is scored.

    Args:
        run: a run directory, a checkpoint file or an exported folder; several are averaged or, as folds of one
            cross-validation, pooled, see `cxr.evaluation.scoring.answers.answer`.
        which: 'best' or 'last' checkpoint of a run directory; None: as its ``trainer.checkpoint``.
        split: 'train', 'val' or 'test'; of no meaning with `data`.
        data: another collection: ``sources`` and ``classes``, ``views``, ``download``, ``on_bad``,
            ``max_unreadable`` of `CXRDataModule`. Its images are prepared as in training.
        data_name: names its results; None: the names of its sources.
        output_dir: receives the results; None: the run, ``<name>_evaluation`` beside a lone checkpoint or an exported
            folder, or ``ensemble_<digest>`` beside the first of several runs.
        gpus: None = one accelerator if there is one; 0 = CPU; 1 = one GPU.
        batch_size: images in a batch; None = four times as many as in training.
        num_workers, cache_dir, data_dir: None = as in training.
        tta: see `cxr.evaluation.scoring.test_time.views`.
        calibration: see `cxr.evaluation.calibration.calibration.fit_calibration`.
        operating_points, abstain: see `cxr.evaluation.calibration.operating_points.choose_operating_points`.
        prevalence: for which PPV and NPV are also given, above 0 and below 1.
        subgroups: columns of the manifest.
        saliency: images with lung masks whose Grad-CAM is measured, at most; 0 leaves Grad-CAM out.
        auroc_interval: of the AUROC, 'bootstrap' or 'delong'; subgroups and the mean over classes have a bootstrap.
        shortcuts: ask a single network again without the lungs, on a border alone and on re-encoded pictures; five
            passes over 512 images at most.
        num_resamples: resamples of the patients behind every interval.
        report: draw the figures and write ``report.html`` and ``model_card.md``; False: numbers only.
        thumbnails: show radiographs in the report.
        share: also write ``report_shared.html``, for those who may not see the patients.
        tracking: 'wandb' or 'none'; None: as in training.
        tracking_thumbnails: send small pictures of the worst errors with it.
        progress: show bars on a terminal.

    Raises:
        CheckpointError: no checkpoint that can be opened.
        ConfigurationError: a device, split or setting that is not to be had.
        DataError: data that are missing, changed, bad, or of other classes. What was not used of another collection
            stands in ``dropped_<its name>.csv``.
        DivergedError: the network gives no finite probabilities.
    """
    if gpus is not None and gpus > 1:
        raise ConfigurationError(f"trainer.gpus={gpus}: an evaluation runs on one device; give 1, 0 or null")
    if data is None and data_name is not None:
        raise ConfigurationError(f"data_name={data_name!r}: names another collection; give data, or leave it out")
    device = torch.device(resolve_devices(gpus)["accelerator"])
    runs = [open_network(each, which) for each in ([run] if isinstance(run, (str, Path)) else run)]
    require_same_task(runs)
    exported = [each for each in runs if isinstance(each, ExportedNetwork)]
    if data is None and exported:
        raise ConfigurationError(without_own_data(exported[0].path.parent))
    digests = [sha256_of(each.path) for each in runs]
    digest, checkpoint = digests[0], runs[0].path.name
    if len(runs) > 1:
        digest, checkpoint = hashlib.sha256("".join(digests).encode()).hexdigest(), f"{len(runs)} networks"
    place = RunDirectory(_output_dir(runs, output_dir, digest))
    read_metrics(place.metrics_path)  # a damaged file is found before an hour of scoring, not after
    overrides = {
        "evaluation_batch_size": batch_size,
        "num_workers": num_workers,
        "cache_dir": cache_dir,
        "data_dir": data_dir,
        "progress": progress,
    }
    if data is None:
        subjects = [own_split(each, split, **overrides) for each in runs]
    else:
        with naming_all_bad(lambda: place.path / f"dropped_{collection_name(data, data_name)}.csv"):
            subjects = [other_collection(each, data, data_name, **overrides) for each in runs]
    answers = answer(runs, subjects, device, tta=tta, progress=progress)
    subject = answers.subject
    num_looks = record_look(
        place.looks_path,
        split=subject.name,
        checkpoint=checkpoint,
        checkpoint_sha256=digest,
        num_images=len(subject.records),
    )
    if subject.dropped is not None:
        write_atomically(place.path / f"dropped_{subject.name}.csv", to_csv(subject.dropped))
    class_names, positive = runs[0].module.class_names, runs[0].module.positive
    target = class_names.index(positive)
    labelled = subject.labels >= 0

    def validation() -> Answers:
        if data is None and split == "val":
            return answers
        return answer(runs, [own_split(each, "val", **overrides) for each in runs], device, tta=tta, progress=progress)

    fitted, notes = None, []
    if answers.folds:
        notes.append("no calibration and no thresholds: each network of a cross-validation has its own, in its own run")
    elif exported and len(runs) > 1:
        notes.append("no calibration and no thresholds: an exported network comes without validation images to fit to")
    elif exported:
        fitted, notes = exported[0].calibration(
            digest, method=calibration, rules=operating_points, abstain=abstain, tta=tta
        )
    else:
        fitted, notes = fit_or_recall(
            _calibration_path(runs, place, tta),
            validation,
            class_names,
            positive,
            method=calibration,
            rules=operating_points,
            abstain=abstain,
            checkpoint=checkpoint,
            checkpoint_sha256=digest,
        )
    calibrated = None if fitted is None else fitted.calibration.apply(answers.probabilities)

    threshold = 0.5 if len(class_names) == 2 else None
    called = predicted_classes(answers.probabilities, target)
    predictions = predictions_table(
        subject.records,
        answers.probabilities,
        [class_names[number] for number in called],
        class_names,
        threshold,
        calibrated=None if calibrated is None else calibrated[:, target],
    )
    predictions_path = place.predictions_dir / f"{subject.name}.csv"
    write_predictions(predictions, predictions_path)

    entry: dict[str, Any] | None = None
    figures: list[Path] = []
    report_path = shared_report_path = None
    if labelled.any():
        wishes = Wishes(prevalence, subgroups, auroc_interval=auroc_interval, num_resamples=num_resamples, seed=0)
        entry = assess(answers, class_names, positive, runs[0].training_counts, threshold, fitted, calibrated, wishes)
        entry |= {
            "checkpoint": runs[0].path.name,
            "checkpoint_sha256": digest,
            "epoch": runs[0].epoch,
            "networks": len(runs),
            "parameters": sum(each.num_parameters for each in runs),
            "tta": tta,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "looks": num_looks,
        }
        entry["notes"] = [*entry["notes"], *notes]
        if report and saliency and len(runs) == 1:
            entry["saliency"], panels = saliency_entry(
                runs[0].module,
                _Images(subject, np.flatnonzero(labelled)),
                subject.records[labelled].reset_index(drop=True),
                answers.probabilities[labelled],
                subject.labels[labelled],
                class_names,
                positive,
                figures_dir=place.figures_dir,
                name=subject.name,
                title=subject.title,
                threshold=threshold,
                limit=saliency,
                randomised=min(16, saliency),
            )
            figures += panels
        if shortcuts and len(runs) == 1:
            entry["shortcuts"] = shortcuts_entry(
                runs[0].module,
                _Images(subject, np.flatnonzero(labelled)),
                subject.records[labelled],
                answers.probabilities[labelled],
                subject.labels[labelled],
                class_names,
                positive,
                device=device,
                tta=tta,
                num_resamples=num_resamples,
                progress=progress,
            )
        merge_metrics(place.metrics_path, subject.name, entry)
    elif report and saliency and len(runs) == 1:
        figures += draw_evidence_without_labels(
            runs[0].module,
            _Images(subject, np.arange(len(subject.records))),
            subject.records.reset_index(drop=True),
            answers.probabilities,
            class_names,
            positive,
            figures_dir=place.figures_dir,
            name=subject.name,
            title=subject.title,
            threshold=threshold,
        )
    if report:
        drawn, undrawn = draw_assessment(runs[0], answers, entry, calibrated, place, num_resamples=num_resamples)
        figures, notes = [*drawn, *figures], [*notes, *undrawn]
    if report and entry is not None:
        mistakes = _with_pixels(subject, find_mistakes(predictions)) if thumbnails and not answers.folds else None
        report_path = write_report(
            place, mistakes=None if mistakes is None else {subject.name: mistakes}, thumbnails=thumbnails
        )
        shared_report_path = write_shared_report(place) if share else None
        write_model_card(place)
    if entry is not None:
        notes += track_evaluation(runs, place, answers, entry, tracking, thumbnails=tracking_thumbnails)
    return EvaluationResult(
        split=subject.name,
        entry=entry,
        predictions=predictions,
        output_dir=place.path,
        predictions_path=predictions_path,
        metrics_path=place.metrics_path,
        report_path=report_path,
        shared_report_path=shared_report_path,
        figures=figures,
        checkpoint_path=runs[0].path,
        num_looks=num_looks,
        warnings=subject.warnings,
        notes=[*(note for each in runs for note in each.notes), *subject.notes, *notes],
    )


@dataclass(frozen=True)
class _Images:
    """The prepared images of some of the records, by row among these."""

    subject: Subject
    rows: NDArray[np.int64]

    def __getitem__(self, rows: NDArray[np.int64]) -> Tensor:
        return self.subject.images(self.rows[rows])


def _output_dir(runs: Sequence[OpenedRun], output_dir: str | Path | None, digest: str) -> Path:
    if output_dir is not None:
        return Path(output_dir).expanduser()
    own = runs[0].results_dir
    return own.with_name(f"ensemble_{digest[:8]}") if len(runs) > 1 else own


def _calibration_path(runs: Sequence[OpenedRun], place: RunDirectory, tta: str) -> Path:
    """In the run itself, wherever the results go: other collections find it there."""
    own = runs[0].run_dir if len(runs) == 1 else None
    name = "calibration.json" if tta == "none" else f"calibration_{tta}.json"
    return (place.path if own is None else own) / name


def _with_pixels(subject: Subject, mistakes: Sequence[Mistake]) -> list[Mistake]:
    if not mistakes:
        return []
    pixels = subject.images(np.array([mistake.row for mistake in mistakes]))[:, 0].numpy()
    return [replace(mistake, pixels=image) for mistake, image in zip(mistakes, pixels, strict=True)]
