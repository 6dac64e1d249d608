"""How do the programs read their command line, and how do they end?

A mistake in the configuration is found here, before torch is imported: every override is held against the schema, then
the configuration is composed as Hydra will compose it, for every value of a sweep.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep, ValueType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cxr.allocator import tune_allocator
from cxr.config import COMMANDS, FIXED_BY_CHECKPOINT, FIXED_BY_PROTOCOL, SCHEMAS, keys
from cxr.config_check import SettingError, check, check_key, check_value, explain, nearest
from cxr.errors import ConfigurationError, CxrError
from cxr.help_text import help_text
from cxr.interruption import listen

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
    """

    settings: dict[str, Any]
    overrides: list[str]
    sweep_dir: Path | None
    number: int

    @property
    def chosen(self) -> dict[str, str]:
        """What was typed, as key -> value."""
        pairs = (word.lstrip("+~").partition("=") for word in self.overrides)
        return {name: value for name, _, value in pairs}


def launch(
    task: Callable[[Job], None], program: str, *, after_sweep: Callable[[Sequence[Job]], None] | None = None
) -> int:
    """Run `task` once, or once for every job of a multirun, as the command line says.

    Args:
        task: does the work of one job; raises `CxrError` for what a user can mend.
        program: 'train', 'evaluate', 'audit' or 'protocols': the schema and the primary configuration.
        after_sweep: is given the jobs of a multirun when the last has ended.

    Returns:
        The exit status: 0; that of the `CxrError` of a single run; 1 where a job of a multirun failed.

    Raises:
        SystemExit: from Hydra's own flags, and 130 or 143 after SIGINT or SIGTERM.
    """
    arguments = sys.argv[1:]
    if any(word in ("-h", "--help") for word in arguments):
        try:
            print(help_text(program, CONF_DIR), flush=True)
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    _register(program)
    flags, unknown = get_args_parser().parse_known_args(arguments)
    if unknown:
        return _say(ConfigurationError(f"{unknown[0]}: there is no such flag; see {COMMANDS[program]} --help"))
    config_name = flags.config_name if flags.config_name is not None else program
    asks_hydra = flags.hydra_help or flags.shell_completion
    try:
        if not asks_hydra:
            _check_before_start(program, config_name, flags.config_dir, flags.overrides, flags.multirun)
    except ConfigurationError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return _say(error)
    listen()

    sys.argv[1:] = [_open(word) for word in arguments]
    jobs: list[Job] = []
    statuses: list[int] = []

    def run_job(config: DictConfig) -> None:
        choices = HydraConfig.get()
        sweeping = choices.mode == RunMode.MULTIRUN
        try:
            job = Job(
                settings=_checked(config, program),
                overrides=list(choices.overrides.task),
                sweep_dir=Path(choices.sweep.dir) if sweeping else None,
                number=int(choices.job.num) if sweeping else 0,
            )
            jobs.append(job)
            task(job)
        except CxrError as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            statuses.append(_say(error))

    if not asks_hydra:
        tune_allocator()  # only effective before torch is imported
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=program)(run_job)()
    swept = any(job.sweep_dir is not None for job in jobs)
    if swept and after_sweep is not None:
        after_sweep(jobs)
    if not statuses:
        return 0
    return 1 if swept else statuses[0]


def _register(program: str) -> None:
    """Make the schema and the resolvers known to Hydra."""
    OmegaConf.register_new_resolver("process_id", os.getpid, replace=True)
    ConfigStore.instance().store(name="schema", node=SCHEMAS[program])


def _open(word: str) -> str:
    """An override of a part of the schema that is the user's own, written as Hydra wants it.

    The names below ``data.sources`` and ``data.classes`` are not Hydra's to know; they were checked here.
    """
    return f"++{word}" if word.startswith(("data.sources.", "data.classes.")) and "=" in word else word


def _say(error: CxrError) -> int:
    message = " ".join(str(error).split())
    print(f"error: {message}", file=sys.stderr, flush=True)
    return error.exit_status


def _checked(config: DictConfig, program: str) -> dict[str, Any]:
    try:
        return check(config, SCHEMAS[program])
    except SettingError as error:
        raise ConfigurationError(str(error)) from None


def _check_before_start(
    program: str, config_name: str, config_dir: str | None, overrides: Sequence[str], multirun: bool
) -> None:
    """Compose and check what was typed.

    Raises:
        ConfigurationError: one line for the first mistake.
    """
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
        config = _compose(config_name, [*where, *single, *first], program)
        swept = OmegaConf.select(config, "hydra.sweeper.params")
        if swept is not None:
            from_file = _parse([f"{name}={value}" for name, value in swept.items()])
            for override in from_file:
                _check_override(override, program, folders, multirun=True)
            sweeps = {**_unroll(from_file)[1], **sweeps}
        multirun = multirun or config.hydra.mode == RunMode.MULTIRUN
        if multirun and OmegaConf.select(config, "trainer.strategy") == "ddp":
            raise ConfigurationError(
                "trainer.strategy=ddp with --multirun: every process of a job would start the whole sweep again; "
                "run the jobs one by one"
            )
        tried = [(name, value) for name, values in sweeps.items() for value in values]
        for name, value in tried[:MAX_VALUES_TRIED]:
            others = [f"{other}={values[0]}" for other, values in sweeps.items() if other != name]
            _compose(config_name, [*where, *single, *others, f"{name}={value}"], program)


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


def _compose(config_name: str, overrides: list[str], program: str) -> DictConfig:
    """The configuration with Hydra's own part, checked.

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
    _checked(task, program)
    return config
