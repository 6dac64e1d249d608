"""What does a person read on the terminal, before training, after it, and after a sweep?"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cxr.command_line import Job
from cxr.files import write_atomically
from cxr.open_run import OpenRun
from cxr.sources.spreadsheet import to_csv
from cxr.sweeps.job import best_auroc
from cxr.sweeps.plan import differing
from cxr.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from pathlib import Path

    import pytorch_lightning as pl

    from cxr.audit.audit import Audit
    from cxr.evaluation.evaluate import EvaluationResult
    from cxr.pipeline.datamodule import CXRDataModule
    from cxr.training.lr_finder import LrCurve
    from cxr.training.module import CXRModule


def _console() -> Console:
    # Tables keep their columns where the output is a file or a pipe, which has no width.
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


def report_data(folder: Path | None, data: CXRDataModule) -> None:
    """Print what was kept and dropped and how it is divided; save both in a folder, where one is given."""
    if folder is not None:
        run = RunDirectory(folder)
        write_atomically(run.split_path, to_csv(data.records.drop(columns=["path", "predefined_split"])))
        write_atomically(run.dropped_path, to_csv(data.dropped))
    console = _console()
    console.print(_accounting_table(data))
    for note in data.notes:
        console.print(f"  {escape(note)}")
    console.print(_split_table(data))
    kind, unit = (data.hparams["split"].get(name) for name in ("kind", "unit"))
    if kind == "random_image" or unit == "image":
        asked = "data.split.kind=random_image" if kind == "random_image" else "data.split.unit=image"
        console.print(
            f"[bold red]{asked} divides images, not patients: it LEAKS. {len(data.leaks)} "
            "patients stand on several sides; the numbers of this run say nothing of new patients.[/]"
        )
    elif unit == "patient" and data.leaks:
        console.print(
            "[bold red]data.split.unit=patient believes the patient ids as they are listed: it LEAKS. "
            f"{len(data.leaks)} patients who share a picture, or stand under several ids, are on several sides.[/]"
        )
    elif data.leaks:
        console.print(f"[bold red]LEAK: {len(data.leaks)} patients stand on several sides of the split.[/]")


def report_audit(audit: Audit, folder: Path | None = None) -> None:
    """Print what an audit found: in a training, where nobody asked for it, the verdict alone.

    Args:
        folder: where everything lies; None in a training.
    """
    from cxr.audit.shortcut_table import shortcuts_table

    console = _console()
    if folder is not None and audit.shortcuts is not None:
        console.print(shortcuts_table(audit.shortcuts))
    for line in audit.verdict():
        bad = line.split()[0].isupper()
        console.print(f"[bold red]{escape(line)}[/]" if bad else escape(line))
    if folder is not None:
        console.print(f"Audit: {escape(os.path.relpath(folder / 'audit.html'))}")


def _accounting_table(data: CXRDataModule) -> Table:
    accounting = data.accounting
    table = Table(title="Rows", title_justify="left", title_style="bold")
    for name in accounting.columns:
        table.add_column(str(name), justify="left" if name == "source" else "right")
    for row in accounting.itertuples(index=False):
        table.add_row(*(escape(str(value)) for value in row))
    return table


def _split_table(data: CXRDataModule) -> Table:
    table = Table(title="Split", title_justify="left", title_style="bold")
    table.add_column("split")
    table.add_column("patients", justify="right")
    table.add_column("images", justify="right")
    for name in data.class_names:
        table.add_column(escape(name), justify="right")
    records = data.records
    for split, counts in data.class_counts.items():
        patients = records.loc[records["split"] == split, "group"].nunique()
        table.add_row(split, f"{patients:,}", f"{sum(counts.values()):,}", *(f"{n:,}" for n in counts.values()))
    return table


def report_weights(module: CXRModule) -> None:
    """Say which weights the network starts from, where it does not start from random ones."""
    loaded = module.loaded_weights
    if loaded is None:
        return
    parts = [f"{loaded.num_loaded} tensors loaded"]
    if loaded.left_out:
        parts.append(f"{len(loaded.left_out)} of the file left out: {_first_names(loaded.left_out)}")
    if loaded.fresh:
        parts.append(f"{len(loaded.fresh)} start afresh: {_first_names(loaded.fresh)}")
    if loaded.resized:
        parts.append(f"fitted to the image size: {_first_names(loaded.resized)}")
    _console().print(escape(f"Weights from {loaded.source}: {'; '.join(parts)}"))


def _first_names(names: Sequence[str]) -> str:
    shown = 4
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def report_trainer(trainer: pl.Trainer) -> None:
    """Say on what and how precisely the run computes, and log it."""
    device = trainer.strategy.root_device.type
    _console().print(f"Training on {trainer.num_devices * trainer.num_nodes} x {device}, precision {trainer.precision}")
    for logger in trainer.loggers:
        logger.log_hyperparams({"resolved": {"device": device, "precision": str(trainer.precision)}})


def say(line: str) -> None:
    """Print one line of the course of a training."""
    _console().print(escape(line))


def report_range_test(run: OpenRun, stage: str, curve: LrCurve, taken: float) -> None:
    """Say which rate a range test gave a stage; draw its curve, in the run and where the run is tracked."""
    from cxr.evaluation.range_test_figure import draw_range_test, write_range_test
    from cxr.training.tracking import show_figure

    name = f"lr_find_{stage.replace(' ', '_')}"
    path = run.directory.figures_dir / f"{name}.png"
    write_range_test(curve, path.with_suffix(".csv"))
    draw_range_test(curve, path, stage)
    show_figure(run.logger, name, path)
    suggests = f"suggests no rate ({curve.useless}); optimizer.lr is taken," if curve.useless else "suggests"
    say(f"{stage}: the range test {suggests} {taken:.2g} ({os.path.relpath(path)})")


def report_run(run: OpenRun, trainer: pl.Trainer) -> None:
    """Score the checkpoint that the run stands for on validation, print its metrics, and say how to evaluate it."""
    if not run.first:
        return
    from cxr.evaluation.comparison.finished_runs import duration
    from cxr.evaluation.evaluate import evaluate_run
    from cxr.evaluation.summary import metrics_table
    from cxr.training.callbacks import BestCheckpoint
    from cxr.training.history import describe_explosion
    from cxr.training.pruning import TrialPruning
    from cxr.training.tracking import summarise

    on_cpu = trainer.strategy.root_device.type == "cpu"
    best = next(callback for callback in trainer.callbacks if isinstance(callback, BestCheckpoint))  # type: ignore[attr-defined]
    module: CXRModule = trainer.lightning_module  # type: ignore[assignment]
    data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
    epochs, seconds = duration(run.directory.history_path)
    cost = {
        "epochs": epochs,
        "seconds": seconds,
        "seconds_per_epoch": seconds / epochs if epochs and seconds is not None else None,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "train_images": sum(data.class_counts["train"].values()),
    }
    summarise(run.logger, best.best_metrics, best.best_epoch, cost=cost)
    pruning = next((each for each in trainer.callbacks if isinstance(each, TrialPruning)), None)  # type: ignore[attr-defined]
    if pruning is not None and pruning.pruned is not None:
        run.pruned, run.remark = True, pruning.pruned
        _console().print(f"The trial was {pruning.pruned}; its best weights are kept.")
        return
    run.send_artifacts(data.records, best.best_metrics)
    # The metrics only: pictures and subgroups of every job of a sweep would cost more than a small training.
    result = evaluate_run(run.directory.path, split="val", gpus=0 if on_cpu else None, subgroups=(), report=False)
    console = _console()
    if result.entry is not None:
        console.print(metrics_table("validation", result.entry))
    shown = os.path.relpath(run.directory.path)
    run.remark = describe_explosion(run.directory.history_path, len(module.class_names))
    if run.remark is not None:
        console.print(f"[bold red]{escape(run.remark[:1].upper() + run.remark[1:])}; lower optimizer.lr[/]")
    if best.best_epoch is not None:
        last = ", but the last weights are kept (trainer.checkpoint=last)" if run.directory.stands_for == "last" else ""
        console.print(f"Best epoch: {best.best_epoch + 1} of {trainer.current_epoch}{last}")
    console.print(f"Run: {escape(shown)}")
    console.print(f"Evaluate: python evaluate.py run={escape(shlex.quote(shown))}")


def report_evaluation(result: EvaluationResult) -> None:
    """Print warnings first, then the metrics, then what else must be known and where everything lies."""
    from cxr.evaluation.summary import metrics_table

    console = _console()
    for warning in result.warnings:
        console.print(f"[bold red]{escape(warning)}[/]")
    if result.entry is not None:
        console.print(metrics_table(result.split, result.entry))
    for note in result.notes:
        console.print(escape(note))
    if result.num_looks > 1:
        console.print(f"Look {result.num_looks} at {escape(result.split)} with this run (looks.csv).")
    console.print(f"Predictions: {escape(os.path.relpath(result.predictions_path))}")
    if result.report_path is None:
        for path in result.figures:
            if "_saliency_" in path.name:
                console.print(f"Grad-CAM: {escape(os.path.relpath(path))}")
    if result.report_path is not None:
        console.print(f"Report: {escape(os.path.relpath(result.report_path))}")
    if result.shared_report_path is not None:
        console.print(f"Report to share: {escape(os.path.relpath(result.shared_report_path))}")


def report_collections(folders: Sequence[Path]) -> None:
    """Print what evaluations left in these folders, a table for each: a run's own splits beside other collections."""
    from cxr.evaluation.collections_table import collections_table
    from cxr.evaluation.metrics_file import read_metrics

    for folder in dict.fromkeys(folders):
        _console().print(collections_table(os.path.relpath(folder), read_metrics(RunDirectory(folder).metrics_path)))


def report_sweep(jobs: Sequence[Job]) -> None:
    """Print the jobs of a multirun, the best by validation AUROC first, those that failed last with the reason."""
    names = differing([job.chosen for job in jobs])
    rows: list[tuple[float, list[str]]] = []
    for job in jobs:
        assert job.sweep_dir is not None
        directory = RunDirectory(job.sweep_dir / str(job.number))
        # A job that was refused before it had a directory has no status.
        status = directory.read_status() or {"status": "failed", "reason": None}
        auroc = best_auroc(directory) if status["status"] == "finished" else None
        shown = f"{auroc:.4f}" if auroc is not None else "-"
        outcome = str(status["status"]) + (f": {status['reason']}" if status["reason"] is not None else "")
        if status["status"] == "pruned":
            outcome = str(status["reason"])
        chosen = [_shortened(job.chosen.get(name, "")) for name in names]
        rows.append((-1.0 if auroc is None else auroc, [str(job.number), *chosen, shown, outcome]))
    table = Table(title=f"Sweep {os.path.relpath(jobs[0].sweep_dir or '.')}", title_justify="left", title_style="bold")
    for name in ("job", *names, "val/auroc"):
        table.add_column(escape(name), justify="right" if name in ("job", "val/auroc") else "left")
    table.add_column("status", overflow="fold")
    for _, row in sorted(rows, key=lambda row: row[0], reverse=True):
        table.add_row(*(escape(cell) for cell in row))
    _console().print(table)


def _shortened(value: str) -> str:
    """A number that a search proposed has more digits than a table needs."""
    try:
        return f"{float(value):.4g}" if len(value) > 8 else value
    except ValueError:
        return value
