"""How do the programs read their command line, and how do they end?

A mistake in the configuration is found before torch is imported, see `cxr.preflight`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cxr.allocator import tune_allocator
from cxr.config import (
    COMMANDS,
    CONF_DIR,
    SCHEMAS,
)
from cxr.errors import ConfigurationError, CxrError
from cxr.help_text import help_text
from cxr.interruption import listen
from cxr.preflight import ONE_RUN, check_before_start, checked, divide, open_to_hydra
from cxr.resumption import AUTO, require_plain_settings
from cxr.sweeps.child import Membership, join_sweep
from cxr.training.launched import by_torchrun
from cxr.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Job:
    """One job: its settings, resolved and checked, as a plain nested dict.

    Attributes:
        settings: what the schema holds, resolved.
        overrides: what was typed for this job.
        sweep_dir: the folder of the sweep that the job belongs to; None for a single run.
        number: the position in the sweep; 0 for a single run.
        continues: the directory of a run that goes on; None for a new run.
    """

    settings: dict[str, Any]
    overrides: list[str]
    sweep_dir: Path | None
    number: int
    continues: Path | None = None

    @property
    def chosen(self) -> dict[str, str]:
        """What was typed of the run itself, as key -> value."""
        pairs = (word.lstrip("+~").partition("=") for word in self.overrides)
        return {name: value for name, _, value in pairs if name not in ("sweep.name", "sweep.resume", "resume")}


def launch(
    task: Callable[[Job], None], program: str, *, after_sweep: Callable[[Sequence[Job]], None] | None = None
) -> int:
    """Run `task` once, or once for every job of a multirun, as the command line says.

    Args:
        task: does the work of one job; raises `CxrError` for what a user can mend.
        program: one of `cxr.config.SCHEMAS`: the schema and the primary configuration.
        after_sweep: is given the jobs of a multirun when the last has ended.

    Returns:
        The exit status: 0; that of the `CxrError` of a single run; 1 where a job of a multirun failed.

    Raises:
        SystemExit: from Hydra's own flags, and 130 or 143 after SIGINT or SIGTERM.
    """
    # Hydra's parser takes the settings in one piece only, and refuses `train.py experiment=demo -m seed=1,2`.
    arguments = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    if any(word in ("-h", "--help") for word in arguments):
        try:
            print(help_text(program, CONF_DIR), flush=True)
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    _register(program)
    listen()
    place = join_sweep() if program == "train" else None
    continues: Path | None = None
    try:
        # What another process has started is checked, and what further processes of a run would check it holds itself.
        checked = place is not None or (program == "train" and RunDirectory.is_joined())
        # Lightning starts further processes with what this has made of the words; torchrun and srun with the words.
        if program == "train" and place is None and not (checked and _names_configuration(arguments)):
            arguments = _with_what_was_typed_first(arguments)
        flags, unknown = get_args_parser().parse_known_args(arguments)
        if unknown:
            raise ConfigurationError(f"{unknown[0]}: there is no such flag; see {COMMANDS[program]} --help")
        if flags.multirun and by_torchrun():
            raise ConfigurationError("torchrun: starts the processes of one run; start a multirun without it")
        asks_hydra = flags.hydra_help or flags.shell_completion
        if not asks_hydra and not checked:
            config_name = flags.config_name if flags.config_name is not None else program
            continues = check_before_start(program, config_name, flags.config_dir, flags.overrides, flags.multirun)
    except CxrError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return _say(error)

    sys.argv[1:] = [open_to_hydra(word) for word in arguments]
    run_job = _Task(task, program, place, continues)
    if not asks_hydra:
        tune_allocator()  # only effective before torch is imported
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=program)(run_job)()
    swept = any(job.sweep_dir is not None for job in run_job.jobs) and place is None
    if swept and after_sweep is not None:
        after_sweep(run_job.jobs)
    if not run_job.statuses:
        return 0
    return 1 if swept else run_job.statuses[0]


class _Task:
    """What Hydra calls for each job; a launcher of processes hands it whole batches instead.

    Attributes:
        jobs: all that there were.
        statuses: the exit status of each that failed.
    """

    def __init__(
        self, task: Callable[[Job], None], program: str, place: Membership | None, continues: Path | None
    ) -> None:
        self.jobs: list[Job] = []
        self.statuses: list[int] = []
        self._task = task
        self._program = program
        self._place = place
        self._continues = continues
        self._held = ExitStack()

    def __call__(self, config: DictConfig) -> None:
        choices = HydraConfig.get()
        try:
            job = self._job(checked(config, self._program), list(choices.overrides.task), choices)
            self.jobs.append(job)
            self._task(job)
        except CxrError as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            self.statuses.append(_say(error))

    def _job(self, settings: dict[str, Any], overrides: list[str], choices: HydraConf) -> Job:
        place = self._place
        if place is not None:
            own = place.sweep_dir / str(place.number)
            return Job(settings, overrides, place.sweep_dir, place.number, own if place.continues else None)
        if choices.mode == RunMode.MULTIRUN:
            return Job(settings, overrides, Path(choices.sweep.dir), int(choices.job.num))
        continues = self._continues
        if continues is None and RunDirectory.is_joined() and settings.get("resume") is not None:
            # The first process has decided whether the run goes on; the checkpoint in its directory says so.
            continues = Path(settings["resume"])
        return Job(settings, overrides, None, 0, continues)

    def run_batch(
        self,
        config: DictConfig,
        compose: Callable[[Sequence[str]], DictConfig],
        batch: Sequence[Sequence[str]],
        first_number: int,
        options: Mapping[str, Any],
    ) -> list[float]:
        """Run a batch of jobs, each as a process; see `cxr.sweep_jobs.run_jobs`.

        Args:
            config: of the whole sweep.
            compose: the configuration of a job from its overrides.
            options: the keys below ``hydra.launcher``.
        """
        from cxr.sweep_jobs import hold_sweep, run_jobs
        from cxr.sweep_runners import choose_runner

        sweep_dir, called = Path(config.hydra.sweep.dir).absolute(), _called(config)
        jobs, refusals = [], []
        for number, overrides in enumerate(batch, first_number):
            settings, refusal = self._settle(compose, overrides)
            jobs.append(Job(settings, list(overrides), sweep_dir, number))
            refusals.append(refusal)
        try:
            if first_number == 0:
                self._held.enter_context(hold_sweep(sweep_dir))
            runner = choose_runner([job.settings for job in jobs], sweep_dir, options)
            done, scores = run_jobs(jobs, refusals, called, runner)
        except CxrError as error:
            raise SystemExit(_say(error)) from None
        self.jobs += done
        self.statuses += [1 for job in done if not _is_finished(job)]
        return scores

    def run_study(
        self,
        config: DictConfig,
        compose: Callable[[Sequence[str]], DictConfig],
        typed: Sequence[str],
        options: dict[str, Any],
    ) -> None:
        """Search, each trial as a process; see `cxr.study_jobs.run_trials`.

        Args:
            config: of the whole sweep.
            compose: the configuration of a job from its overrides.
            typed: overrides, those that are searched among them.
            options: the keys below ``hydra.sweeper``.
        """
        from cxr.study_jobs import open_study, run_trials
        from cxr.sweep_jobs import hold_sweep

        sweep_dir, launcher = Path(config.hydra.sweep.dir).absolute(), config.hydra.launcher
        fixed, space = divide(typed, options)
        try:
            self._held.enter_context(hold_sweep(sweep_dir))
            shared, refusal = self._settle(compose, fixed)
            if refusal is not None:
                raise ConfigurationError(refusal)
            study = open_study(shared, space, sweep_dir, options)
            OmegaConf.save(config, sweep_dir / "multirun.yaml")
            done, failed = run_trials(
                study,
                shared,
                fixed,
                lambda overrides: self._settle(compose, overrides),
                _called(config),
                options,
                n_jobs=launcher.n_jobs,
                gpus_per_job=launcher.gpus_per_job,
            )
        except CxrError as error:
            raise SystemExit(_say(error)) from None
        self.jobs += done
        self.statuses += [1] * failed

    def _settle(
        self, compose: Callable[[Sequence[str]], DictConfig], overrides: Sequence[str]
    ) -> tuple[dict[str, Any], str | None]:
        """The settings of a job, or else why it cannot begin."""
        try:
            composed = compose(overrides)
            with open_dict(composed):
                del composed["hydra"]
            return checked(composed, self._program), None
        except (ConfigurationError, HydraException, OmegaConfBaseException) as error:
            return {}, " ".join(str(error).split())


def _called(config: DictConfig) -> list[str]:
    """The path of this program and its flags; the overrides of a job follow."""
    words = [word for word in config.hydra.overrides.hydra if not word.lstrip("+~").startswith(_OF_THE_SWEEP)]
    flags = get_args_parser().parse_args()
    chosen = (("--config-dir", flags.config_dir), ("--config-name", flags.config_name))
    called = [str(Path(sys.argv[0]).resolve())]
    return called + [word for flag, value in chosen if value is not None for word in (flag, value)] + words


# Hydra's own settings that are the whole sweep's, not a job's.
_OF_THE_SEARCH = ("hydra/sweeper", "hydra.sweeper", "+hydra.sweeper", "++hydra.sweeper")
_OF_THE_SWEEP = ("hydra.mode", "hydra.launcher", "hydra/launcher", "hydra.sweep", "hydra/sweeper")


def _is_finished(job: Job) -> bool:
    assert job.sweep_dir is not None
    return RunDirectory(job.sweep_dir / str(job.number)).read_status().get("status") == "finished"


def _with_what_was_typed_first(arguments: Sequence[str]) -> list[str]:
    """The words that make a run, or a sweep, go on: its own configuration, or what was typed when it began.

    Raises:
        ConfigurationError: nothing of the kind lies there.
    """
    words = list(arguments)
    resumed = next((word.partition("=")[2] for word in words if word.startswith("resume=")), None)
    if resumed == AUTO:
        return words
    if resumed is not None:
        if any(word in ("-m", "--multirun") for word in words):
            raise ConfigurationError(ONE_RUN.format(resumed))
        if _names_configuration(words):
            raise ConfigurationError(f"resume={resumed}: takes the configuration of the run; give no other")
        if not RunDirectory(Path(resumed)).config_path.is_file():
            raise ConfigurationError(f"resume={resumed}: no run directory (there is no config.yaml)")
        require_plain_settings(RunDirectory(Path(resumed)), resumed)
        for word in words:
            name = word.lstrip("+~").partition("=")[0]
            if (CONF_DIR / name).is_dir():
                raise ConfigurationError(f"{word}: a run goes on with the settings that it has; leave it out")
        return ["--config-dir", resumed, "--config-name", "config", *words]
    folder = next((word.partition("=")[2] for word in words if word.startswith("sweep.resume=")), None)
    if folder is None or any("=" in word and not word.startswith(("sweep.resume=", "hydra")) for word in words):
        return words
    try:
        # As text: it may come from a stranger, and OmegaConf would resolve what it refers to.
        overrides = yaml.safe_load((Path(folder) / "multirun.yaml").read_text(encoding="utf-8"))["hydra"]["overrides"]
        of_hydra, own = [str(word) for word in overrides["hydra"]], [str(word) for word in overrides["task"]]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        raise ConfigurationError(
            f"sweep.resume={folder}: no sweep folder (there is no multirun.yaml that can be read)"
        ) from None
    typed = [word for word in of_hydra if word.startswith(_OF_THE_SEARCH)] + own
    # No flags, nothing of Hydra's but what searches, nothing that could be instantiated or looked up.
    odd = [word for word in own if word.lstrip("+~").startswith("hydra")]
    odd += [word for word in typed if word.startswith("-") or "_target_" in word or "${" in word]
    if odd:
        raise ConfigurationError(f"sweep.resume={folder}: multirun.yaml asks for more than settings: {odd[0][:80]!r}")
    now = ("sweep.name=", "sweep.resume=", *(f"{word.partition('=')[0]}=" for word in words if "=" in word))
    return [*words, *(word for word in typed if not word.startswith(now))]


def _names_configuration(words: Sequence[str]) -> bool:
    return any(word.startswith(("--config-dir", "--config-name", "-cd", "-cn")) for word in words)


def _register(program: str) -> None:
    """Make the schema and the resolvers known to Hydra."""
    OmegaConf.register_new_resolver("process_id", os.getpid, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)
    ConfigStore.instance().store(name="schema", node=SCHEMAS[program])


def _sweep_folder(resume: str | None, name: str | None, parent: str, stamp: str) -> str:
    """The folder of a multirun: one that goes on, one with a name, or a new one."""
    return resume if resume is not None else f"{parent}/{stamp if name is None else name}"


def _say(error: CxrError) -> int:
    # A file name may hold what moves the cursor, colours the terminal or is no text at all.
    message = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in " ".join(str(error).split())
    )
    print(f"error: {message}", file=sys.stderr, flush=True)
    return error.exit_status
