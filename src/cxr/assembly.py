"""What does each part get of the settings?  From a checked configuration to data, module and trainer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.errors import ConfigurationError, DataError
from cxr.evaluation.scoring.run_path import exported_folder, find_checkpoint, without_own_data
from cxr.open_run import OpenRun
from cxr.sweeps.trial import join_trial
from cxr.training.accelerators import resolve_devices
from cxr.training.run_directory import make_folder
from cxr.training.stage_plan import Stage, build_stages, sizes_of_epochs

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from cxr.audit.audit import Audit
    from cxr.pipeline.datamodule import CXRDataModule
    from cxr.training.module import CXRModule

Settings = Mapping[str, Any]


def build_data(settings: Settings, run: OpenRun) -> CXRDataModule:
    """Read, divide and prepare the radiographs; say and save what was kept and what was dropped.

    Raises:
        DataError: the collections are absent or unfit, or a patient stands on two sides of the split.
    """
    from cxr.audit.audit import write_audit
    from cxr.pipeline.bad_input import naming_all_bad
    from cxr.pipeline.splits import leaks_by_intention
    from cxr.report import report_audit, report_data

    with naming_all_bad((lambda: run.directory.dropped_path) if run.first else None):
        data = read_data(settings, progress=run.first)
    kind, unit = settings["data"]["split"]["kind"], settings["data"]["split"]["unit"]
    refuses = settings["audit"]["on_leak"] == "refuse" and not leaks_by_intention(kind, unit)
    if run.first:
        # Data with which a run goes on are held against its checkpoint later; others must not replace its own here.
        folder = run.directory.path if run.checkpoint_path is None else None
        report_data(folder, data)
        audit = audit_data(data, settings, shortcuts=settings["audit"]["shortcuts"])
        if folder is not None:
            write_audit(audit, folder)
        report_audit(audit)
    leaks = data.leaks
    if leaks and refuses:
        raise DataError(
            f"data.split.kind={kind}: {len(leaks)} patients stand on two sides of "
            f"the split (first: {leaks[0]}); use data.split.kind=holdout, or audit.on_leak=warn"
        )
    return data


def read_data(settings: Settings, *, progress: bool = True) -> CXRDataModule:
    """Read, divide and prepare the radiographs for a training.

    Raises:
        DataError: the collections are absent or unfit.
    """
    training = {name: settings[name] for name in ("balance", "augment", "seed")}
    sizes = sizes_of_epochs(_stages(settings), settings["data"]["image_size"])
    return _read_and_divide(settings, progress=progress, training_sizes=sizes, **training)


def _read_and_divide(settings: Settings, **more: Any) -> CXRDataModule:
    from cxr.pipeline.datamodule import CXRDataModule

    chosen = {name: value for name, value in settings["data"].items() if name not in ("name", "root")}
    paths = settings["paths"]
    data = CXRDataModule(**chosen, data_dir=paths["data"], cache_dir=paths["cache"], **more)
    data.setup("fit")
    return data


def audit_data(data: CXRDataModule, settings: Settings, *, shortcuts: bool) -> Audit:
    """Hold what was read against what it claims.

    Raises:
        DataError: a file is gone.
    """
    from cxr.audit.audit import audit_records
    from cxr.pipeline.splits import describe_split

    return audit_records(
        data.records,
        data.pairs,
        data.joins,
        data.class_names,
        data.positive,
        settings["paths"]["cache"],
        split_kind=describe_split(settings["data"]["split"]["kind"], settings["data"]["split"]["unit"]),
        aspect=settings["data"]["aspect"],
        shortcuts=shortcuts,
    )


def audit_collection(settings: Settings) -> tuple[Audit, Path]:
    """Read, divide and audit radiographs without training on them, and write all of it to a folder of its own.

    Returns:
        What was found, and the folder.

    Raises:
        DataError: the collections are absent or unfit.
    """
    from cxr.audit.audit import write_audit
    from cxr.evaluation.report.audit_page import write_audit_page
    from cxr.pipeline.bad_input import naming_all_bad
    from cxr.report import report_data

    paths = settings["paths"]
    new_folder = partial(make_folder, paths["output"], f"audit/{settings['data']['name']}")
    with naming_all_bad(lambda: new_folder() / "dropped.csv"):
        data = _read_and_divide(settings)
    folder = new_folder()
    report_data(folder, data)
    audit = audit_data(data, settings, shortcuts=settings["shortcuts"])
    write_audit(audit, folder)
    write_audit_page(audit, folder, data.records, data.pairs, paths["cache"], thumbnails=settings["thumbnails"])
    return audit, folder


def build_module(settings: Settings, data: CXRDataModule, run: OpenRun) -> CXRModule:
    """The network for these data, from the seed of the run; says which weights it starts from."""
    from cxr.report import report_weights

    # Where a run goes on the checkpoint holds all weights, and none are fetched.
    module = build_network(settings, data, begins=run.checkpoint_path is None)
    if settings["model"]["compile"]:
        # In place, so that the names of the weights stay; the copies that are validated and exported are not compiled.
        module.network.compile()
    if run.first:
        report_weights(module)
    return module


def require_network(settings: Settings, *, begins: bool) -> None:
    """Refuse a network or weights that are not to be had, before the data are read.

    Args:
        begins: see `build_network`.

    Raises:
        ConfigurationError, CheckpointError: in one line, with the way out.
    """
    from cxr.training.backbones import require_backbone

    model = settings["model"]
    require_backbone(
        model["name"], pretrained=model["pretrained"] and begins, weights=model["weights"] if begins else None
    )


def build_network(settings: Settings, data: CXRDataModule, *, begins: bool) -> CXRModule:
    """The network for these data, from the seed of the settings.

    Args:
        begins: whether it starts from the weights that the settings ask for.
    """
    import pytorch_lightning as pl

    from cxr.training.module import CXRModule

    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    model = settings["model"]
    return CXRModule(
        model["name"],
        class_names=data.class_names,
        positive=data.positive,
        image_size=settings["data"]["image_size"],
        aspect=settings["data"]["aspect"],
        pretrained=model["pretrained"] and begins,
        weights=model["weights"] if begins else None,
        head=model["head"],
        drop_rate=model["drop_rate"],
        drop_path_rate=model["drop_path_rate"],
        channels_last=model["channels_last"],
        optimizer=settings["optimizer"],
        schedule=settings["schedule"],
        loss=settings["loss"],
        class_weights=data.class_weights,
        class_priors=data.class_priors if settings["loss"]["name"] == "logit_adjusted" else None,
    )


def build_trainer(settings: Settings, run: OpenRun) -> pl.Trainer:
    """Lightning's trainer; what devices and precision became is said and logged."""
    from cxr.report import report_range_test, report_trainer, say
    from cxr.training.stage_control import StageControl
    from cxr.training.trainer import build_trainer as build

    run.track()
    stages = _stages(settings)
    chosen = {name: value for name, value in settings["trainer"].items() if name != "checkpoint"}  # asked afterwards
    begins_again = run.job.continues is not None and run.checkpoint_path is None
    trainer = build(
        run_dir=run.directory,
        stage_control=StageControl(say, partial(report_range_test, run)),
        sizes_differ=sizes_of_epochs(stages, settings["data"]["image_size"]) is not None,
        freezes=any(stage.freeze != "none" for stage in stages),
        logger=run.logger,
        progress=run.first,
        trial=join_trial(chosen["max_epochs"]),
        say=say,
        **chosen,
    )
    if run.first:
        report_trainer(trainer)
        if begins_again:
            say("No checkpoint was written before the run was stopped: it begins again")
    return trainer


def _stages(settings: Settings) -> list[Stage]:
    schedule, lr = settings["schedule"], settings["optimizer"]["lr"]
    given = schedule["stages"] or [{"epochs": settings["trainer"]["max_epochs"]}]
    return build_stages(given, lr=lr, schedule=schedule["name"])


_PASSED_ON = (
    "batch_size",
    "num_workers",
    "tta",
    "calibration",
    "operating_points",
    "abstain",
    "prevalence",
    "subgroups",
    "saliency",
    "auroc_interval",
    "shortcuts",
    "num_resamples",
    "thumbnails",
    "tracking",
    "tracking_thumbnails",
)


def evaluation_arguments(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of `evaluate_run`.

    Raises:
        CheckpointError: there is no checkpoint, said before anything heavy is imported.
        ConfigurationError: there is no such device, or an exported network has nothing to be scored on.
    """
    for run in settings["run"]:
        find_checkpoint(run, settings["checkpoint"])
        if settings["data"] is None and exported_folder(Path(run).expanduser()) is not None:
            raise ConfigurationError(without_own_data(run))
    resolve_devices(settings["trainer"]["gpus"])
    data, paths = settings["data"], settings["paths"]
    external = None
    if data is not None:
        names = ("sources", "classes", "views", "download", "on_bad", "max_unreadable")
        external = {name: data[name] for name in names}
    return {
        "run": settings["run"],
        "which": settings["checkpoint"],
        "split": settings["split"],
        "data": external,
        "data_name": None if data is None else data["name"],
        "gpus": settings["trainer"]["gpus"],
        **{name: settings[name] for name in _PASSED_ON},
        "share": settings["report"]["share"],
        "data_dir": None if paths["data"] is None else Path(paths["data"]),
        "cache_dir": None if paths["cache"] is None else Path(paths["cache"]),
        "output_dir": None if paths["output"] is None else Path(paths["output"]),
    }


def export_arguments(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of `export_run`.

    Raises:
        CheckpointError: there is no checkpoint, said before anything heavy is imported.
    """
    find_checkpoint(settings["run"], settings["checkpoint"])
    paths = settings["paths"]
    return {
        "which": settings["checkpoint"],
        "output_dir": settings["output"],
        "data_dir": paths["data"],
        "cache_dir": paths["cache"],
        **{
            name: settings[name]
            for name in ("run", "formats", "opset", "calibration", "operating_points", "num_images")
        },
    }
