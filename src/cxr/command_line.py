"""How do the programs read their command line, and how do they end?

A mistake in the configuration is found here, before torch is imported: every override is held against the schema, then
the configuration is composed as Hydra will compose it, for every value of a sweep.
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
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep, ValueType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cxr.allocator import tune_allocator
from cxr.config import COMMANDS, FIXED_BY_CHECKPOINT, FIXED_BY_PROTOCOL, SCHEMAS, RayLauncher, SlurmLauncher, keys
from cxr.config_check import SettingError, check, check_key, check_range, check_value, explain, nearest
from cxr.errors import ConfigurationError, CxrError
from cxr.help_text import help_text
from cxr.interruption import listen
from cxr.resumption import AUTO, find_unfinished, require_plain_settings, require_resumable
from cxr.search_space import check_options, read_space, require_optuna
from cxr.sweeps.child import Membership, join_sweep
from cxr.sweeps.ray_jobs import require_ray
from cxr.sweeps.slurm_queue import require_slurm
from cxr.sweeps.space import Space
from cxr.training.launched import by_torchrun
from cxr.training.run_directory import RunDirectory
from cxr.training.stage_plan import build_stages

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"
# Composing takes some 30 ms; the values of a longer sweep are checked as their jobs begin.
MAX_VALUES_TRIED = 64


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
            continues = _check_before_start(program, config_name, flags.config_dir, flags.overrides, flags.multirun)
    except CxrError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return _say(error)

    sys.argv[1:] = [_open(word) for word in arguments]
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
            job = self._job(_checked(config, self._program), list(choices.overrides.task), choices)
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
        fixed, space = _divided(typed, options)
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
            return _checked(composed, self._program), None
        except (ConfigurationError, HydraException, OmegaConfBaseException) as error:
            return {}, " ".join(str(error).split())


def _called(config: DictConfig) -> list[str]:
    """The path of this program and its flags; the overrides of a job follow."""
    words = [word for word in config.hydra.overrides.hydra if not word.lstrip("+~").startswith(_OF_THE_SWEEP)]
    flags = get_args_parser().parse_args()
    chosen = (("--config-dir", flags.config_dir), ("--config-name", flags.config_name))
    called = [str(Path(sys.argv[0]).resolve())]
    return called + [word for flag, value in chosen if value is not None for word in (flag, value)] + words


def _divided(typed: Sequence[str], options: dict[str, Any]) -> tuple[list[str], Space]:
    """What all trials of a search share, and what is searched; the command line outweighs ``hydra.sweeper.params``.

    Raises:
        ConfigurationError: one line for the first mistake.
    """
    written = _parse([f"{name}={value}" for name, value in options["params"].items()])
    parsed = {override.key_or_group: override for override in [*written, *_parse(typed)]}
    fixed = [override.input_line or "" for override in parsed.values() if not override.is_sweep_override()]
    return fixed, read_space(list(parsed.values()), options["conditions"], options["sampler"])


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
            raise ConfigurationError(_ONE_RUN.format(resumed))
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


def _open(word: str) -> str:
    """An override of a part of the schema that is the user's own, written as Hydra wants it.

    The names below ``data.sources`` and ``data.classes`` are not Hydra's to know; they were checked here.
    """
    return f"++{word}" if word.startswith(("data.sources.", "data.classes.")) and "=" in word else word


def _say(error: CxrError) -> int:
    # A file name may hold what moves the cursor, colours the terminal or is no text at all.
    message = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in " ".join(str(error).split())
    )
    print(f"error: {message}", file=sys.stderr, flush=True)
    return error.exit_status


def _checked(config: DictConfig, program: str) -> dict[str, Any]:
    try:
        settings = check(config, SCHEMAS[program])
    except SettingError as error:
        raise ConfigurationError(str(error)) from None
    if "schedule" in settings:
        schedule = settings["schedule"]
        build_stages(schedule["stages"] or [], lr=settings["optimizer"]["lr"], schedule=schedule["name"])
    return settings


def _check_before_start(
    program: str, config_name: str, config_dir: str | None, overrides: Sequence[str], multirun: bool
) -> Path | None:
    """Compose and check what was typed.

    Returns:
        The directory of the run that goes on; None for a new one.

    Raises:
        ConfigurationError: one line for the first mistake.
        DivergedError: the run that would go on would diverge again.
    """
    continues: Path | None = None
    folders = [CONF_DIR]
    if config_dir is not None:
        folders.append(Path(config_dir).resolve())
        if not folders[-1].is_dir():
            raise ConfigurationError(f"--config-dir {config_dir}: there is no such folder")
    if program == "protocols" and multirun:
        raise ConfigurationError("--multirun: one configuration stands under all protocols; leave it out")
    primary = f"{config_name.removesuffix('.yaml')}.yaml"
    main_dir = next((folder for folder in reversed(folders) if (folder / primary).is_file()), None)
    if main_dir is None:
        raise ConfigurationError(f"--config-name {config_name}: no such file in {' or '.join(map(str, folders))}")
    parsed = _parse(overrides)
    for override in parsed:
        _check_override(override, program, folders, multirun)
    with hydra.initialize_config_dir(str(main_dir), version_base="1.3"):
        where = [f"hydra.searchpath=['file://{folder}']" for folder in folders if folder != main_dir]
        single, sweeps = _unroll(parsed)
        first = [f"{name}={values[0]}" for name, values in sweeps.items()]
        config, settings = _compose(config_name, [*where, *single, *first], program)
        swept = OmegaConf.select(config, "hydra.sweeper.params")
        if swept is not None:
            from_file = _parse([f"{name}={value}" for name, value in swept.items()])
            for override in from_file:
                _check_override(override, program, folders, multirun=True)
            sweeps = {**_unroll(from_file)[1], **sweeps}
        multirun = multirun or config.hydra.mode == RunMode.MULTIRUN
        _check_places(config, settings, multirun)
        _check_search(config, overrides, program, multirun)
        if program == "train":
            _check_sweep(config, settings, multirun)
            if settings["resume"] is not None:
                continues = _resumed(settings, multirun)
        elif multirun and _starts_processes(config):
            raise ConfigurationError(
                f"hydra/launcher={_launcher(config).removesuffix('Launcher').lower()}: starts trainings only; "
                f"{COMMANDS[program]} -m works in one process"
            )
        tried = [(name, value) for name, values in sweeps.items() for value in values]
        for name, value in tried[:MAX_VALUES_TRIED]:
            others = [f"{other}={values[0]}" for other, values in sweeps.items() if other != name]
            _compose(config_name, [*where, *single, *others, f"{name}={value}"], program)
    return continues


def _resumed(settings: dict[str, Any], multirun: bool) -> Path | None:
    """The directory of the run that ``resume`` asks for; None where the same command has none yet, and that is said.

    Raises:
        ConfigurationError, DivergedError: it cannot go on.
    """
    if multirun:
        raise ConfigurationError(_ONE_RUN.format(settings["resume"]))
    if settings["resume"] != AUTO:
        require_resumable(settings["resume"], settings)
        return Path(settings["resume"])
    found, line = find_unfinished(settings)
    print(line, flush=True)
    return found


_ONE_RUN = "resume={}: continues one run; a multirun goes on with sweep.resume=<folder>, or under its sweep.name"


def _check_places(config: DictConfig, settings: dict[str, Any], multirun: bool) -> None:
    """Hold the folders and files that Hydra itself makes against the folder that output is asked for in.

    Raises:
        ConfigurationError: one of them leads out of it.
    """
    output = settings.get("paths", {}).get("output") or "."
    resumed = settings.get("sweep", {}).get("resume")
    raw = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(raw, dict)
    if raw["output_subdir"] is not None:
        raise ConfigurationError(
            f"hydra.output_subdir={raw['output_subdir']}: a run keeps its own books, in config.yaml; leave it out"
        )
    if raw["sweep"]["subdir"] not in (".", "${hydra.job.num}"):
        raise ConfigurationError(
            f"hydra.sweep.subdir={raw['sweep']['subdir']}: a job lies in its sweep under its number; leave it out"
        )
    name = raw["job"].get("name")
    if isinstance(name, str) and ("/" in name or "\\" in name):
        raise ConfigurationError(f"hydra.job.name={name}: names a file, give it without a folder")
    places = {"hydra.run.dir": config.hydra.run.dir}
    if multirun:
        places["hydra.sweep.dir"] = config.hydra.sweep.dir
    for section in ("job_logging", "hydra_logging"):
        for handler, options in (raw[section].get("handlers") or {}).items():
            written = options.get("filename")
            if written is not None and not str(written).startswith("${hydra.runtime.output_dir}/${hydra.job.name}"):
                places[f"hydra.{section}.handlers.{handler}.filename"] = written
    for key, place in places.items():
        inside = Path(str(place)).resolve().is_relative_to(Path(output).resolve())
        if not inside and str(place) not in (".", resumed):  # here, where Hydra writes nothing
            raise ConfigurationError(
                f"{key}={place}: leads out of the folder of the output, {output}; name a sweep with sweep.name=<name>, "
                "and choose the folder with paths.output=<folder>"
            )


def _launcher(config: DictConfig) -> str:
    return str(OmegaConf.select(config, "hydra.launcher._target_")).rpartition(".")[2]


def _starts_processes(config: DictConfig) -> bool:
    return _launcher(config) in ("ProcessLauncher", "SlurmLauncher", "RayLauncher")


def _check_search(config: DictConfig, typed: Sequence[str], program: str, multirun: bool) -> None:
    """Hold what is searched against the schema, and against who searches.

    Raises:
        ConfigurationError: one line for the first mistake.
    """
    sweeper = OmegaConf.to_container(config.hydra.sweeper)
    assert isinstance(sweeper, dict)
    if not str(sweeper["_target_"]).endswith(".OptunaSweeper"):
        params = [f"{name}={value}" for name, value in (sweeper.get("params") or {}).items()]
        for override in _parse([*params, *typed]):
            if override.value_type == ValueType.INTERVAL_SWEEP:
                raise ConfigurationError(
                    f"{override.input_line}: a grid has no such values; a search has: hydra/sweeper=optuna"
                )
        return
    if not multirun:
        raise ConfigurationError(f"hydra/sweeper=optuna: belongs to a multirun, {COMMANDS['train']} -m")
    if program != "train" or _launcher(config) != "ProcessLauncher":
        raise ConfigurationError("hydra/sweeper=optuna: searches with train.py and hydra/launcher=process only")
    require_optuna()
    options = {str(name): value for name, value in sweeper.items()}
    check_options(options)
    words = [word for word in typed if not word.startswith(("hydra.", "hydra/"))]
    _divided(words, options)


def _check_sweep(config: DictConfig, settings: dict[str, Any], multirun: bool) -> None:
    """Hold the settings of a multirun against each other.

    Raises:
        ConfigurationError: one line for the first mistake.
    """
    sweep = settings["sweep"]
    given = next((f"sweep.{key}={value}" for key, value in sweep.items() if value is not None), None)
    if not multirun:
        if given is not None:
            raise ConfigurationError(f"{given}: belongs to a multirun, {COMMANDS['train']} -m {given}")
        return
    if sweep["resume"] is not None and not Path(sweep["resume"]).is_dir():
        raise ConfigurationError(f"sweep.resume={sweep['resume']}: there is no such folder")
    if not _starts_processes(config):
        basic = _launcher(config)
        if given is not None:
            raise ConfigurationError(f"{given}: with {basic}, a sweep cannot go on; it needs hydra/launcher=process")
        if settings["trainer"]["strategy"] == "ddp":
            raise ConfigurationError(
                f"trainer.strategy=ddp with {basic}: every process of a job would start the whole sweep again; "
                "leave out hydra/launcher"
            )
        return
    if _launcher(config) in _CLUSTERS:
        _check_cluster(config)
        return
    for key in ("n_jobs", "gpus_per_job"):
        value = OmegaConf.select(config, f"hydra.launcher.{key}")
        if value is not None and value < 1:
            raise ConfigurationError(f"hydra.launcher.{key}={value}: give at least 1, or null")


# Launchers that give jobs to others: their keys, and what they cannot do without.
_CLUSTERS: dict[str, tuple[type, Callable[[], None]]] = {
    "SlurmLauncher": (SlurmLauncher, require_slurm),
    "RayLauncher": (RayLauncher, require_ray),
}


def _check_cluster(config: DictConfig) -> None:
    schema, require = _CLUSTERS[_launcher(config)]
    options = OmegaConf.to_container(config.hydra.launcher)
    assert isinstance(options, dict)
    for key in keys(schema, "hydra.launcher."):
        if key.metadata:
            try:
                check_range(key, options[key.name.rpartition(".")[2]])
            except SettingError as error:
                raise ConfigurationError(str(error)) from None
    require()


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for text in map(_open, overrides):
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            hint = "" if "=" in text else f"; did you mean {text.lstrip('-')}=<value>?"
            raise ConfigurationError(
                f"{text}: not of the form key=value (quote values with blanks or commas: key='\"a, b\"'){hint}"
            ) from None
    return parsed


def _check_override(override: Override, program: str, folders: Sequence[Path], multirun: bool) -> None:
    name = override.key_or_group.split("@")[0]
    if name == "hydra" or name.startswith(("hydra.", "hydra/")):
        return
    if override.is_sweep_override() and not multirun:
        typed = (override.input_line or "").lstrip("+")
        if program == "protocols":
            raise ConfigurationError(
                f"{typed}: one configuration stands under all protocols; give one value (a list: '{name}=[...]')"
            )
        raise ConfigurationError(
            f"{typed}: several values need a multirun, {COMMANDS[program]} -m {typed} "
            f"(a list as one value: '{name}=[...]')"
        )
    options = sorted({file.stem for folder in folders for file in (folder / name).glob("*.yaml")})
    if options and "." not in name:
        values = _values(override) if override.is_sweep_override() else [override.value()]
        for value in values:
            chosen = value if isinstance(value, list) else [value]
            for option in chosen:
                if option is not None and str(option) not in (*options, "null"):
                    guess = nearest(str(option), options)
                    hint = f"did you mean {name}={guess}? " if guess is not None else ""
                    raise ConfigurationError(f"{name}={option}: {hint}one of {', '.join(options)}")
        return
    try:
        check_key(name, SCHEMAS[program])
    except SettingError as error:
        raise ConfigurationError(str(error)) from None
    section = next((key for key in keys(SCHEMAS[program]) if key.name == name and key.section), None)
    if section is not None and not override.is_delete() and not isinstance(override.value(), dict):
        raise ConfigurationError(
            f"{override.input_line}: {name} is a section, set one of its keys: {name}.<key>=<value> (see --help)"
        )
    if section is None and not override.is_delete():
        try:
            for value in _values(override) if override.is_sweep_override() else [override.value()]:
                check_value(name, value, SCHEMAS[program])
        except SettingError as error:
            raise ConfigurationError(str(error)) from None
    if program == "protocols" and name in FIXED_BY_PROTOCOL:
        raise ConfigurationError(f"{override.input_line}: each protocol sets it; leave it out (see protocols.run)")
    if program == "evaluate" and name.startswith(FIXED_BY_CHECKPOINT):
        raise ConfigurationError(f"{override.input_line}: is as in training, the checkpoint holds it; leave it out")


def _values(override: Override) -> list[Any]:
    value = override.value()
    assert isinstance(value, Sweep)
    if override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        return []
    return list(override.sweep_iterator())


def _unroll(parsed: Sequence[Override]) -> tuple[list[str], dict[str, list[str]]]:
    """Overrides with one value, as typed, and the values of those that are swept, as text."""
    single = [override.input_line or "" for override in parsed if not override.is_sweep_override()]
    sweeps = {}
    for override in parsed:
        if override.is_sweep_override() and override.value_type not in (
            ValueType.GLOB_CHOICE_SWEEP,
            ValueType.INTERVAL_SWEEP,
        ):
            sweeps[override.get_key_element()] = [str(value) for value in override.sweep_string_iterator()]
    return single, sweeps


def _compose(config_name: str, overrides: list[str], program: str) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration with Hydra's own part, and the settings without it, resolved and checked.

    Raises:
        ConfigurationError: one line.
    """
    try:
        config = hydra.compose(config_name, overrides, return_hydra_config=True)
        task = config.copy()
    except HydraException as error:
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException):
            raise ConfigurationError(explain(cause, {key.name: key for key in keys(SCHEMAS[program])})) from None
        raise ConfigurationError(" ".join(str(error).split())) from None
    except OmegaConfBaseException as error:
        raise ConfigurationError(explain(error)) from None
    with open_dict(task):
        del task["hydra"]
    return config, _checked(task, program)
