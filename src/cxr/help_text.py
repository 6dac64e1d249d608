"""What can be typed?  The text of --help: every choice, every key with its meaning, unit and default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from cxr.config import SCHEMAS, SOURCES, Key, OptunaSweeper, RayLauncher, SlurmLauncher, Stage, keys

WIDTH = 118

USAGE = {
    "train": """\
Train a classifier of chest radiographs; the test set stays closed.

  python train.py experiment=demo                      drawn radiographs, no download
  python train.py model=resnet50 trainer.gpus=1        the default data set on exactly one GPU
  python train.py -m optimizer.lr=1e-4,1e-3 balance=none,oversample
                                                       a multirun: every combination, a table at the end
  python train.py -m <...> sweep.name=<name>           typed again, it goes on where it was stopped
  python train.py <...> resume=auto                    typed again, it goes on where it was stopped, or begins
  python train.py resume=<run>                         a run goes on from its last checkpoint
  python train.py --config-dir <run> --config-name config
                                                       a run again, from its own directory""",
    "evaluate": """\
Score a trained run on its test split, or on another collection.

  python evaluate.py run=<run directory or checkpoint>
  python evaluate.py run=<run> split=val
  python evaluate.py run=<run> data=class_folders data.root=<folder>
  python evaluate.py run=<exported folder> data=class_folders data.root=<folder>
  python evaluate.py run=<run> data=dicom data.root=<folder of DICOM files>
  python evaluate.py run=[<run>,<run>]          several networks: an ensemble, or the folds of a cross-validation
  python evaluate.py -m run=<run> data=chest_xray,covid_vs_normal     several collections, one table""",
    "export": """\
Write the network of a run to a folder that serves it elsewhere, and hold each file against PyTorch.

  python -m cxr.export run=<run directory or checkpoint>
  python -m cxr.export run=<run> output=<folder> formats=[safetensors]
  python evaluate.py run=<folder> data=<option>         an exported folder is scored like a run

model.json          classes, preparation, normalisation, calibration and thresholds, sha256 of the files, parity
model.safetensors   the state dict of the timm network
model.onnx          uint8 (B, 1, H, W) -> logits (B, C) and calibrated probabilities (B, C), for any B
None of them names a patient, a file, a path, a host or a user.""",
    "audit": """\
Look for copies, leaks and shortcuts among radiographs, before any training.

  python -m cxr.audit                                   the default data set and its default split
  python -m cxr.audit data=chest_xray
  python -m cxr.audit data=class_folders data.root=<folder> data.split.kind=predefined
  python -m cxr.audit data.split.kind=file data.split.path=<split.csv of a run>

Written to <paths.output>/audit/<data>_<date_time>: audit.html, audit.json, leaks.csv, same_pictures.csv, split.csv.
Exit status 3 where a picture or a patient stands on two sides of the split.""",
    "protocols": """\
Train one configuration under several splits, and say how far each flatters it. Takes every key of train.py.

  python -m cxr.protocols data=covid_vs_normal model=resnet18 trainer.max_epochs=10
  python -m cxr.protocols experiment=demo protocols.run=[random_image,group] protocols.num_folds=3
  python -m cxr.protocols <the same words> protocols.resume=<folder>      finished trainings are not done again

Each protocol is an ordinary sweep, whose command is printed, pooled out of fold by evaluate.py.
Written to <paths.output>/protocols/<name>/<date_time>: protocols.csv, .json and .html, figures, and all runs.""",
    "lr_find": """\
Find a learning rate by a range test (Smith 2017). Takes every key of train.py; nothing is trained.

  python -m cxr.lr_find experiment=demo
  python -m cxr.lr_find data=chest_xray model=resnet18 lr_find.num_steps=200
  python -m cxr.lr_find schedule.stages=[{epochs:1,freeze:body},{epochs:9}] lr_find.stage=2

Written to <paths.output>/lr_find/<name>/<date_time>: lr_find.png, lr_find.csv; tracked as logger.name says.""",
}

# Choices that are no section of the schema.
FURTHER_CHOICES = {"train": ("experiment", "sweep"), "protocols": ("experiment",), "lr_find": ("experiment",)}


LAUNCHER = {
    "hydra.launcher.n_jobs": "jobs side by side; null: as many as have GPUs of their own, one on a CPU (>= 1) [null]",
    "hydra.launcher.gpus_per_job": "GPUs that each job sees; null: as its trainer.gpus asks (>= 1) [null]",
}


def help_text(program: str, conf_dir: Path) -> str:
    """The help of a program.

    Args:
        program: 'train', 'evaluate', 'export', 'audit' or 'protocols'.
        conf_dir: the folder whose sub-folders are the choices and whose files are their options.
    """
    schema = SCHEMAS[program]
    names = {key.name for key in keys(schema)}
    parts = [USAGE[program]]
    choices = names | set(FURTHER_CHOICES.get(program, ()))
    folders = sorted(path for path in conf_dir.iterdir() if path.is_dir() and path.name in choices)
    if folders:
        parts += ["", "Choices (choice=option):"]
    for folder in folders:
        options = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        parts.append(textwrap.fill(options, WIDTH, initial_indent=f"  {folder.name:<12}", subsequent_indent=" " * 14))
    parts += ["", "Keys (key=value):"]
    for key in keys(schema):
        parts.append(f"\n  {key.name}: {key.metadata['meaning']}" if key.section else "\n".join(_lines(key)))
    if program == "train":
        parts += [
            "",
            "Launcher of a multirun (hydra.launcher.<key>=<value>; hydra/launcher=basic: all in one process):",
        ]
        parts += [f"  {name:<36}  {meaning}" for name, meaning in LAUNCHER.items()]
        parts += [
            "",
            "Search in a multirun (hydra/sweeper=optuna; interval(a,b), range(a,b,step), choice(a,b), tag(log, ...)):",
        ]
        searching = [key for key in keys(OptunaSweeper, "hydra.sweeper.") if "meaning" in key.metadata]
        parts += ["\n".join(_lines(key)) for key in searching]
        parts += ["", "Slurm runs the jobs of a multirun (hydra/launcher=slurm; hydra.launcher.<key>=<value>):"]
        parts += ["\n".join(_lines(key)) for key in keys(SlurmLauncher, "hydra.launcher.") if key.metadata]
        parts += ["", "Ray runs the jobs of a multirun (hydra/launcher=ray; hydra.launcher.<key>=<value>):"]
        parts += ["\n".join(_lines(key)) for key in keys(RayLauncher, "hydra.launcher.") if key.metadata]
    if "schedule" in names:
        parts += ["", "Keys of a stage (schedule.stages=[{epochs:1,freeze:body},{epochs:9,lr:[1e-5,1e-3]}]):"]
        parts += ["\n".join(_lines(key)) for key in keys(Stage)]
    if "data" in names:
        parts += ["", "Options of the sources (data.sources.<name>.<key>=<value>):"]
    for kind, source in SOURCES.items() if "data" in names else ():
        parts.append(f"\n  kind: {kind}")
        parts += ["\n".join(_lines(key)) for key in keys(source) if key.name != "kind"]
    parts += [
        "",
        "Flags: -m/--multirun, --cfg job (show the configuration), --config-dir, --config-name; others: --hydra-help",
    ]
    return "\n".join(parts)


def _lines(key: Key) -> Iterator[str]:
    default = "" if key.default == "???" else f" [{_shown(key.default)}]"
    text = f"{key.metadata['meaning']}{_range(key)}{default}"
    head = f"  {key.name}  "
    yield from textwrap.wrap(text, WIDTH, initial_indent=f"{head:<40}", subsequent_indent=" " * 40)


def _range(key: Key) -> str:
    bounds = [
        f"{phrase} {key.metadata[name]:.12g}"
        for name, phrase in (("at_least", ">="), ("above", ">"), ("at_most", "<="), ("below", "<"))
        if key.metadata.get(name) is not None
    ]
    return f" ({', '.join(bounds)})" if bounds else ""


def _shown(default: object) -> str:
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    return str(default)
