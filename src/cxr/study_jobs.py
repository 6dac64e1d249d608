"""Which jobs does a search start, one after the other, and what is its study told of their ends?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cxr.command_line import Job
from cxr.resumption import kept_settings, telling
from cxr.sweep_jobs import build_entry, say_how_to_go_on, say_what_failed
from cxr.sweeps.devices import DevicePool, default_num_jobs, gpus_of_job, visible_gpus
from cxr.sweeps.display import Display
from cxr.sweeps.job import SweepJob, best_auroc, note_refusal
from cxr.sweeps.plan import wait_for_its_end
from cxr.sweeps.search_folder import kept_study
from cxr.sweeps.space import Space, as_label, as_word
from cxr.sweeps.study import Asked, Study, open_storage
from cxr.sweeps.supervisor import Supervisor
from cxr.sweeps.trial import Pruning, trial_environment
from cxr.training.run_directory import RunDirectory

Settle = Callable[[Sequence[str]], tuple[dict[str, Any], str | None]]
DEFAULT_TRIALS = 20


def open_study(shared: Mapping[str, Any], space: Space, sweep_dir: Path, options: Mapping[str, Any]) -> Study:
    """The study of a sweep folder, begun or going on.

    Args:
        shared: the settings that all trials share, resolved.
        options: the keys below ``hydra.sweeper``.

    Raises:
        ConfigurationError: the storage cannot be used, or the study or the folder is another's.
    """
    given = options["storage"]
    return Study(
        storage=open_storage(given, sweep_dir),
        given=given,
        # The name that it has got: the folder may have been given another since.
        name=options["study_name"] or kept_study(sweep_dir) or f"{shared['name']}/{sweep_dir.name}",
        space=space,
        sweep_dir=sweep_dir,
        sampler=options["sampler"],
        seed=options["seed"],
        n_startup_trials=options["n_startup_trials"],
        fixed=telling(shared),
    )


def run_trials(
    study: Study,
    shared: Mapping[str, Any],
    fixed: Sequence[str],
    settle: Settle,
    program: Sequence[str],
    options: Mapping[str, Any],
    *,
    n_jobs: int | None,
    gpus_per_job: int | None,
) -> tuple[list[Job], int]:
    """Run trials, whenever one may begin, until the study has as many as it should.

    Args:
        shared: the settings that all trials share, resolved.
        fixed: the overrides that say so.
        settle: from the overrides of a job to its settings, or to the reason why it cannot begin.
        program: its path and its flags; the overrides of a job follow.
        options: the keys below ``hydra.sweeper``.
        n_jobs, gpus_per_job: see `ProcessLauncherConf`.

    Returns:
        All jobs of the sweep, those of earlier calls among them, and how many of this call failed.

    Raises:
        ConfigurationError: there are not so many GPUs, or a trial goes on somewhere.
        SystemExit: after SIGINT or SIGTERM.
    """
    sweep_dir = study.sweep_dir
    gpus = visible_gpus() if shared["trainer"]["gpus"] != 0 else []
    gpus_of_one = gpus_of_job(shared["trainer"]["gpus"], gpus_per_job, len(gpus))
    num_jobs = default_num_jobs([gpus_of_one], len(gpus)) if n_jobs is None else n_jobs
    wanted = options["n_trials"]
    if wanted is None and options["sampler"] != "grid":
        wanted = DEFAULT_TRIALS
    with Display() as display:
        search = _Search(study, fixed, settle, program, sweep_dir, options, wanted, gpus_of_one, display)
        total = "all that there are" if wanted is None else str(wanted)
        display.say(f"Study {study.name}: {study.counts()}; going on to {total}")
        try:
            Supervisor(num_jobs, DevicePool(gpus, num_jobs, [gpus_of_one] * num_jobs), display).run([], search)
        except SystemExit:
            say_how_to_go_on(display, sweep_dir)
            raise
        display.say(f"Study {study.name}: {study.counts()}")
    say_what_failed(search.begun, [job for job in search.begun if job.state == "failed" and not _diverged(job)])
    failed = sum(job.state == "failed" and not _diverged(job) for job in search.begun)
    return search.all_jobs(), failed


class _Search:
    """Asks the study for jobs, and tells it of their ends: what a `Supervisor` takes its jobs from."""

    def __init__(
        self,
        study: Study,
        fixed: Sequence[str],
        settle: Settle,
        program: Sequence[str],
        sweep_dir: Path,
        options: Mapping[str, Any],
        wanted: int | None,
        gpus: int,
        display: Display,
    ) -> None:
        self.begun: list[SweepJob] = []
        self._study = study
        self._fixed = list(fixed)
        self._settle = settle
        self._program = program
        self._sweep_dir = sweep_dir
        self._storage = options["storage"]
        self._pruning = Pruning(**{each.name: options[each.name] for each in fields(Pruning)})
        self._wanted = wanted
        self._gpus = gpus
        self._display = display
        self._left_over = study.left_over()

    def next(self) -> SweepJob | None:
        """The next job; None where the study has enough trials, or will have when those that run have ended."""
        while True:
            if self._left_over:
                job = self._take_up(self._left_over.pop(0))
            else:
                counts = self._study.counts()
                if self._wanted is not None and counts.ended + counts.running >= self._wanted:
                    return None
                asked = self._study.ask()
                if asked is None:
                    if counts.running == 0:
                        self._display.say("Every combination has been tried")
                    return None
                job = self._entry(asked)
            if job is not None:
                return job

    def ended(self, job: SweepJob, *, asked_to: bool) -> None:
        """Tell the study what a job came to; one that was told to end goes on with the sweep."""
        status = job.directory.read_status().get("status")
        if job.state == "failed" and asked_to and not _diverged(job):
            return
        value = best_auroc(job.directory) if job.state == "done" else None
        if job.state == "done" and value is None:
            job.state, job.reason = "failed", "val/auroc is undefined: validation holds one class only"
        outcome = {"done": "complete", "pruned": "pruned"}.get(job.state, "failed")
        self._study.tell(job.number, value, "diverged" if status == "diverged" else outcome, job.reason)

    def all_jobs(self) -> list[Job]:
        """The jobs of the sweep whose trials have ended, by number."""
        jobs = []
        for trial in self._study.of_this_sweep():
            if trial.state.is_finished():
                overrides = [*self._fixed, *_words(trial.params)]
                jobs.append(Job({}, overrides, self._sweep_dir, trial.number))
        return sorted(jobs, key=lambda job: job.number)

    def _take_up(self, asked: Asked) -> SweepJob | None:
        """A trial that an earlier call has begun; None where it had ended, and only this had not been told."""
        directory = RunDirectory(self._sweep_dir / str(asked.number))
        if directory.path.is_dir():
            wait_for_its_end(directory, self._display.say)
        job = self._entry(asked)
        if job is None:
            return None
        told = directory.read_status()
        states = {"finished": "done", "pruned": "pruned", "diverged": "failed"}
        if told.get("status") in states and kept_settings(directory) is not None:
            job.state, job.reason = states[told["status"]], told.get("reason")  # type: ignore[assignment]
            self.ended(job, asked_to=False)
            self._display.changed(job)
            return None
        job.continues = directory.config_path.is_file()
        if not job.continues:
            directory.status_path.unlink(missing_ok=True)
        return job

    def _entry(self, asked: Asked) -> SweepJob | None:
        """The job of a trial; None where it cannot begin."""
        job = Job({}, [*self._fixed, *_words(asked.values)], self._sweep_dir, asked.number)
        settings, refusal = self._settle(job.overrides)
        label = ", ".join(f"{name}={as_label(value)}" for name, value in asked.values.items())
        entry = build_entry(job, settings, label, self._program)
        entry.gpus = self._gpus
        entry.environment = trial_environment(
            storage=self._storage,
            sweep_dir=self._sweep_dir,
            study=self._study.name,
            trial_id=asked.trial_id,
            pruning=self._pruning,
        )
        self.begun.append(entry)
        if refusal is None:
            return entry
        note_refusal(entry, refusal)
        self._display.changed(entry)
        self.ended(entry, asked_to=False)
        return None


def _words(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={as_word(value)}" for name, value in values.items()]


def _diverged(job: SweepJob) -> bool:
    return job.directory.read_status().get("status") == "diverged"
