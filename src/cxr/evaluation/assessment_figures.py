"""Which figures belong to an evaluation?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.evaluation.calibration.figures import draw_operating_points, draw_reliability
from cxr.evaluation.figures import (
    draw_class_counts,
    draw_confusion,
    draw_precision_recall,
    draw_roc,
    draw_training_curves,
)
from cxr.evaluation.metrics.curves import curve_bands, threshold_rates
from cxr.evaluation.scoring.answers import Answers
from cxr.evaluation.scoring.checkpoint import OpenedRun
from cxr.evaluation.subgroups.figures import draw_dependence, draw_subgroups
from cxr.training.run_directory import RunDirectory


def draw_assessment(
    opened: OpenedRun,
    answers: Answers,
    entry: Mapping[str, Any] | None,
    calibrated: NDArray[np.float32] | None,
    place: RunDirectory,
    *,
    num_resamples: int,
) -> tuple[list[Path], list[str]]:
    """Draw what there is to see, and say what could not be drawn.

    Args:
        opened: the network, or the first of several.
        answers: of all images, also those without a label.
        entry: what ``metrics.json`` holds of them; None where none has a label.
        calibrated: (N, C) calibrated probabilities of all images; None: there is no calibration.
        place: receives ``figures/``.
        num_resamples: of the patients, behind the bands of the curves.

    Returns:
        The PNG files, and a sentence for each that is missing.
    """
    drawn: list[Path] = []
    notes: list[str] = []
    subject, probabilities = answers.subject, answers.probabilities

    def figure(name: str) -> Path:
        drawn.append(place.figures_dir / f"{name}.png")
        return drawn[-1]

    if opened.run_dir is not None:
        history_path, rates_path = RunDirectory(opened.run_dir).history_path, RunDirectory(opened.run_dir).rates_path
        path = place.figures_dir / "training_curves.png"
        course = pd.read_csv(rates_path) if rates_path.is_file() else None
        if history_path.is_file() and draw_training_curves(pd.read_csv(history_path), path, opened.epoch, course):
            drawn.append(path)
        else:
            notes.append(f"no training curves: {history_path} is missing or empty")
    if entry is None:
        return drawn, notes
    own = len(subject.class_counts) > 1
    draw_class_counts(subject.class_counts, figure("class_counts" if own else f"{subject.name}_class_counts"))
    class_names, positive = opened.module.class_names, opened.module.positive
    draw_confusion(
        np.array(entry["confusion_matrix"]["counts"]),
        class_names,
        figure(f"{subject.name}_confusion"),
        title=subject.title,
        majority=subject.majority,
    )
    path = place.figures_dir / f"{subject.name}_subgroups.png"
    overall = entry["auroc"]["value"]
    if draw_subgroups(
        entry.get("subgroups", []), path, metric="auroc", title=f"{subject.title}: AUROC of subgroups", overall=overall
    ):
        drawn.append(path)
    path = place.figures_dir / f"{subject.name}_dependence.png"
    if draw_dependence(entry.get("dependence", []), path, title=f"{subject.title}: what goes with the label"):
        drawn.append(path)
    num_images, num_positives = entry["counts"]["images"], entry["counts"]["positives"]
    if num_positives in (0, num_images):
        notes.append(f"no ROC and no precision-recall curve: {entry['auroc']['reason']}")
        return drawn, notes
    labelled, target = subject.labels >= 0, class_names.index(positive)
    labels, scores = subject.labels[labelled], probabilities[labelled, target]
    rates = threshold_rates(scores, labels == target)
    groups = subject.records.loc[labelled, "group"].astype(str).tolist()
    bands = curve_bands(scores, labels == target, groups, num_resamples=num_resamples)
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
        interval=_interval(entry["auroc"]),
        band=None if bands is None else bands.roc,
    )
    draw_precision_recall(
        rates,
        figure(f"{subject.name}_precision_recall"),
        title=title,
        sides=sides,
        average_precision=entry["average_precision"]["value"],
        prevalence=num_positives / num_images,
        threshold=entry["threshold"],
        interval=_interval(entry["average_precision"]),
        band=None if bands is None else bands.precision_recall,
    )
    if calibrated is not None:
        of_positive = calibrated[labelled, target]
        draw_reliability(
            entry["calibration"],
            scores,
            of_positive,
            figure(f"{subject.name}_reliability"),
            title=f"{subject.title}: calibration",
            positive=positive,
        )
        if entry["operating_points"]:
            draw_operating_points(
                threshold_rates(of_positive, labels == target),
                entry["operating_points"],
                figure(f"{subject.name}_operating_points"),
                title=f"{subject.title}: thresholds chosen on validation",
                sides=sides,
            )
    return drawn, notes


def _interval(metric: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if metric["low"] is None else (metric["low"], metric["high"])
