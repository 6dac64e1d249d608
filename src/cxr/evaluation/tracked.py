"""What of an evaluation goes to W&B, beside the run that was trained?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger, WandbLogger

from cxr.evaluation.metrics import METRICS

MAX_ROWS = 200  # of the table of predictions, the worst first
MAX_POINTS = 2000  # images behind a chart: W&B refuses tables of more than ten thousand rows


def track_evaluation(
    logger: Logger | None,
    name: str,
    entry: Mapping[str, Any],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> None:
    """Send the numbers of one evaluation, each with its bounds, and the charts that W&B draws itself.

    No file name and no patient leaves the run: an image is known by its row in ``predictions/<name>.csv``.

    Args:
        logger: from `cxr.training.tracking.build_logger`; nothing happens with any but W&B.
        name: split or collection.
        entry: what ``metrics.json`` holds of it.
        labels: (N,) 0..C-1, -1 = unlabelled.
        probabilities: (N, C).
        class_names: (C,).
        seed: of the choice of images behind the charts, where there are very many.
    """
    if not isinstance(logger, WandbLogger):
        return
    import wandb

    run = logger.experiment
    for metric in METRICS:
        if metric not in entry:
            continue
        for part, ending in (("value", ""), ("low", "_low"), ("high", "_high")):
            if entry[metric][part] is not None:
                run.summary[f"{name}/{metric}{ending}"] = entry[metric][part]
        run.summary[f"{name}/{metric}_n"] = entry[metric]["n"]
    rows = np.flatnonzero(labels >= 0)
    truth, given = labels[rows], probabilities[rows]
    called = given.argmax(axis=1)
    names = list(class_names)
    table = pd.DataFrame(
        {"row": rows, "label": np.array(names, object)[truth], "predicted": np.array(names, object)[called]}
    )
    for place, class_name in enumerate(names):
        table[f"prob_{class_name}"] = given[:, place].astype(float)
    table["prob_label"] = given[np.arange(len(rows)), truth].astype(float)
    worst = table.sort_values(["prob_label", "row"]).head(MAX_ROWS)
    shown = np.arange(len(rows))
    if len(shown) > MAX_POINTS:
        shown = np.sort(np.random.default_rng(seed).choice(shown, MAX_POINTS, replace=False))
    charts: dict[str, Any] = {
        f"{name}/predictions": wandb.Table(dataframe=worst),
        f"{name}/confusion_matrix": wandb.plot.confusion_matrix(
            y_true=truth.tolist(), preds=called.tolist(), class_names=names, title=f"{name}: confusion matrix"
        ),
    }
    if len(np.unique(truth)) > 1:
        drawn = {"y_true": truth[shown].tolist(), "y_probas": given[shown].tolist(), "labels": names}
        charts[f"{name}/roc"] = wandb.plot.roc_curve(**drawn, title=f"{name}: ROC")
        charts[f"{name}/precision_recall"] = wandb.plot.pr_curve(**drawn, title=f"{name}: precision and recall")
    run.log(charts)
