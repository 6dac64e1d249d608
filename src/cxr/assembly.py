"""What does each part get of the settings?  From a checked configuration to an open run, data, module and trainer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cxr.command_line import Job
from cxr.errors import CxrError, DataError, DivergedError
from cxr.evaluation.run_path import find_checkpoint
from cxr.training.accelerators import resolve_devices, resolve_precision
from cxr.training.run_directory import RunDirectory, write_atomically

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import Logger

    from cxr.pipeline.datamodule import CXRDataModule
    from cxr.training.module import CXRModule

Settings = Mapping[str, Any]

_CONFIG_HEAD = """\
# Repeats this run, from the folder that it was started in:
#   python train.py --config-dir {path} --config-name config
defaults:
  - schema
  - hydra_settings
  - _self_

"""


@dataclass
class OpenRun:
    """A run while it goes on.

    Attributes:
        job: what was asked for.
        directory: where the run keeps its books.
        first: whether this is the process that keeps the books.
        logger: where its metrics go, once `track` was called; None for none, and in all processes but the first.
    """

    job: Job
    directory: RunDirectory
    first: bool
    logger: Logger | None = None

    def track(self) -> None:
        """Open the tracking: not before there is something to track, so that a mistake in the data leaves no trace."""
        from cxr.training.tracking import build_logger

        if not self.first:
            return
        settings, chosen = self.job.settings, self.job.settings["logger"]
        sweep = None if self.job.sweep_dir is None else self.job.sweep_dir.name
        differs = ", ".join(f"{name}={value}" for name, value in self.job.chosen.items())
        self.logger = build_logger(
            chosen["name"],
            tracking_dir=self.directory.tracking_dir,
            config=settings,
            name=f"{settings['name']}/{self.directory.path.name}" if sweep is None else f"{self.job.number}: {differs}",
            project=chosen["project"],
            entity=chosen["entity"],
            group=chosen["group"] if chosen["group"] is not None else (settings["name"] if sweep is None else sweep),
            tags=chosen["tags"],
        )


@contextmanager
def open_run(job: Job) -> Iterator[OpenRun]:
    """Make the run directory; in the end write what the run came to, and close its tracking with it.

    Raises:
        ConfigurationError: the devices or the precision that were asked for are not to be had, before anything is
            written.
    """
    settings, trainer = job.settings, job.settings["trainer"]
    devices = resolve_devices(trainer["gpus"], strategy=trainer["strategy"], num_processes=trainer["num_processes"])
    resolve_precision(trainer["precision"], devices["accelerator"])
    joined = RunDirectory.join()
    if joined is not None:
        yield OpenRun(job, joined, first=False)
        return
    if job.sweep_dir is not None:
        directory = RunDirectory.take(job.sweep_dir / str(job.number))
    else:
        directory = RunDirectory.create(settings["paths"]["output"], settings["name"])
    shown = os.path.relpath(directory.path)
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    write_atomically(directory.config_path, _CONFIG_HEAD.format(path=shown) + text)
    run = OpenRun(job, directory, first=True)
    status, reason, exit_status = "failed", None, 1
    try:
        yield run
        status, exit_status = "finished", 0
    except CxrError as error:
        status = "diverged" if isinstance(error, DivergedError) else "failed"
        reason, exit_status = " ".join(str(error).split()), error.exit_status
        raise
    except SystemExit as end:  # a signal: 128 + its number
        exit_status = end.code if isinstance(end.code, int) else 1
        status, reason = "interrupted", f"exit status {exit_status}"
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    finally:
        if run.logger is not None:
            from cxr.training.tracking import finish

            finish(run.logger, exit_status)
        directory.write_status(status, reason=reason, exit_status=exit_status)  # type: ignore[arg-type]


def build_data(settings: Settings, run: OpenRun) -> CXRDataModule:
    """Read, divide and prepare the radiographs; say and save what was kept and what was dropped.

    Raises:
        DataError: the collections are absent or unfit, or a patient stands on two sides of the split.
    """
    from cxr.pipeline.datamodule import CXRDataModule
    from cxr.report import report_data

    chosen = {name: value for name, value in settings["data"].items() if name not in ("name", "root")}
    paths = settings["paths"]
    data = CXRDataModule(
        **chosen,
        data_dir=paths["data"],
        cache_dir=paths["cache"],
        balance=settings["balance"],
        augment=settings["augment"],
        seed=settings["seed"],
        progress=run.first,
    )
    data.setup("fit")
    if run.first:
        report_data(run.directory, data, settings["data"]["split"]["kind"])
    if data.leaks and settings["audit"]["on_leak"] == "refuse" and settings["data"]["split"]["kind"] != "random_image":
        raise DataError(
            f"data.split.kind={settings['data']['split']['kind']}: {len(data.leaks)} patients stand on two sides of "
            f"the split (first: {data.leaks[0]}); use data.split.kind=holdout, or audit.on_leak=warn"
        )
    return data


def build_module(settings: Settings, data: CXRDataModule) -> CXRModule:
    """The network for these data, from the seed of the run."""
    import pytorch_lightning as pl

    from cxr.report import report_weights
    from cxr.training.module import CXRModule

    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    model = settings["model"]
    module = CXRModule(
        model["name"],
        class_names=data.class_names,
        positive=data.positive,
        image_size=settings["data"]["image_size"],
        aspect=settings["data"]["aspect"],
        pretrained=model["pretrained"],
        weights=model["weights"],
        drop_rate=model["drop_rate"],
        channels_last=model["channels_last"],
        optimizer=settings["optimizer"],
        schedule=settings["schedule"],
        loss=settings["loss"],
        class_weights=data.class_weights,
    )
    report_weights(module)
    return module


def build_trainer(settings: Settings, run: OpenRun) -> pl.Trainer:
    """Lightning's trainer; what devices and precision became is said and logged."""
    from cxr.report import report_trainer
    from cxr.training.trainer import build_trainer as build

    run.track()
    trainer = build(run_dir=run.directory, logger=run.logger, progress=run.first, **settings["trainer"])
    if run.first:
        report_trainer(trainer)
    return trainer


def evaluation_arguments(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of `evaluate_run`.

    Raises:
        CheckpointError: there is no checkpoint, said before anything heavy is imported.
        ConfigurationError: there is no such device.
    """
    find_checkpoint(settings["run"], settings["checkpoint"])
    resolve_devices(settings["trainer"]["gpus"])
    data, paths = settings["data"], settings["paths"]
    external = None
    if data is not None:
        names = ("sources", "classes", "views", "download", "max_unreadable")
        external = {name: data[name] for name in names}
    return {
        "run": settings["run"],
        "which": settings["checkpoint"],
        "split": settings["split"],
        "data": external,
        "data_name": None if data is None else data["name"],
        "gpus": settings["trainer"]["gpus"],
        "batch_size": settings["batch_size"],
        "num_workers": settings["num_workers"],
        "data_dir": None if paths["data"] is None else Path(paths["data"]),
        "cache_dir": None if paths["cache"] is None else Path(paths["cache"]),
        "output_dir": None if paths["output"] is None else Path(paths["output"]),
    }
