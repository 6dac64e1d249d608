"""What do one or several networks answer, and about which images?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cxr.errors import ConfigurationError, DataError
from cxr.evaluation.scoring.checkpoint import OpenedRun
from cxr.evaluation.scoring.scoring import score
from cxr.evaluation.scoring.subject import Subject


@dataclass(frozen=True)
class Answers:
    """Probabilities of all images.

    Args:
        subject: the images; of several folds, all of theirs.
        probabilities: (N, C) float32 in the order of the subject's records; rows sum to 1.
        folds: network -> the rows (N,) that it answered, where every image was answered by the one network that had
            not seen it; empty where all networks answered all images.
    """

    subject: Subject
    probabilities: NDArray[np.float32]
    folds: dict[str, NDArray[np.bool_]]


def require_same_task(runs: Sequence[OpenedRun]) -> None:
    """Refuse networks whose probabilities mean different things.

    Raises:
        ConfigurationError: other classes, another order or another positive class; both are shown.
    """
    first = runs[0].module
    for run in runs[1:]:
        other = run.module
        if (other.class_names, other.positive) != (first.class_names, first.positive):
            tasks = (
                f"{path} tells [{', '.join(module.class_names)}] with {module.positive} as positive class"
                for path, module in ((runs[0].path, first), (run.path, other))
            )
            raise ConfigurationError(f"run: {', '.join(tasks)}; they cannot be averaged")


def answer(
    runs: Sequence[OpenedRun],
    subjects: Sequence[Subject],
    device: torch.device,
    *,
    tta: str = "none",
    progress: bool = True,
) -> Answers:
    """Ask every network about its own subject, and put the answers together.

    Several networks with the same images are an ensemble: their probabilities are averaged (Lakshminarayanan,
    Pritzel & Blundell, "Simple and scalable predictive uncertainty estimation using deep ensembles", 2017). Networks
    whose images have none in common are the folds of a cross-validation: every image keeps the answer of the one
    network that had not seen it.

    Args:
        runs: the networks, of the same task (`require_same_task`).
        subjects: what each is asked about; all of one name.
        device: where the networks run.
        tta: see `cxr.evaluation.scoring.test_time.views`.
        progress: show a bar on a terminal.

    Raises:
        DataError: images that are partly the same.
        DivergedError: a network gives no finite probabilities.
    """
    keys = [_keys(subject.records) for subject in subjects]
    pooled = len(runs) > 1 and _have_nothing_in_common(keys)
    if not pooled and any(set(other) != set(keys[0]) for other in keys[1:]):
        shared = len(set.intersection(*map(set, keys)))
        raise DataError(
            f"run: the {len(runs)} networks kept different images for {subjects[0].title.lower()} "
            f"({', '.join(str(len(each)) for each in keys)} images, {shared} common to all); give runs with one split, "
            "all folds of one cross-validation, or another collection with data=..."
        )
    answers = []
    for number, (run, subject) in enumerate(zip(runs, subjects, strict=True)):
        title = f"Scoring {subject.title}" + (f", network {number + 1} of {len(runs)}" if len(runs) > 1 else "")
        scores = score(
            run.module,
            subject.batches,
            device,
            num_images=len(subject.records),
            title=title,
            tta=tta,
            progress=progress,
        )
        answers.append(scores.probabilities)
    if len(runs) == 1:
        return Answers(subjects[0], answers[0], {})
    if pooled:
        return _pooled(runs, subjects, answers)
    row_of = {key: row for row, key in enumerate(keys[0])}
    total = answers[0].astype(np.float64)
    for own_keys, probabilities in zip(keys[1:], answers[1:], strict=True):
        aligned = np.empty_like(probabilities)
        aligned[[row_of[key] for key in own_keys]] = probabilities
        total += aligned
    note = f"an ensemble: the mean probability of {len(runs)} networks"
    subject = replace(subjects[0], notes=[note, *subjects[0].notes], warnings=_united(subjects))
    return Answers(subject, (total / len(runs)).astype(np.float32), {})


def _pooled(runs: Sequence[OpenedRun], subjects: Sequence[Subject], answers: Sequence[NDArray[np.float32]]) -> Answers:
    rows = np.repeat(np.arange(len(runs)), [len(subject.records) for subject in subjects])
    first = subjects[0]
    class_names = list(first.class_counts[first.name])
    counts = {name: sum(subject.class_counts[first.name][name] for subject in subjects) for name in class_names}
    subject = replace(
        first,
        title=f"{first.title}, out of fold",
        records=pd.concat([subject.records for subject in subjects], ignore_index=True),
        labels=np.concatenate([subject.labels for subject in subjects]),
        class_counts={first.name: counts},
        warnings=_united(subjects),
        notes=[f"out of fold: every image has the answer of the one of {len(runs)} networks that had not seen it"],
    )
    folds = {str(number): rows == number for number in range(len(runs))}
    return Answers(subject, np.concatenate(answers), folds)


def _keys(records: pd.DataFrame) -> list[tuple[str, str, str]]:
    """The same file under the same name: a name alone may be used twice, and so may a file."""
    columns = (records["sha256"], records["source"], records["image"])
    return [(str(sha256), str(source), str(image)) for sha256, source, image in zip(*columns, strict=True)]


def _have_nothing_in_common(keys: Sequence[Sequence[tuple[str, str, str]]]) -> bool:
    return len(set().union(*keys)) == sum(len(set(each)) for each in keys)


def _united(subjects: Sequence[Subject]) -> list[str]:
    return list(dict.fromkeys(warning for subject in subjects for warning in subject.warnings))
