"""What of an evaluation goes to W&B, beside the run that was trained?"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from cxr.evaluation.comparison.configurations import balance_in_words
from cxr.evaluation.metrics.measures import METRICS
from cxr.evaluation.report.figures import thumbnail
from cxr.evaluation.report.sharing import Pseudonyms
from cxr.evaluation.scoring.answers import Answers
from cxr.evaluation.scoring.checkpoint import OpenedRun
from cxr.training.run_directory import RunDirectory
from cxr.training.tracked_run import TrackedRun, recall
from cxr.training.tracking import build_logger, finish

MAX_ROWS = 200  # of the table of predictions, the worst first
MAX_THUMBNAILS = 16  # of these, errors that are shown
CALIBRATION_MEASURES = ("ece_equal_mass", "slope", "intercept")
MAX_POINTS = 2000  # images behind a chart: W&B refuses tables of more than ten thousand rows


def track_evaluation(
    runs: Sequence[OpenedRun],
    place: RunDirectory,
    answers: Answers,
    entry: Mapping[str, Any],
    tracking: str | None,
    *,
    thumbnails: bool = False,
) -> list[str]:
    """Send an evaluation to W&B as a run of its own, in the group of the run that was trained, which it names.

    Its settings name the trained run's id (``trained_run``) and the artifact with its weights (``model_artifact``);
    online it also uses that artifact, which W&B shows as lineage; of an offline run, `cxr.sync` says so to the server.

    No file name and no patient leaves the run: an image has the name that the run's ``record_names.csv`` explains, see
    `cxr.evaluation.report.sharing`. No picture leaves it either, unless `thumbnails` says so.

    Args:
        runs: the networks.
        place: where the evaluation lies. Within the run or its sweep it is tracked beside the training, so that
            ``wandb leet`` shows both; elsewhere it gets a ``tracking/`` of its own.
        answers: what they said.
        entry: what ``metrics.json`` holds of it.
        tracking: 'wandb' or 'none'; None: as in training.
        thumbnails: show the ``MAX_THUMBNAILS`` worst errors, small, in the table of predictions.

    Returns:
        What was asked for and not sent, a sentence each.
    """
    settings: dict[str, Any] = {}
    if runs[0].run_dir is not None and RunDirectory(runs[0].run_dir).config_path.is_file():
        settings = yaml.safe_load(RunDirectory(runs[0].run_dir).config_path.read_text(encoding="utf-8")) or {}
    logger_settings = settings.get("logger") or {}
    kind = tracking if tracking is not None else logger_settings.get("name", "none")
    if kind != "wandb":
        return [
            "tracking_thumbnails: nothing was sent: this evaluation is not tracked; add tracking=wandb"
        ] * thumbnails
    notes = []
    if thumbnails and answers.folds:
        thumbnails = False
        notes.append("tracking_thumbnails: none was sent: each fold has images of its own; evaluate a fold alone")
    evaluated = answers.subject.name
    trained = [None if each.run_dir is None else recall(RunDirectory(each.run_dir)) for each in runs]
    first, ids = trained[0], [None if each is None else each.id for each in trained]
    log_model = logger_settings.get("log_model")
    artifacts = [_artifact(one, network, log_model) for one, network in zip(trained, runs, strict=True)]
    what = first.name if first is not None and len(runs) == 1 else f"{settings.get('name', '')}/{place.path.name}"
    folder = place.tracking_dir
    if first is not None and place.path.resolve().is_relative_to(first.folder.parent):
        folder = first.folder
    logger = build_logger(
        "wandb",
        tracking_dir=folder,
        config={
            **(_training_settings(settings) if len(runs) == 1 else {}),
            "evaluated": evaluated,
            "trained_run": ids[0] if len(runs) == 1 else ids,
            "model_artifact": artifacts[0] if len(runs) == 1 else artifacts,
            "checkpoint_sha256": entry["checkpoint_sha256"],
            "epoch": entry["epoch"],
            "tta": entry["tta"],
        },
        name=f"{evaluated} of {what.lstrip('/')}",
        project=first.project if first is not None else logger_settings.get("project", "cxr"),
        entity=first.entity if first is not None else logger_settings.get("entity"),
        group=first.group if first is not None else logger_settings.get("group") or settings.get("name"),
        tags=logger_settings.get("tags") or (),
        job_type="evaluate",
        capture=logger_settings.get("capture") or "none",
    )
    status = 1
    try:
        if isinstance(logger, WandbLogger):
            notes += _use_models(logger.experiment, artifacts)
            pseudonyms = Pseudonyms(place)
            class_names = runs[0].module.class_names
            _send(logger.experiment, evaluated, entry, answers, class_names, pseudonyms, thumbnails=thumbnails)
            pseudonyms.write()
        status = 0
    finally:
        finish(logger, status)
    return notes


def _artifact(trained: TrackedRun | None, network: OpenedRun, log_model: str | None) -> str | None:
    """The artifact with the weights of a network; None where they did not go to W&B."""
    if trained is None or network.run_dir is None:
        return None
    which = network.path.stem
    sent = {"all": ("best", "last"), "none": ()}.get(log_model or "best", (RunDirectory(network.run_dir).stands_for,))
    return f"{trained.model_artifact}:{'latest' if which == 'last' else 'best'}" if which in sent else None


def _training_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the training under the keys that its own W&B run has, so that one chart shows both."""
    kept = {name: value for name, value in settings.items() if name != "defaults"}
    balance = kept.get("balance")
    if balance:
        kept["class_weighting"] = balance_in_words(balance["sampler"], balance["weighting"])
    return kept


def _use_models(run: Any, artifacts: Sequence[str | None]) -> list[str]:
    """Tell W&B which weights this run used; offline it cannot be told, see `cxr.sync`."""
    notes = []
    for artifact in artifacts:
        if artifact is None or run.offline:
            continue
        try:
            run.use_artifact(artifact)
        except Exception as error:  # deleted, or a server that does not answer: the numbers stand all the same
            notes.append(f"W&B: no lineage to {artifact} ({type(error).__name__}); it is named in the config")
    return notes


def _send(
    run: Any,
    name: str,
    entry: Mapping[str, Any],
    answers: Answers,
    class_names: Sequence[str],
    pseudonyms: Pseudonyms,
    *,
    thumbnails: bool,
) -> None:
    """The numbers, each with its bounds, and the charts that W&B draws itself."""
    import wandb

    for metric in METRICS:
        if metric not in entry:
            continue
        for part, ending in (("value", ""), ("low", "_low"), ("high", "_high")):
            if entry[metric][part] is not None:
                run.summary[f"{name}/{metric}{ending}"] = entry[metric][part]
        run.summary[f"{name}/{metric}_n"] = entry[metric]["n"]
    for measure in CALIBRATION_MEASURES:
        for when, ending in (("after", ""), ("before", "_before")):
            found = ((entry.get("calibration") or {}).get(when) or {}).get(measure) or {}
            if found.get("value") is not None:
                run.summary[f"{name}/{measure}{ending}"] = found["value"]
    labels = answers.subject.labels
    rows = np.flatnonzero(labels >= 0)
    truth, given = labels[rows], answers.probabilities[rows]
    called = given.argmax(axis=1)
    names = list(class_names)
    table = pd.DataFrame(
        {"row": rows, "label": np.array(names, object)[truth], "predicted": np.array(names, object)[called]}
    )
    for place, class_name in enumerate(names):
        table[f"prob_{class_name}"] = given[:, place].astype(float)
    table["prob_label"] = given[np.arange(len(rows)), truth].astype(float)
    worst = table.sort_values(["prob_label", "row"]).head(MAX_ROWS)
    records = answers.subject.records.iloc[worst["row"]]
    known = [pseudonyms.of_record(*map(str, each)) for each in zip(records["source"], records["image"], strict=True)]
    predictions = wandb.Table(dataframe=worst.drop(columns="row").assign(record=known))
    if thumbnails:
        predictions.add_column("image", _pictures(answers, worst), optional=True)
    shown = np.arange(len(rows))
    if len(shown) > MAX_POINTS:
        shown = np.sort(np.random.default_rng(0).choice(shown, MAX_POINTS, replace=False))
    charts: dict[str, Any] = {
        f"{name}/predictions": predictions,
        f"{name}/confusion_matrix": wandb.plot.confusion_matrix(
            y_true=truth.tolist(), preds=called.tolist(), class_names=names, title=f"{name}: confusion matrix"
        ),
    }
    if len(np.unique(truth)) > 1:
        drawn = {"y_true": truth[shown].tolist(), "y_probas": given[shown].tolist(), "labels": names}
        charts[f"{name}/roc"] = wandb.plot.roc_curve(**drawn, title=f"{name}: ROC")
        charts[f"{name}/precision_recall"] = wandb.plot.pr_curve(**drawn, title=f"{name}: precision and recall")
    bins = (entry.get("calibration") or {}).get("bins") or []
    if bins:
        columns = ["mean_predicted", "observed", "observed_low", "observed_high", "n"]
        points = wandb.Table(dataframe=pd.DataFrame(bins)[columns].astype(float))
        charts[f"{name}/reliability"] = wandb.plot.line(
            points, "mean_predicted", "observed", title=f"{name}: predicted and observed, calibrated"
        )
    if entry.get("subgroups"):
        charts[f"{name}/subgroups"] = wandb.Table(dataframe=subgroup_table(entry["subgroups"]))
    run.log(charts)


def subgroup_table(subgroups: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The subgroups that are large enough for a number, a row for each metric; the others are left out.

    Args:
        subgroups: as in ``metrics.json``.
    """
    columns = ["column", "value", "metric", "estimate", "low", "high", "images", "patients", "positives"]
    rows = [
        [
            each["column"],
            str(each["value"]),
            each["metric"],
            *(each["estimate"][part] for part in ("value", "low", "high")),
            *(each[part] for part in ("n", "patients", "positives")),
        ]
        for each in subgroups
        if each["estimate"]["value"] is not None
    ]
    return pd.DataFrame(rows, columns=columns)


def _pictures(answers: Answers, worst: pd.DataFrame) -> list[Any]:
    """A small picture for each of the first errors of the table, None for its other rows."""
    import wandb

    wrong = np.flatnonzero((worst["label"] != worst["predicted"]).to_numpy())[:MAX_THUMBNAILS]
    pictures: list[Any] = [None] * len(worst)
    if len(wrong):
        rows: NDArray[np.int64] = worst["row"].to_numpy(np.int64)[wrong]
        for place, pixels in zip(wrong, answers.subject.images(rows)[:, 0].numpy(), strict=True):
            with Image.open(io.BytesIO(thumbnail(pixels))) as picture:
                pictures[place] = wandb.Image(picture)
    return pictures
