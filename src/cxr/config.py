"""What may a user set?  The typed schema of both programs, each key with its meaning, unit and range.

Nothing here imports torch or the rest of cxr: a mistake in the configuration is found before anything slow begins.
The checks of values and of their combinations stand in `config_check`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"
"""Where the options of each group lie, and the primary configurations."""


def setting(
    default: Any,
    meaning: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    changes_result: bool = True,
) -> Any:
    """A dataclass field that knows its meaning and its range.  A list or dict default is copied for every instance.

    Where a setting does not change what a run comes to (`changes_result`), a run may go on under another value of it.
    """
    metadata = {
        "meaning": meaning,
        "at_least": at_least,
        "at_most": at_most,
        "above": above,
        "below": below,
        "choices": choices,
        "changes_result": changes_result,
    }
    if isinstance(default, (list, dict)) or is_dataclass(default):
        return field(default_factory=lambda: _copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _copy(default: Any) -> Any:
    return dataclasses.replace(default) if is_dataclass(default) else type(default)(default)  # type: ignore[type-var]


# ------------------------------------------------------------------------------------------------ where things lie


@dataclass
class Paths:
    data: str = setting("data", "folder in which collections are looked for (default: $CXR_DATA, else data/)")
    output: str = setting("outputs", "folder that receives every run", changes_result=False)
    cache: str = setting(
        "${paths.output}/cache", "folder of the prepared images, shared by all runs", changes_result=False
    )


# ------------------------------------------------------------------------------------------------------------ data


@dataclass
class Split:
    kind: str = setting(
        "holdout",
        "how records are divided: holdout, kfold, leave_one_out (one source or country is the test set), predefined "
        "(the collection's own folders or column), random_image (by image: it leaks patients; for reproduction only), "
        "file",
        choices=("holdout", "kfold", "leave_one_out", "predefined", "random_image", "file"),
    )
    unit: str = setting(
        "group",
        "holdout, kfold: what is never divided: group (all that shows one patient or picture), patient (ids as listed: "
        "copies under two ids leak), image (leaks)",
        choices=("group", "patient", "image"),
    )
    val_fraction: float = setting(
        0.25,
        "share of the records for validation (kfold, leave_one_out: of those outside the test set)",
        above=0,
        below=1,
    )
    test_fraction: float = setting(
        0.2, "share of the records for the test set (holdout, random_image)", at_least=0, below=1
    )
    seed: int = setting(0, "seed of the division, apart from the seed of training", at_least=0)
    fold: int = setting(0, "kfold: which fold is the test set, counted from 0", at_least=0)
    num_folds: int = setting(5, "kfold: how many folds", at_least=2)
    column: str = setting("source", "leave_one_out: source or country", choices=("source", "country"))
    value: str | None = setting(
        None, "leave_one_out: the source or country that is the test set; records without a country always train"
    )
    path: str | None = setting(None, "file: a split.csv of an earlier run")


@dataclass
class CovidChestxraySource:
    kind: str = MISSING
    root: str = setting("covid-chestxray-dataset", "folder of the collection, relative to paths.data")
    views: list[str] | None = setting(None, "views taken from this source; null: as data.views")
    findings: list[str] | None = setting(None, "findings taken (names of the ontology); null: all that are labelled")
    address: str | None = setting(None, "where the collection is fetched; null: its public address")


@dataclass
class ClassFoldersSource:
    kind: str = MISSING
    root: str | None = setting(None, "folder that holds one folder per class, with or without train/val/test above")
    include: list[str] | None = setting(None, "class folders that are taken; null: all")
    folders: list[str] | None = setting(None, "the class folders that there must be; null: those that there are")
    patient: str = setting(
        "auto", "patient id from the file name: auto, nih, paediatric, none, or a pattern with one group"
    )


@dataclass
class TableSource:
    kind: str = MISSING
    root: str | None = setting(None, "the table: a CSV or parquet file")
    images: str | None = setting(None, "folder of the images; null: that of the table")
    image: str = setting("image", "column: image path below the folder of the images; may lack its ending")
    label: str | None = setting("label", "column: finding or class")
    patient: str | None = setting("patient", "column: patient id (always text)")
    view: str | None = setting("view", "column: view")
    sex: str | None = setting("sex", "column: sex")
    age: str | None = setting("age", "column: age in years")
    split: str | None = setting("split", "column: train, val or test, used by data.split.kind=predefined")
    table_source: str | None = setting("source", "column: where the image comes from")
    patient_pattern: str | None = setting(
        None, "pattern with one group that brings an id which counts visits to its patient; null: the id is the patient"
    )


@dataclass
class DicomSource:
    kind: str = MISSING
    root: str | None = setting(None, "folder of DICOM files, at any depth and of any name")
    images: str | None = setting(None, "folder below root that holds the files; null: root")
    labels: str | None = setting(
        None,
        "null: no labels; folders: the class folder; else a CSV or parquet table below root, of which several rows may "
        "be about one image",
    )
    include: list[str] | None = setting(None, "class folders that are taken (labels=folders); null: all")
    image: str = setting("image", "column: path or name of the file, with or without its ending, or SOP Instance UID")
    label: str = setting("label", "column: finding or class")
    split: str | None = setting(None, "column: train, val or test, used by data.split.kind=predefined; null: none")
    patient: str = setting(
        "header",
        "whose an image is: header (Patient ID, where it is empty the study), study (each is a patient), none (each "
        "image is)",
        choices=("header", "study", "none"),
    )
    patient_column: str | None = setting(None, "column: patient id, goes before the header; null: none")
    patient_pattern: str | None = setting(
        None, "pattern with one group that brings an id which counts visits to its patient; null: the id is the patient"
    )
    modalities: list[str] | None = setting(
        ["CR", "DX", "RG", "OT"], "modalities taken; files that name none are; null: all"
    )


@dataclass
class PhantomSource:
    kind: str = MISSING
    num_patients: int = setting(200, "patients drawn", at_least=2)
    images_per_patient: float = setting(2.0, "mean number of images of a patient", at_least=1, at_most=4)
    prevalence: float = setting(0.3, "share of the patients with COVID-19", above=0, below=1)
    strength: float = setting(
        1.0, "strength of the opacities: 0 cannot be told apart, 1 is plain", at_least=0, at_most=3
    )
    look: str = setting("a", "which of two scanners: a or b", choices=("a", "b"))
    marker: float = setting(
        0.0, "planted shortcut: 0 the corner marker is random, 1 it gives the label away", at_least=0, at_most=1
    )
    size: int = setting(256, "side of the drawings, pixels", at_least=64, at_most=2048)
    seed: int = setting(0, "seed of the drawings", at_least=0)


SOURCES: dict[str, type] = {
    "covid_chestxray": CovidChestxraySource,
    "class_folders": ClassFoldersSource,
    "table": TableSource,
    "dicom": DicomSource,
    "phantom": PhantomSource,
}


@dataclass
class Data:
    name: str = setting(MISSING, "name of the data option, used in tables")
    root: str | None = setting(None, "folder or table of an option with one source, relative to paths.data")
    sources: dict[str, Any] = setting(
        {}, "the collections that are joined: a name and a reader (kind, root, options) each"
    )
    classes: dict[str, list[str]] | None = setting(
        None, "class name: findings that belong to it, or [rest]; null: the folder names or label values"
    )
    positive: str | None = setting(None, "the class that sensitivity, AUROC and the like are about; null: the first")
    views: list[str] | None = setting(None, "views that are taken, where the view is known; null: all")
    download: bool = setting(False, "fetch a collection that is absent and has a public address", changes_result=False)
    on_bad: str = setting(
        "skip",
        "what becomes of bad rows and files (unreadable, missing, conflicting, leading out of the folder): skip leaves "
        "them out, counted and named in dropped.csv; fail ends the run with that list",
        choices=("skip", "fail"),
    )
    max_unreadable: float = setting(
        0.01, "share of unreadable images above which the run ends, also with on_bad=skip", at_least=0, at_most=1
    )
    look_for_copies: bool = setting(
        True, "compare all pictures before patients are divided, and join those who share one, or a part of one"
    )
    image_size: int = setting(224, "side of the prepared image, pixels", at_least=16, at_most=4096)
    aspect: str = setting(
        "crop", "how a picture becomes square: crop its longer side or pad with black", choices=("crop", "pad")
    )
    batch_size: int = setting(32, "images per step and process", at_least=1)
    num_workers: int = setting(
        0,
        "loader processes; 0 is fastest with the prepared images on most machines",
        at_least=0,
        changes_result=False,
    )
    split: Split = setting(Split(), "how the records are divided")


# -------------------------------------------------------------------------------------------------------- training


@dataclass
class Model:
    name: str = setting("resnet50", "backbone: any timm name")
    pretrained: bool | str = setting(
        True,
        "true (or imagenet): start from the weights that timm offers for the backbone, fetched once; false: do not",
    )
    weights: str | None = setting(
        None,
        "weights to start from: a file (.safetensors, .pth, .ckpt) or the directory of a run, for its checkpoint; "
        "goes before pretrained",
    )
    head: str = setting(
        "linear",
        "linear (the backbone's own classifier) or concat_pool (fastai's: greatest and mean value of each channel, a "
        "hidden layer; dropout 0.25 and 0.5)",
        choices=("linear", "concat_pool"),
    )
    drop_rate: float = setting(0.0, "dropout before the classifier (of head=linear)", at_least=0, below=1)
    drop_path_rate: float = setting(
        0.0,
        "stochastic depth: how often the last residual is left out of an image, the first ones more rarely (Huang et "
        "al. 2016)",
        at_least=0,
        below=1,
    )
    channels_last: bool = setting(True, "memory layout of convolutions; faster for most backbones")
    compile: bool = setting(
        False, "torch.compile: a minute or more at the start of each image size, then faster steps on some GPUs"
    )


@dataclass
class Optimizer:
    name: str = setting("adamw", "adamw (no decay on norms and biases) or sgd", choices=("adamw", "sgd"))
    lr: float = setting(1e-3, "learning rate; the highest that a schedule reaches", above=0, at_most=10)
    weight_decay: float = setting(0.01, "decoupled weight decay", at_least=0, at_most=10)
    momentum: float = setting(
        0.9, "momentum (sgd) or first beta (adamw), where the schedule does not cycle it", at_least=0, below=1
    )


@dataclass
class Stage:
    epochs: int = setting(MISSING, "epochs of the stage", at_least=1)
    lr: Any = setting(
        None,
        "highest rate of the stage; [low, high]: of the first half of the body and of the head; auto (the valley of a "
        "range test when the stage begins), steepest (the other suggestion); null: optimizer.lr",
    )
    spread: float = setting(1.0, "rate of the head over that of the first half of the body", at_least=1)
    freeze: str = setting(
        "none", "what stays as it is: none, half (the first half of the body), body", choices=("none", "half", "body")
    )
    freeze_batch_norm: bool = setting(False, "freeze the batch norms of frozen layers, too")
    schedule: str | None = setting(
        None, "one_cycle, cosine or constant; null: schedule.name", choices=("one_cycle", "cosine", "constant")
    )
    image_size: int | None = setting(
        None, "side of the training images, pixels; null: data.image_size", at_least=16, at_most=4096
    )


@dataclass
class Schedule:
    name: str = setting("one_cycle", "one_cycle, cosine or constant", choices=("one_cycle", "cosine", "constant"))
    warmup_fraction: float = setting(
        0.3, "share of the steps in which the rate rises (one_cycle, cosine)", at_least=0, below=1
    )
    div_factor: float = setting(25.0, "one_cycle: the rate starts at lr / div_factor", at_least=1)
    final_div_factor: float = setting(1e4, "one_cycle: the rate ends at lr / div_factor / final_div_factor", at_least=1)
    low_momentum: float = setting(0.85, "one_cycle: momentum where the rate is highest", at_least=0, below=1)
    high_momentum: float = setting(0.95, "one_cycle: momentum where the rate is lowest", at_least=0, below=1)
    stages: list[Any] | None = setting(
        None, "parts of the training, one after the other: {epochs, lr, freeze, ...}, see below; null: all of it is one"
    )


@dataclass
class Loss:
    name: str = setting(
        "cross_entropy",
        "cross_entropy, focal (what is answered well counts less, Lin et al. 2017) or logit_adjusted (for classes of "
        "unequal size, by their shares in training, Menon et al. 2021)",
        choices=("cross_entropy", "focal", "logit_adjusted"),
    )
    label_smoothing: float = setting(
        0.0, "share of the target spread over all classes (not with focal)", at_least=0, below=1
    )
    gamma: float = setting(2.0, "focal: how fast a good answer counts less; 0 is cross-entropy", at_least=0, at_most=10)
    tau: float = setting(
        1.0, "logit_adjusted: how far unequal sizes are corrected; 0 not at all, 1 in full", at_least=0, at_most=10
    )


@dataclass
class Balance:
    sampler: str = setting(
        "none",
        "none, oversample (weighted sampling with replacement), balanced_batches (as many of each class in a batch), "
        "repeat (images of smaller classes several times in an epoch, each time with another augmentation; the epoch "
        "becomes longer)",
        choices=("none", "oversample", "balanced_batches", "repeat"),
    )
    weighting: str = setting(
        "none",
        "class weights in the loss: none, inverse_frequency, effective_number (Cui et al. 2019)",
        choices=("none", "inverse_frequency", "effective_number"),
    )
    beta: float = setting(0.999, "effective_number: how fast further images of a class count less", at_least=0, below=1)
    allow_both: bool = setting(
        False, "let two of a sampler, class weights and loss.name=logit_adjusted correct the same imbalance"
    )


@dataclass
class Augment:
    horizontal_flip: float = setting(0.0, "probability of a mirror image", at_least=0, at_most=1)
    rotation_degrees: float = setting(0.0, "largest rotation either way, degrees", at_least=0, at_most=180)
    rotation_prob: float = setting(0.0, "probability of a rotation", at_least=0, at_most=1)
    zoom_max: float = setting(1.0, "largest magnification", at_least=1, at_most=4)
    zoom_prob: float = setting(0.0, "probability of a magnification", at_least=0, at_most=1)
    warp: float = setting(0.0, "largest perspective warp, share of the side", at_least=0, below=0.5)
    warp_prob: float = setting(0.0, "probability of a warp", at_least=0, at_most=1)
    brightness: float = setting(0.0, "largest change of brightness, share of the grey range", at_least=0, below=0.5)
    contrast: float = setting(1.0, "largest factor of contrast (and its inverse)", at_least=1, at_most=4)
    lighting_prob: float = setting(0.0, "probability of a change of brightness, and of contrast", at_least=0, at_most=1)
    mixup_alpha: float = setting(
        0.0,
        "mixup: the weighted mean of two images, weight from Beta(alpha, alpha); 0: off (Zhang et al. 2018: 0.2)",
        at_least=0,
        at_most=10,
    )
    cutmix_alpha: float = setting(
        0.0,
        "cutmix: a box of one image in another, its size from Beta(alpha, alpha); 0: off (Yun et al. 2019: 1)",
        at_least=0,
        at_most=10,
    )
    mix_prob: float = setting(
        1.0,
        "mixup, cutmix: probability that an image is mixed; mixed images count in train/loss alone, not in train/auroc",
        at_least=0,
        at_most=1,
    )


DEFAULT_EPOCHS = 20


@dataclass
class Trainer:
    gpus: int | None = setting(
        None, "null: one accelerator if there is one; 0: CPU; n: exactly n GPUs; -1: all GPUs", at_least=-1
    )
    max_epochs: int | None = setting(None, "epochs; null: 20, or as many as schedule.stages have together", at_least=1)
    precision: str = setting(
        "auto",
        "auto (16-mixed on CUDA, 32-true elsewhere), 16-mixed, bf16-mixed, 32-true",
        choices=("auto", "16-mixed", "bf16-mixed", "32-true"),
    )
    strategy: str = setting("auto", "auto or ddp (one process per device)", choices=("auto", "ddp"))
    num_processes: int | None = setting(None, "processes on a CPU; null: 2 with strategy=ddp, else 1", at_least=1)
    num_nodes: int = setting(1, "machines", at_least=1)
    accumulate_grad_batches: int = setting(1, "batches per optimiser step", at_least=1)
    ema_decay: float | None = setting(
        None,
        "decay of a moving average of the weights, per step (0.999, say), lower in the first steps; it is what is "
        "validated, kept and evaluated; null: off",
        above=0,
        below=1,
    )
    gradient_clip_val: float | None = setting(None, "largest norm of the gradient; null: no clipping", above=0)
    checkpoint: str = setting(
        "best",
        "weights that the run stands for, wherever no others are named: best (of the epoch with the highest val/auroc) "
        "or last (as the original work kept them)",
        choices=("best", "last"),
    )
    deterministic: bool = setting(False, "only algorithms that repeat to the last digit on a GPU (slower)")
    limit_train_batches: float | None = setting(
        None, "trials: number (> 1) or share (<= 1) of training batches; null: all", above=0
    )
    limit_val_batches: float | None = setting(
        None, "trials: number (> 1) or share (<= 1) of validation batches; null: all", above=0
    )
    early_stopping_patience: int | None = setting(
        None, "epochs without a better val/auroc before stopping; null: off", at_least=1
    )
    log_every_n_steps: int = setting(50, "steps between two logged training losses", at_least=1, changes_result=False)


@dataclass
class Audit:
    on_leak: str = setting(
        "refuse",
        "what happens where a patient or a picture stands on two sides of the split: refuse or warn",
        choices=("refuse", "warn"),
    )
    shortcuts: bool = setting(
        True, "ask simple models, before training, what they learn of the label without seeing the disease"
    )


@dataclass
class Logger:
    name: str = setting(
        "wandb",
        "wandb, csv, tensorboard or none",
        choices=("wandb", "csv", "tensorboard", "none"),
        changes_result=False,
    )
    project: str = setting("cxr", "W&B project", changes_result=False)
    entity: str | None = setting(None, "W&B account or team; null: the default of the key", changes_result=False)
    group: str | None = setting(None, "W&B group; null: the name of the experiment or the sweep", changes_result=False)
    tags: list[str] = setting([], "W&B tags", changes_result=False)
    notes: str | None = setting(None, "W&B notes: what this run is for, in your words", changes_result=False)
    log_model: str = setting(
        "best",
        "weights that go to W&B as an artifact, each once, without patients or file names: best (those that "
        "trainer.checkpoint names), all (best and last) or none",
        choices=("best", "all", "none"),
        changes_result=False,
    )
    capture: str = setting(
        "none",
        "what W&B may also take: console (what is printed, paths included), code (the source of cxr), all or none",
        choices=("none", "console", "code", "all"),
        changes_result=False,
    )


@dataclass
class Sweep:
    name: str | None = setting(
        None,
        "name of a multirun: its folder is <paths.output>/<name>/<sweep.name>, and the same command again goes on in "
        "it; null: a new folder with date and time",
        changes_result=False,
    )
    resume: str | None = setting(
        None,
        "folder of a multirun that goes on: finished jobs are kept, interrupted ones continued, missing ones run; "
        "alone with -m it repeats what was typed first",
        changes_result=False,
    )


@dataclass
class TrainConfig:
    name: str = setting("default", "name of the experiment: the folder of its runs")
    seed: int = setting(0, "seed of weights, order and augmentation", at_least=0, at_most=2**32 - 1)
    paths: Paths = setting(Paths(), "where things lie")
    data: Data = setting(Data(), "which radiographs, how they are divided and prepared")
    model: Model = setting(Model(), "the network")
    optimizer: Optimizer = setting(Optimizer(), "the optimiser")
    schedule: Schedule = setting(Schedule(), "the course of the learning rate, per step")
    loss: Loss = setting(Loss(), "the training loss")
    balance: Balance = setting(Balance(), "what is done about unequal classes")
    augment: Augment = setting(Augment(), "random changes of training images")
    trainer: Trainer = setting(Trainer(), "how long, on what, how precisely")
    audit: Audit = setting(Audit(), "what must hold before training begins")
    logger: Logger = setting(Logger(), "where metrics go")
    sweep: Sweep = setting(Sweep(), "where the jobs of a multirun (-m) go")
    resume: str | None = setting(
        None,
        "directory of a run that goes on from its last checkpoint, with the settings that it has; auto: the newest run "
        "of these settings that did not finish, or a new one",
        changes_result=False,
    )


# ------------------------------------------------------------------------------------------------------ evaluation


@dataclass
class EvaluatePaths:
    data: str | None = setting(None, "folder in which collections are looked for; null: as in training")
    cache: str | None = setting(None, "folder of the prepared images; null: as in training")
    output: str | None = setting(None, "folder for the results; null: the run (or beside a lone checkpoint)")


@dataclass
class EvaluateTrainer:
    gpus: int | None = setting(
        None, "null: one accelerator if there is one; 0: CPU; 1: one GPU", at_least=-1, at_most=1
    )


@dataclass
class EvaluateReport:
    share: bool = setting(
        False,
        "also write report_shared.html, for those who may not see the patients: no radiograph, patient, file name or "
        "path; a record has a keyed hash, and the key stays in the run",
    )


@dataclass
class EvaluateConfig:
    run: Any = setting(
        MISSING,
        "a run directory, a checkpoint file or an exported folder; several, run=[a,b,c], are averaged, or, as folds "
        "of one cross-validation, pooled out of fold",
    )
    checkpoint: str | None = setting(
        None,
        "which checkpoint of a run directory: best or last; null: that of its trainer.checkpoint",
        choices=("best", "last"),
    )
    split: str = setting("test", "which part of the run's own data", choices=("train", "val", "test"))
    data: Data | None = setting(None, "another collection, as one of the data options; null: the run's own data")
    tta: str = setting(
        "none",
        "test-time augmentation: none, flip (and the mirror image), crops (and five crops)",
        choices=("none", "flip", "crops"),
    )
    calibration: str = setting(
        "temperature",
        "how probabilities are calibrated, on validation only",
        choices=("temperature", "platt", "isotonic", "none"),
    )
    operating_points: list[str] = setting(
        ["youden", "sensitivity=0.95", "specificity=0.95"],
        "thresholds chosen on validation: youden, sensitivity=<share>, specificity=<share>, fixed=<probability>",
    )
    abstain: str | None = setting(
        None, "band without an answer, chosen on validation: share=<share>, both=<share> or between=<low>:<high>"
    )
    prevalence: float | None = setting(
        None, "prevalence for which PPV and NPV are also given; null: as in the images", above=0, below=1
    )
    subgroups: list[str] = setting(
        ["sex", "age", "view", "source", "country"], "columns of the manifest whose subgroups are compared"
    )
    saliency: int = setting(
        64, "images with lung masks whose Grad-CAM is measured, at most; 0: no Grad-CAM at all", at_least=0
    )
    auroc_interval: str = setting(
        "bootstrap",
        "interval of the AUROC: by resamples of the patients, or by DeLong, images of a patient as one cluster",
        choices=("bootstrap", "delong"),
    )
    shortcuts: bool = setting(
        True, "ask a single network again without the lungs, on a border alone and on pictures encoded anew"
    )
    num_resamples: int = setting(1000, "resamples of the patients behind every interval", at_least=100)
    thumbnails: bool = setting(True, "show the most confident mistakes in the report; false: no picture of a patient")
    report: EvaluateReport = setting(EvaluateReport(), "who is to read it")
    batch_size: int = setting(32, "images per step", at_least=1)
    num_workers: int = setting(0, "loader processes", at_least=0)
    tracking: str | None = setting(
        None, "where the numbers also go: wandb or none; null: as in training", choices=("wandb", "none")
    )
    tracking_thumbnails: bool = setting(
        False, "send the worst errors, 16 at most and small, to W&B too; false: no picture of a patient leaves the run"
    )
    paths: EvaluatePaths = setting(EvaluatePaths(), "where things lie")
    trainer: EvaluateTrainer = setting(EvaluateTrainer(), "on what to run")


# ---------------------------------------------------------------------------------------------------------- export

EXPORT_FORMATS = ("safetensors", "onnx")


@dataclass
class ExportPaths:
    data: str | None = setting(None, "folder in which the run's collections are looked for; null: as in training")
    cache: str | None = setting(None, "folder of the prepared images; null: as in training")


@dataclass
class ExportConfig:
    run: str = setting(MISSING, "a run directory or a checkpoint file")
    checkpoint: str | None = setting(
        None,
        "which checkpoint of a run directory: best or last; null: that of its trainer.checkpoint",
        choices=("best", "last"),
    )
    formats: list[str] = setting(
        list(EXPORT_FORMATS),
        "what is written beside model.json: safetensors (weights alone; what evaluate.py reads), onnx (needs the extra "
        "cxr[onnx])",
    )
    output: str | None = setting(
        None,
        "folder that receives the files, an exported network in it is replaced; null: <run>/export, or "
        "<checkpoint>_export beside a lone checkpoint",
    )
    opset: int = setting(18, "onnx: version of the operators", at_least=18, at_most=23)
    calibration: str | None = setting(
        None,
        "how probabilities are calibrated, on validation only; null: as in the run's calibration.json, temperature "
        "where it has none",
        choices=("temperature", "platt", "isotonic", "none"),
    )
    operating_points: list[str] | None = setting(
        None,
        "thresholds chosen on validation: youden, sensitivity=<share>, specificity=<share>, fixed=<probability>; null: "
        "as in the run's calibration.json, the first three (0.95) where it has none",
    )
    num_images: int = setting(
        32, "validation images on which every file is held against PyTorch, to 1e-4; at most", at_least=1
    )
    paths: ExportPaths = setting(ExportPaths(), "where things lie")


# --------------------------------------------------------------------------------------------------------- searching


@dataclass
class OptunaSweeper:
    """The keys below ``hydra.sweeper`` with ``hydra/sweeper=optuna``."""

    _target_: str = "hydra_plugins.optuna_sweeper.OptunaSweeper"
    n_trials: int | None = setting(
        None,
        "trials of the study that have ended when the search is over, those of earlier calls among them; null: 20, or "
        "the whole grid",
        at_least=1,
    )
    sampler: str = setting(
        "tpe",
        "how values are proposed: tpe, gp (Gaussian process; learns from completed trials only, slow beyond some "
        "hundred), random or grid (choices and ranges only)",
        choices=("tpe", "gp", "random", "grid"),
    )
    seed: int = setting(0, "seed of the proposals", at_least=0, at_most=2**31)
    n_startup_trials: int = setting(10, "trials at random before tpe or gp learns from them", at_least=1)
    pruner: str = setting(
        "median",
        "which trials end early, by their val/auroc of each epoch: none, median (below the median of the others), "
        "percentile, threshold, successive_halving or hyperband",
        choices=("none", "median", "percentile", "threshold", "successive_halving", "hyperband"),
    )
    n_warmup_epochs: int = setting(1, "epochs after which no trial is pruned", at_least=0)
    n_trials_before_pruning: int = setting(
        5, "trials that have to be completed before median and percentile prune", at_least=0
    )
    percentile: float = setting(25.0, "share of the best that percentile keeps, in percent", above=0, below=100)
    threshold: float = setting(0.5, "val/auroc below which threshold prunes", above=0, below=1)
    reduction_factor: int = setting(
        3, "successive_halving and hyperband keep one trial of so many at each rung", at_least=2
    )
    storage: str | None = setting(
        None, "database URL, or a journal file; null: optuna.journal in the folder of the sweep"
    )
    study_name: str | None = setting(None, "name of the study; null: <name>/<folder of the sweep>")
    params: dict[str, Any] = setting({}, "what is searched, as on the command line: key -> values")
    conditions: dict[str, Any] = setting(
        {}, "keys that are searched only where another has a value: {optimizer.momentum: {optimizer.name: sgd}}"
    )


# ----------------------------------------------------------------------------------------------------------- slurm


@dataclass
class SlurmLauncher:
    """The keys below ``hydra.launcher`` with ``hydra/launcher=slurm``."""

    _target_: str = "hydra_plugins.slurm_launcher.SlurmLauncher"
    partition: str | None = setting(None, "where the jobs run; null: the default partition of the cluster")
    account: str | None = setting(None, "who pays; null: your default account")
    qos: str | None = setting(None, "quality of service; null: the default")
    timeout_min: int = setting(240, "time limit of a job, minutes; it goes on in another when that is over", at_least=1)
    cpus_per_task: int | None = setting(None, "cores of each process; null: as the cluster deals them out", at_least=1)
    mem_gb: float | None = setting(None, "memory on each machine, GB; null: as the cluster deals it out", above=0)
    gpus_per_node: int | None = setting(
        None, "GPUs on each machine; null: as trainer.gpus asks, one where that is null and there are any", at_least=0
    )
    array_parallelism: int | None = setting(None, "jobs side by side; null: as many as Slurm lets", at_least=1)
    signal_delay_s: int = setting(
        120, "so long before the time limit a job ends by itself, to go on in another; seconds", at_least=1
    )
    max_num_timeout: int = setting(20, "how often a job may reach its time limit and go on", at_least=0)
    setup: list[str] = setting([], "commands before the job, such as 'module load cuda'")
    srun_args: list[str] = setting([], "further arguments of srun")
    additional_parameters: dict[str, Any] = setting(
        {}, "further options of sbatch: hydra.launcher.additional_parameters='{constraint: a100, exclusive: true}'"
    )


@dataclass
class RayLauncher:
    """The keys below ``hydra.launcher`` with ``hydra/launcher=ray``."""

    _target_: str = "hydra_plugins.ray_launcher.RayLauncher"
    address: str | None = setting(None, "a Ray cluster (auto: the one of this machine); null: one for this sweep")
    num_cpus_per_job: int = setting(1, "cores that each job takes of what Ray has", at_least=1)
    num_gpus_per_job: int | None = setting(
        None, "GPUs that each job takes; null: as trainer.gpus asks, none where that is null", at_least=0
    )


# ----------------------------------------------------------------------------------------------------------- audit


@dataclass
class AuditConfig:
    paths: Paths = setting(Paths(), "where things lie")
    data: Data = setting(Data(), "which radiographs, and how they are divided")
    shortcuts: bool = setting(True, "ask simple models what they learn of the label without seeing the disease")
    thumbnails: bool = setting(True, "show pairs of pictures side by side; false: no picture of a patient")


# ------------------------------------------------------------------------------------------------------- protocols

PROTOCOLS = ("random_image", "patient", "group", "source", "country")


@dataclass
class Protocols:
    run: list[str] = setting(
        list(PROTOCOLS),
        "ways of dividing: random_image, patient (ids as listed) and group in folds, source and country left "
        "out one by one; group, against which the others are held, must be among them",
    )
    num_folds: int = setting(5, "random_image, patient, group: how many folds", at_least=2)
    min_images: int = setting(
        20, "source, country: one of fewer images is not left out; each costs a training", at_least=1
    )
    num_resamples: int = setting(1000, "resamples of the patients behind every interval", at_least=100)
    resume: str | None = setting(None, "folder of an earlier call: its finished trainings are not done again")


@dataclass
class ProtocolsConfig(TrainConfig):
    protocols: Protocols = setting(Protocols(), "which protocols stand beside each other")


# ------------------------------------------------------------------------------------------------------ range test


@dataclass
class LrFind:
    stage: int = setting(1, "which of schedule.stages: what it freezes is frozen", at_least=1)
    lowest: float = setting(1e-7, "rate of the first step", above=0, below=1)
    highest: float = setting(10.0, "rate of the last step", above=0, at_most=1000)
    num_steps: int = setting(100, "steps, each of a batch; short epochs are repeated", at_least=20)


@dataclass
class LrFindConfig(TrainConfig):
    lr_find: LrFind = setting(LrFind(), "the range test")


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "audit": AuditConfig,
    "protocols": ProtocolsConfig,
    "lr_find": LrFindConfig,
}

# How each program is called.
COMMANDS = {
    "train": "python train.py",
    "evaluate": "python evaluate.py",
    "export": "python -m cxr.export",
    "audit": "python -m cxr.audit",
    "protocols": "python -m cxr.protocols",
    "lr_find": "python -m cxr.lr_find",
}

# What the checkpoint fixes: giving it to another collection would score other images than the network was made for.
FIXED_BY_CHECKPOINT = ("data.image_size", "data.aspect", "data.split", "data.batch_size", "data.num_workers")

# What each protocol sets itself.
FIXED_BY_PROTOCOL = tuple(
    f"data.split.{name}" for name in ("kind", "unit", "test_fraction", "fold", "num_folds", "column", "value", "path")
)


# --------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Key:
    """One key that may be set: its dotted name, default, what `setting` was told, and the dataclass it stands in."""

    name: str
    default: Any
    type_name: str
    metadata: Mapping[str, Any]
    section: bool
    owner: type


def keys(schema: type, prefix: str = "") -> Iterator[Key]:
    """Every key of a schema, depth first, in the order of the file; a section comes before its keys."""
    for item in fields(schema):
        nested = _nested(item)
        default = None
        if item.default is not dataclasses.MISSING:
            default = item.default
        elif item.default_factory is not dataclasses.MISSING and nested is None:
            default = item.default_factory()
        yield Key(prefix + item.name, default, str(item.type), item.metadata, nested is not None, schema)
        if nested is not None:
            yield from keys(nested, f"{prefix}{item.name}.")


def _nested(item: dataclasses.Field[Any]) -> type | None:
    found = globals().get(str(item.type).removesuffix(" | None"))
    return found if isinstance(found, type) and is_dataclass(found) else None
