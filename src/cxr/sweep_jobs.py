"""Which processes do the jobs of a multirun become, and what came of them?"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cxr.command_line import Job
from cxr.errors import ConfigurationError
from cxr.evaluation.comparison.search_record import RECORD
from cxr.resumption import identity, kept_settings
from cxr.sweep_runners import Runner
from cxr.sweeps.display import Display
from cxr.sweeps.job import SweepJob, best_auroc, note_refusal
from cxr.sweeps.plan import differing, find_places
from cxr.training.run_directory import RunDirectory


def hold_sweep(sweep_dir: Path) -> AbstractContextManager[object]:
    """Keep a sweep folder to this process.

    Raises:
        ConfigurationError: another process runs the sweep, or the folder cannot be written.
    """
    try:
        sweep_dir.mkdir(parents=True, exist_ok=True)
        return FileLock(sweep_dir / ".lock").acquire(timeout=0)
    except Timeout:
        raise ConfigurationError(
            f"sweep folder {os.path.relpath(sweep_dir)}: another program runs this sweep; wait for it, or give another "
            "sweep.name"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"sweep folder {sweep_dir}: cannot be written ({error.strerror})") from None


def run_jobs(
    jobs: Sequence[Job],
    refusals: Sequence[str | None],
    program: Sequence[str],
    runner: Runner,
) -> tuple[list[Job], list[float]]:
    """Run the jobs of one batch, except those that are finished, and wait for all.

    Args:
        jobs: as they were typed, with the numbers that they have where all are new.
        refusals: why a job cannot begin; None where it can.
        program: its path and its flags; the overrides of a job follow.
        runner: see `cxr.sweep_runners.choose_runner`.

    Returns:
        The jobs with the numbers that they have got, and the best validation AUROC of each (NaN: there is none).

    Raises:
        ConfigurationError: the runner refuses them, a run of the sweep goes on somewhere, or the folder is that of a
            search.
        SystemExit: after SIGINT or SIGTERM.
    """
    sweep_dir = jobs[0].sweep_dir
    assert sweep_dir is not None
    if (sweep_dir / RECORD).exists():
        raise ConfigurationError(
            f"sweep folder {os.path.relpath(sweep_dir)}: is that of a search; give another sweep.name"
        )

    def identify(run: RunDirectory) -> str | None:
        kept = kept_settings(run)
        return runner.alive.get(int(run.path.name)) if kept is None else identity(kept)

    with Display() as display:
        identities = [identity(job.settings) if job.settings else None for job in jobs]
        places = find_places(sweep_dir, identities, jobs[0].number, identify, display.say, runner.alive)
        jobs = [replace(job, number=place.number) for job, place in zip(jobs, places, strict=True)]
        names = differing([job.chosen for job in jobs])
        entries = []
        for job, place, refusal in zip(jobs, places, refusals, strict=True):
            label = ", ".join(f"{name}={job.chosen[name]}" for name in names if name in job.chosen)
            entry = build_entry(job, job.settings, label, program)
            entry.continues, entry.attached = place.standing == "stopped", place.standing == "running"
            if refusal is not None:
                note_refusal(entry, refusal)
            elif place.standing == "finished":
                entry.state = "done"
            elif place.standing == "diverged":  # it would diverge again
                entry.state, entry.reason = "failed", str(entry.directory.read_status()["reason"])
            if entry.state != "queued":
                display.changed(entry)
            entries.append(entry)
        try:
            runner.run(entries, identities, display)
        except SystemExit:
            say_how_to_go_on(display, sweep_dir)
            raise
    scores = [best_auroc(entry.directory) if entry.state == "done" else None for entry in entries]
    say_what_failed(entries, [entry for entry in entries if entry.state == "failed"])
    return list(jobs), [math.nan if score is None else score for score in scores]


def build_entry(job: Job, settings: Mapping[str, Any], label: str, program: Sequence[str]) -> SweepJob:
    """The process that a job is to become.

    Args:
        settings: of the job, resolved; empty where it cannot begin.
        label: what sets it apart.
        program: its path and its flags.
    """
    assert job.sweep_dir is not None
    directory = RunDirectory(job.sweep_dir / str(job.number))
    entry = SweepJob(
        number=job.number,
        directory=directory,
        label=label,
        arguments=[*program, *job.overrides, "hydra.mode=RUN"],
        end_command=[sys.executable, "-m", "cxr.record_end", str(directory.path)],
    )
    if settings:
        trainer = settings["trainer"]
        several = 2 if trainer["strategy"] == "ddp" else 1
        entry.max_epochs = trainer["max_epochs"]
        entry.processes = several if trainer["num_processes"] is None else trainer["num_processes"]
    return entry


def say_what_failed(entries: Sequence[SweepJob], failed: Sequence[SweepJob]) -> None:
    """List the jobs that failed on standard error, each with its reason."""
    if not failed:
        return
    print(f"error: {len(failed)} of {len(entries)} jobs failed", file=sys.stderr)
    for entry in failed:
        console = f" (console: {os.path.relpath(entry.console_path)})" if entry.console_path.is_file() else ""
        label = f" ({entry.label})" if entry.label else ""
        print(f"  job {entry.number}{label}: {entry.reason}{console}", file=sys.stderr, flush=True)


def say_how_to_go_on(display: Display, sweep_dir: Path) -> None:
    """Say what to type after a sweep was stopped."""
    program = os.path.relpath(sys.argv[0])
    display.say(f"Go on with: python {program} -m sweep.resume={os.path.relpath(sweep_dir)}")
