"""Is what was typed sound, before anything heavy is imported?

Every override is held against the schema, then the configuration is composed as Hydra will compose it, for every value
of a sweep; then what the settings ask for together: folders, a search, a cluster, a run that goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep, ValueType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cxr.config import (
    COMMANDS,
    CONF_DIR,
    FIXED_BY_CHECKPOINT,
    FIXED_BY_PROTOCOL,
    SCHEMAS,
    RayLauncher,
    SlurmLauncher,
    keys,
)
from cxr.config_check import SettingError, check, check_key, check_range, check_value, explain, nearest
from cxr.errors import ConfigurationError
from cxr.resumption import AUTO, find_unfinished, require_resumable
from cxr.search_space import check_options, read_space, require_optuna
from cxr.sweeps.ray_jobs import require_ray
from cxr.sweeps.slurm_queue import require_slurm
from cxr.sweeps.space import Space
from cxr.training.stage_plan import build_stages

# Composing takes some 30 ms; the values of a longer sweep are checked as their jobs begin.
MAX_VALUES_TRIED = 64
ONE_RUN = "resume={}: continues one run; a multirun goes on with sweep.resume=<folder>, or under its sweep.name"


def checked(config: DictConfig, program: str) -> dict[str, Any]:
    """The settings of a composed configuration, in plain types.

    Args:
        config: without Hydra's own part.
        program: one of `cxr.config.SCHEMAS`.

    Raises:
        ConfigurationError: one line for the first mistake.
    """
    try:
        settings = check(config, SCHEMAS[program])
    except SettingError as error:
        raise ConfigurationError(str(error)) from None
    if "schedule" in settings:
        schedule = settings["schedule"]
        build_stages(schedule["stages"] or [], lr=settings["optimizer"]["lr"], schedule=schedule["name"])
    return settings


def divide(typed: Sequence[str], options: dict[str, Any]) -> tuple[list[str], Space]:
    """What all trials of a search share, and what is searched; the command line outweighs ``hydra.sweeper.params``.

    Raises:
        ConfigurationError: one line for the first mistake.
    """
    written = _parse([f"{name}={value}" for name, value in options["params"].items()])
    parsed = {override.key_or_group: override for override in [*written, *_parse(typed)]}
    fixed = [override.input_line or "" for override in parsed.values() if not override.is_sweep_override()]
    return fixed, read_space(list(parsed.values()), options["conditions"], options["sampler"])


def open_to_hydra(word: str) -> str:
    """An override of a part of the schema that is the user's own, written as Hydra wants it.

    The names below ``data.sources`` and ``data.classes`` are not Hydra's to know; they were checked here.
    """
    return f"++{word}" if word.startswith(("data.sources.", "data.classes.")) and "=" in word else word


def check_before_start(
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
        raise ConfigurationError(ONE_RUN.format(settings["resume"]))
    if settings["resume"] != AUTO:
        require_resumable(settings["resume"], settings)
        return Path(settings["resume"])
    found, line = find_unfinished(settings)
    print(line, flush=True)
    return found


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
    divide(words, options)


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
    for text in map(open_to_hydra, overrides):
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
    return config, checked(task, program)
