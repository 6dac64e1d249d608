"""Find a learning rate for one configuration by a range test: python -m cxr.lr_find --help"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from cxr.command_line import Job, launch
from cxr.errors import ConfigurationError
from cxr.resumption import OF_THE_CALL
from cxr.training.accelerators import resolve_devices

if TYPE_CHECKING:
    from cxr.training.lr_finder import LrCurve


def lr_find(job: Job) -> None:
    """Read the data, build the network, test the rates, and say and draw what was found; nothing is trained.

    Raises:
        ConfigurationError: there is no such stage or device; before anything is read.
    """
    settings, chosen = job.settings, job.settings["lr_find"]
    num_stages = len(settings["schedule"]["stages"] or [None])
    if chosen["stage"] > num_stages:
        raise ConfigurationError(f"lr_find.stage={chosen['stage']}: there are {num_stages} (schedule.stages)")
    trainer = settings["trainer"]
    resolve_devices(trainer["gpus"], strategy=trainer["strategy"], num_processes=trainer["num_processes"])

    from cxr.assembly import build_network, read_data, require_network
    from cxr.training.range_test import find_rates
    from cxr.training.run_directory import make_folder

    require_network(settings, begins=True)
    data = read_data(settings)
    module = build_network(settings, data, begins=True)
    curve = find_rates(
        module,
        data,
        stage=chosen["stage"] - 1,
        max_epochs=trainer["max_epochs"],
        gpus=trainer["gpus"],
        precision=trainer["precision"],
        lowest=chosen["lowest"],
        highest=chosen["highest"],
        num_steps=chosen["num_steps"],
    )
    folder = make_folder(settings["paths"]["output"], f"lr_find/{settings['name']}")
    _report(curve, folder, settings)


def _report(curve: LrCurve, folder: Path, settings: dict[str, Any]) -> None:
    from cxr.evaluation.range_test_figure import draw_range_test, write_range_test

    figure = folder / "lr_find.png"
    write_range_test(curve, folder / "lr_find.csv")
    draw_range_test(curve, figure, f"{settings['model']['name']} on {settings['data']['name']}")
    console = Console(highlight=False, soft_wrap=True)
    if curve.useless:
        console.print(
            f"[bold red]No rate is suggested: {escape(curve.useless)}.[/] Look at the curve; try more steps "
            "(lr_find.num_steps), a larger batch, or another range (lr_find.lowest, lr_find.highest)."
        )
    else:
        console.print(f"Valley:   {curve.valley:.2g}   (schedule.stages=[{{epochs:<n>,lr:auto}}] takes this)")
        console.print(f"Steepest: {curve.steepest:.2g}")
        console.print(f"Try: optimizer.lr={curve.valley:.2g}")
    console.print(f"Curve: {escape(os.path.relpath(figure))}")
    _track(curve, folder, figure, settings)


def _track(curve: LrCurve, folder: Path, figure: Path, settings: dict[str, Any]) -> None:
    """Put curve and suggestions where trainings of these settings are tracked, beside them."""
    from cxr.training.tracking import build_logger, finish, show_figure

    chosen = settings["logger"]
    logger = build_logger(
        chosen["name"],
        tracking_dir=folder / "tracking",
        config={name: value for name, value in settings.items() if name not in OF_THE_CALL},
        name=f"lr_find {folder.name}",
        group=settings["name"] if chosen["group"] is None else chosen["group"],
        job_type="lr_find",
        **{name: chosen[name] for name in ("project", "entity", "tags", "notes", "capture")},
    )
    show_figure(logger, "lr_find", figure)
    suggested = {"lr_find/valley": curve.valley, "lr_find/steepest": curve.steepest}
    if logger is not None and not curve.useless:
        logger.log_metrics({name: rate for name, rate in suggested.items() if rate is not None})
    finish(logger, 0)


if __name__ == "__main__":
    sys.exit(launch(lr_find, "lr_find"))
