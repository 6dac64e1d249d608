"""What do run directories look like?  Written by the program's own writers, from drawn predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cxr.evaluation.metrics_file import merge_metrics
from cxr.evaluation.predictions import predictions_table, write_predictions
from cxr.training.metrics import classification_metrics, confusion_matrix, predicted_classes
from cxr.training.run_directory import RunDirectory

SETTINGS: dict[str, Any] = {
    "name": "demo",
    "seed": 0,
    "paths": {"output": "outputs"},
    "data": {
        "name": "drawn",
        "root": None,
        "image_size": 64,
        "split": {"kind": "holdout", "seed": 0, "fold": 0},
        "classes": {"covid": ["COVID-19"], "other": ["rest"]},
    },
    "optimizer": {"name": "adamw", "lr": 0.001},
    "balance": {"sampler": "none", "weighting": "none"},
    "logger": {"name": "none"},
}


def draw_records(
    num_patients: int, *, images_per_patient: int = 1, source: str = "drawn", seed: int = 0
) -> pd.DataFrame:
    """Records of a validation split; two thirds are 'other'. The hash is of the number of the image."""
    generator = np.random.default_rng(seed)
    rows = []
    for patient in range(num_patients):
        label = "covid" if generator.random() < 1 / 3 or patient < 4 else "other"
        for number in range(images_per_patient):
            rows.append(
                {
                    "source": source,
                    "image": f"p{patient:04d}-{number}.png",
                    "label": label,
                    "patient": f"p{patient:04d}",
                    "group": f"{source}/p{patient:04d}",
                    "sha256": f"{seed:032x}{patient * 100 + number:032x}",
                    "split": "val",
                }
            )
    return pd.DataFrame(rows, dtype=object)


def draw_scores(records: pd.DataFrame, skill: float, *, seed: int, shared: float = 0.7) -> np.ndarray:
    """(N, 2) probabilities of covid and other; patients are as hard for every network as `shared` says."""
    common, own = np.random.default_rng(12345), np.random.default_rng(seed)
    patients, place = np.unique(records["group"].astype(str), return_inverse=True)
    hardness = common.normal(size=len(patients))[place]
    is_covid = (records["label"] == "covid").to_numpy()
    noise = shared * hardness + np.sqrt(1 - shared**2) * own.normal(size=len(records))
    covid = 1 / (1 + np.exp(-(skill * (is_covid - 0.5) + noise)))
    return np.column_stack([covid, 1 - covid]).astype(np.float32)


def write_run(
    path: Path,
    records: pd.DataFrame,
    probabilities: np.ndarray,
    *,
    everything: pd.DataFrame | None = None,
    settings: Mapping[str, Any] | None = None,
    split: str = "val",
    class_names: Sequence[str] = ("covid", "other"),
    entry: Mapping[str, Any] | None = None,
    epochs: int = 3,
) -> Path:
    """A finished run with the predictions of one split.

    Args:
        path: the run directory; one that is there gets a further split.
        records: (N,) of that split.
        probabilities: (N, C).
        everything: what split.csv holds, where that is more than the records.
        settings: dotted key -> value, in place of those of `SETTINGS`.
        split: val, test or a collection.
        class_names: (C,), the positive class first.
        entry: what metrics.json shall say besides or instead.
        epochs: rows of history.csv, 2.5 seconds each.
    """
    fresh = not (path / "status.json").exists()
    run = RunDirectory.take(path) if fresh else RunDirectory(path)
    if fresh:
        write_settings(run, settings or {})
        (records if everything is None else everything).to_csv(run.split_path, index=False)
        history = {"epoch": range(epochs), "step": range(epochs), "seconds": [2.5 * (n + 1) for n in range(epochs)]}
        pd.DataFrame(history).to_csv(run.history_path, index=False)
        run.write_status("finished", exit_status=0)
    labels = np.array([class_names.index(label) for label in records["label"]])
    called = predicted_classes(probabilities, 0)
    table = predictions_table(records, probabilities, [class_names[place] for place in called], class_names, 0.5)
    write_predictions(table, run.predictions_dir / f"{split}.csv")
    values = classification_metrics(probabilities, labels, class_names, class_names[0])
    matrix = confusion_matrix(called, labels, len(class_names))
    merge_metrics(
        run.metrics_path,
        split,
        {
            **{name: _limited(value, len(labels)) for name, value in values.items()},
            "confusion_matrix": {"classes": list(class_names), "rows": "actual", "counts": matrix.tolist()},
            "positive": class_names[0],
            "majority_class": class_names[-1],
            "warnings": [],
            "epoch": 1,
        }
        | dict(entry or {}),
    )
    return path


def _limited(value: float | None, n: int) -> dict[str, Any]:
    """A metric with limits that are written down, not worked out."""
    limits = (None, None) if value is None else (max(0.0, value - 0.05), value + 0.04)
    return {"value": value, "low": limits[0], "high": limits[1], "method": "drawn", "n": n, "baseline": None}


def write_settings(run: RunDirectory, changes: Mapping[str, Any]) -> None:
    settings = yaml.safe_load(yaml.safe_dump(SETTINGS))
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    run.config_path.write_text(
        "defaults:\n  - schema\n\n" + yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8"
    )


def end_run(path: Path, status: str, reason: str | None = None, *, settings: Mapping[str, Any] | None = None) -> Path:
    """A run that came to nothing."""
    run = RunDirectory.take(path)
    write_settings(run, settings or {})
    run.write_status(status, reason=reason, exit_status=1)  # type: ignore[arg-type]
    return path
