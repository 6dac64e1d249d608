"""Which calibration and thresholds go with a network?  Those kept in its run, else new ones, from validation only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cxr.errors import DataError
from cxr.evaluation.calibration.calibration import fit_calibration
from cxr.evaluation.calibration.operating_points import choose_operating_points
from cxr.evaluation.calibration.stored import FittedOn, StoredCalibration, read_calibration, write_calibration
from cxr.evaluation.scoring.answers import Answers


def fit_or_recall(
    path: Path,
    validation: Callable[[], Answers],
    class_names: Sequence[str],
    positive: str,
    *,
    method: str,
    rules: Sequence[str],
    abstain: str | None,
    checkpoint: str,
    checkpoint_sha256: str,
) -> tuple[StoredCalibration | None, list[str]]:
    """Take what lies in the file if it was made from this checkpoint in this way; else fit, and keep it.

    Args:
        path: ``calibration.json`` of the run.
        validation: gives the answers on the validation split; called only where something must be fitted.
        class_names: (C,) in the order of the columns.
        positive: the class that the thresholds are about.
        method: see `fit_calibration`.
        rules, abstain: see `choose_operating_points`.
        checkpoint, checkpoint_sha256: what is evaluated; another checkpoint needs a calibration of its own.

    Returns:
        None where there is nothing to fit to, and in a sentence why.

    Raises:
        ConfigurationError: a method or a rule that is none.
        DataError: the file is damaged.
        DivergedError: the network gives no finite probabilities.
    """
    stored = read_calibration(path)
    if stored is not None and _is_this(stored, class_names, positive, method, rules, abstain, checkpoint_sha256):
        return stored, []
    try:
        answers = validation()
        if answers.folds:
            return None, ["no calibration and no thresholds: the networks were validated on different images"]
        subject = answers.subject
        labelled = subject.labels >= 0
        labels, probabilities = subject.labels[labelled], answers.probabilities[labelled]
        target = list(class_names).index(positive)
        calibration = fit_calibration(probabilities, labels, class_names, method=method)
        points = choose_operating_points(
            calibration.apply(probabilities), labels, target, rules, abstain=abstain, chosen_on="val"
        )
    except DataError as error:  # the files of the training are elsewhere, or validation holds one class only
        return None, [f"no calibration and no thresholds: {' '.join(str(error).split())}"]
    stored = StoredCalibration(
        calibration=calibration,
        operating_points=tuple(points),
        positive=positive,
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint_sha256,
        fitted_on=FittedOn(
            split="val",
            images=len(labels),
            patients=int(subject.records.loc[labelled, "group"].nunique()),
            positives=int((labels == target).sum()),
        ),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_calibration(path, stored)
    return stored, []


def _is_this(
    stored: StoredCalibration,
    class_names: Sequence[str],
    positive: str,
    method: str,
    rules: Sequence[str],
    abstain: str | None,
    checkpoint_sha256: str,
) -> bool:
    points = stored.operating_points
    return (
        stored.checkpoint_sha256 == checkpoint_sha256
        and stored.positive == positive
        and list(stored.calibration.classes) == list(class_names)
        and stored.calibration.method == method
        and [point.rule for point in points] == list(rules)
        # A band that could not be had left a note and no band; it is tried again.
        and all((None if point.abstain is None else point.abstain.rule) == abstain for point in points)
    )
