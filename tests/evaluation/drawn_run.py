"""A run directory with everything that a report can show: answers drawn by numpy, measured as an evaluation does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from cxr.evaluation.calibration.calibration import Calibration
from cxr.evaluation.calibration.metrics import measure_calibration
from cxr.evaluation.calibration.operating_point_metrics import measure_operating_points
from cxr.evaluation.calibration.operating_points import choose_operating_points
from cxr.evaluation.metrics.measures import measure
from cxr.evaluation.subgroups.dependence import dependence_table
from cxr.evaluation.subgroups.subgroups import subgroup_table
from cxr.training.run_directory import RunDirectory

NUM_RESAMPLES = 60  # enough for limits, and quick


def draw_run(
    path: Path,
    *,
    class_names: Sequence[str] = ("covid", "other"),
    names: Sequence[str] = ("val", "test", "hospital_b"),
    num_images: int = 240,
    prefix: str = "",
    seed: int = 0,
) -> RunDirectory:
    """Write a run.

    Args:
        path: the run directory.
        class_names: two; the first is the positive one.
        names: splits and collections that have an entry, in the order of the file.
        num_images: of each split.
        prefix: begins every name that comes from data: patients, images, sources, views.
        seed: of the numbers.
    """
    run = RunDirectory(path)
    run.figures_dir.mkdir(parents=True)
    run.predictions_dir.mkdir()
    generator = np.random.default_rng(seed)
    splits = {
        name: _draw_records(generator, name, num_images, class_names, prefix) for name in ("train", "val", "test")
    }
    pd.concat(splits.values()).to_csv(run.split_path, index=False)
    dropped = pd.DataFrame(
        {
            "source": f"{prefix}archive",
            "row": range(1, 8),
            "image": [f"{prefix}lost{n}.png" for n in range(7)],
            "reason": [*["view"] * 4, *["unlabelled"] * 2, f"{prefix}reason"],
            "detail": "",
        }
    )
    dropped.to_csv(run.dropped_path, index=False)
    epochs = np.arange(5)
    pd.DataFrame({"epoch": epochs, "seconds": 9.5 * (epochs + 1), "val/auroc": generator.random(5)}).to_csv(
        run.history_path, index=False
    )
    run.status_path.write_text(json.dumps({"status": "finished", "reason": None}), encoding="utf-8")
    probes = [{"name": name, "flagged": False} for name in ("file facts", "border", "without lungs")]
    audit = {"verdict": ["Shortcuts: none flagged."], "shortcuts": {"probes": probes}}
    run.audit_path.write_text(json.dumps(audit), encoding="utf-8")
    run.config_path.write_text(
        "# Repeats this run\ndefaults:\n  - schema\n  - _self_\n\n"
        + yaml.safe_dump(_settings(prefix), sort_keys=False),
        encoding="utf-8",
    )
    calibration = {"method": "temperature", "classes": list(class_names), "temperature": 1.37, "notes": []}
    (path / "calibration.json").write_text(json.dumps(calibration), encoding="utf-8")
    metrics = {}
    for name in names:
        records = splits.get(name)
        if records is None:
            records = _draw_records(generator, name, num_images, class_names, prefix)
        metrics[name] = _draw_entry(generator, run, name, records, list(class_names))
        if name in splits:
            everything = pd.concat(splits.values())
            labels = (everything["label"] != class_names[0]).to_numpy().astype(np.int64)
            metrics[name]["dependence_of_run"] = dependence_table(
                everything, labels, class_names, columns=["sex", "view", "source"], num_resamples=NUM_RESAMPLES
            )
    run.metrics_path.write_text(json.dumps(metrics, ensure_ascii=False), encoding="utf-8")
    looks = pd.DataFrame(
        {"time": "2026-01-01T00:00:00+00:00", "split": list(names), "checkpoint": "best.ckpt",
         "checkpoint_sha256": "ab" * 32, "num_images": num_images}
    )  # fmt: skip
    looks.to_csv(run.looks_path, index=False)
    for figure in ("training_curves", "class_counts"):
        draw_picture(run.figures_dir / f"{figure}.png", generator, 1000 if figure == "training_curves" else 500)
    return run


def _settings(prefix: str) -> dict[str, Any]:
    return {
        "name": "drawn",
        "seed": 0,
        "data": {
            "name": f"{prefix}archive",
            "sources": {f"{prefix}archive": {"kind": "class_folders"}},
            "classes": {"covid": ["COVID-19"], "other": ["rest"]},
            "views": ["PA", "AP"],
            "image_size": 224,
            "aspect": "crop",
            "split": {"kind": "holdout", "val_fraction": 0.25, "test_fraction": 0.2, "seed": 0},
        },
        "model": {"name": "resnet18", "pretrained": True, "weights": None, "drop_rate": 0.0},
        "optimizer": {"name": "adamw", "lr": 0.001, "weight_decay": 0.01},
        "schedule": {"name": "one_cycle"},
        "loss": {"label_smoothing": 0.0},
        "balance": {"sampler": "none", "weighting": "none"},
        "augment": {"rotation_degrees": 7.0, "rotation_prob": 0.75, "horizontal_flip": 0.0},
        "trainer": {"max_epochs": 5, "precision": "auto", "limit_train_batches": None, "limit_val_batches": None},
        "audit": {"on_leak": "refuse"},
    }


def edit_entry(run: RunDirectory, name: str, **changes: Any) -> None:
    """Replace keys of an entry of ``metrics.json``; None takes a key out."""
    content = json.loads(run.metrics_path.read_text(encoding="utf-8"))
    content[name] = {key: value for key, value in (content[name] | changes).items() if value is not None}
    run.metrics_path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def draw_picture(path: Path, generator: np.random.Generator, width: int = 600, height: int = 400) -> None:
    pixels = np.full((height, width), 255, np.uint8)
    curve = np.clip(height - 20 - np.cumsum(generator.random(width)) * (height - 40) / width * 1.6, 5, height - 5)
    for column, row in enumerate(curve.astype(int)):
        pixels[row : row + 4, column] = 60
    Image.fromarray(pixels).save(path)


def _draw_records(
    generator: np.random.Generator, split: str, number: int, class_names: Sequence[str], prefix: str
) -> pd.DataFrame:
    patients = generator.integers(0, number // 2, number)
    is_positive = generator.random(number // 2)[patients] < 0.45
    # The planted confound: the view goes with the label.
    view = np.where(generator.random(number) < np.where(is_positive, 0.3, 0.8), f"{prefix}PA", f"{prefix}AP")
    return pd.DataFrame(
        {
            "source": f"{prefix}archive",
            "image": [f"{prefix}{split}/{place:04d}.png" for place in range(number)],
            "finding": "",
            "label": np.where(is_positive, class_names[0], class_names[1]),
            "patient": [f"{prefix}{split}{patient:03d}" for patient in patients],
            "group": [f"{prefix}archive/{split}{patient:03d}" for patient in patients],
            "view": view,
            "sex": np.array(["F", "M", None])[patients % 3],
            "age": np.where(patients % 5 == 0, np.nan, 5.0 + patients % 80),
            "country": f"{prefix}Nowhere",
            "sha256": [f"{split}-{place:060d}" for place in range(number)],
            "split": split,
        }
    )


def _draw_entry(
    generator: np.random.Generator, run: RunDirectory, name: str, records: pd.DataFrame, class_names: list[str]
) -> dict[str, Any]:
    number = len(records)
    labels = (records["label"] != class_names[0]).to_numpy().astype(np.int64)
    scores = 1 / (1 + np.exp(-generator.normal(np.where(labels == 0, 1.0, -0.8), 1.2)))
    probabilities = np.stack([scores, 1 - scores], axis=1).astype(np.float32)
    predicted = (scores < 0.5).astype(np.int64)
    table = records[["image", "patient", "source", "label"]].reset_index(drop=True)
    for place, each in enumerate(class_names):
        table[f"prob_{each}"] = probabilities[:, place]
    table["predicted"] = np.array(class_names)[predicted]
    table["threshold"] = 0.5
    table.to_csv(run.predictions_dir / f"{name}.csv", index=False)
    for kind in ("confusion", "roc", "precision_recall", "reliability", "subgroups", "saliency_false_positives"):
        draw_picture(run.figures_dir / f"{name}_{kind}.png", generator)

    groups = records["group"].tolist()
    resampled = {"num_resamples": NUM_RESAMPLES, "seed": 0}
    entry = measure(
        probabilities, labels, groups, class_names, class_names[0], class_names[1],
        threshold=0.5, prevalences=[0.4, 0.6], **resampled,
    )  # fmt: skip
    entry["counts"] = {
        "images": number,
        "patients": int(records["group"].nunique()),
        "positives": int((labels == 0).sum()),
        "classes": {each: int((labels == place).sum()) for place, each in enumerate(class_names)},
        "unlabelled": 0,
    }
    entry |= {
        "positive": class_names[0], "threshold": 0.5, "majority_class": class_names[1],
        "majority_of": "the training split", "warnings": [], "notes": [f"{name}: read as it is"],
        "checkpoint": "best.ckpt", "checkpoint_sha256": "ab" * 32, "epoch": 3, "time": "2026-01-01T00:00:00+00:00",
        "looks": 1,
    }  # fmt: skip
    calibration = Calibration("temperature", tuple(class_names), temperature=1.37)
    calibrated = calibration.apply(probabilities)
    points = choose_operating_points(calibrated, labels, 0, ["youden", "sensitivity=0.95"], abstain="share=0.1")
    columns = ["sex", "view", "source"]
    entry["calibration"] = measure_calibration(probabilities, calibrated, labels, groups, 0, calibration, **resampled)
    entry["operating_points"] = measure_operating_points(
        points, calibrated, labels, groups, 0, prevalence=0.02, **resampled
    )
    entry["subgroups"] = subgroup_table(
        records, probabilities, labels, class_names, class_names[0], columns=columns, threshold=0.5, **resampled
    )
    entry["dependence"] = dependence_table(records, labels, class_names, columns=columns, **resampled)
    entry["saliency"] = {
        "class": class_names[0],
        "method": "Grad-CAM",
        "lung_share": {"value": 0.41, "low": 0.37, "high": 0.46, "n": 30, "method": "patient bootstrap"},
        "area_share": 0.29,
        "passed": True,
        "randomisation": {
            "cascade": [{"layers": 1, "of": 41, "correlation": {"value": 0.61, "low": 0.5, "high": 0.7, "n": 16}}],
            "correlation": {"value": 0.22, "low": 0.1, "high": 0.34, "n": 16},
            "limit": 0.5,
            "passed": True,
        },
        "panels": [f"{name}_saliency_false_positives.png"],
    }
    entry["shortcuts"] = {
        "images": 200,
        "patients": 90,
        "of": number,
        "limit": 200,
        "auroc": {"value": 0.9, "low": 0.85, "high": 0.94, "method": "drawn"},
        "limits": {"kept": 0.5, "kept_re_encoded": 0.8},
        "jpeg_quality": 75,
        "rows": [
            {
                "input": given,
                "auroc": {"value": 0.5 + 0.4 * kept, "low": 0.45 + 0.4 * kept, "high": 0.54 + 0.4 * kept},
                "kept": {"value": kept, "low": kept - 0.1, "high": kept + 0.1},
                "flagged": flagged,
                "verdict": f"keeps {kept:.2f} of its AUROC above chance {given}",
            }
            for given, kept, flagged in (("without lungs", 0.71, True), ("lungs only", 0.42, None))
        ],
    }
    return entry
