"""Is this the run that the settings ask for, and may it go on?  Which of those that stopped is it?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from cxr.config import TrainConfig, keys
from cxr.errors import ConfigurationError, DivergedError
from cxr.training.run_directory import RunDirectory

Settings = Mapping[str, Any]

# What the configuration of a run is composed from.
DEFAULTS = ("schema", "hydra_settings", "_self_")
# How a run is called, not what it is: these stay out of its config.yaml.
OF_THE_CALL = ("sweep", "resume")

# In place of a directory: the same command again finds its run.
AUTO = "auto"

# With one of these a run has nothing to go on with.
_COMPLETE = ("finished", "pruned")


def identity(settings: Settings) -> str:
    """What a run is, as a text: equal for two that come to the same result, whatever they are called.

    The order counts, as that of the classes does; both come from the schema.
    """
    return json.dumps(list(_telling(settings)))


def kept_settings(run: RunDirectory) -> dict[str, Any] | None:
    """The settings of the run that lies in a directory; None where none does, or none that can be read."""
    try:
        content = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(content, dict):
        return None
    return {str(name): value for name, value in content.items() if name != "defaults"}


def require_plain_settings(run: RunDirectory, given: str) -> None:
    """Refuse a run directory whose configuration could have Hydra do more than read settings.

    It may come from a stranger, and a section ``hydra`` can name any function, as a callback or a handler of logs.

    Args:
        run: its ``config.yaml`` is there.
        given: what was typed, for the message.

    Raises:
        ConfigurationError: anything but what a run writes: the settings of a training, resolved.
    """
    text = run.config_path.read_text(encoding="utf-8", errors="replace")
    content = kept_settings(run) or {}
    known = {field.name for field in fields(TrainConfig)}
    unknown = next((name for name in content if name not in known), None)
    why = None
    if not content or yaml.safe_load(text).get("defaults") != list(DEFAULTS):
        why = f"its defaults are not {', '.join(DEFAULTS)}"
    elif unknown is not None:
        why = f"it has a section {ascii(unknown)[:40]}"
    elif "${" in text:
        why = "it holds interpolations"
    elif any("@package" in line for line in text.splitlines() if line.lstrip().startswith("#")):
        why = "it places itself elsewhere (@package)"
    elif (run.path / "schema.yaml").exists():
        why = "there is a schema.yaml beside it"
    if why is not None:
        raise ConfigurationError(f"resume={given}: config.yaml is not what a run writes: {why}")


def require_resumable(path: str | Path, settings: Settings) -> None:
    """Refuse what cannot go on, before anything slow begins.

    Args:
        path: a run directory.
        settings: what was asked for, resolved.

    Raises:
        ConfigurationError: there is no run, it is finished, a living process writes it, or a setting was changed.
    """
    run = RunDirectory(Path(path))
    kept = kept_settings(run)
    if kept is None:
        raise ConfigurationError(f"resume={path}: no run directory (there is no config.yaml that can be read)")
    if run.read_status().get("status") == "finished":
        raise ConfigurationError(f"resume={path}: the run is finished; there is nothing to go on with")
    with run.held():
        pass
    changed = changes(telling(kept), telling(settings))
    if changed:
        raise ConfigurationError(
            f"resume={path}: a run goes on with the settings that it has; changed: {_listed(changed)}; "
            "leave them as they are, or begin another run"
        )


def find_unfinished(settings: Settings) -> tuple[Path | None, str]:
    """The newest run of these settings below ``<paths.output>/<name>`` that did not finish; None where there is none.

    Args:
        settings: what was asked for, resolved.

    Returns:
        The run directory, and a line that says what was found.

    Raises:
        ConfigurationError: a living process writes that run.
        DivergedError: it diverged, and would again.
    """
    folder = Path(settings["paths"]["output"]) / settings["name"]
    wanted = identity(settings)
    finished: Path | None = None
    other: tuple[Path, dict[str, Any]] | None = None
    # Their names begin with date and time; runs of a sweep lie one level below.
    for path in sorted(folder.glob("[0-9]*"), reverse=True):
        run = RunDirectory(path)
        status = _status(run)
        if status in _COMPLETE and (finished is not None or other is not None):
            continue
        kept = kept_settings(run)
        if kept is None:
            continue
        if identity(kept) != wanted:
            if status not in _COMPLETE and other is None:
                other = path, kept
            continue
        if status in _COMPLETE:
            finished = path
            continue
        try:
            with run.held():
                pass
        except ConfigurationError as error:
            raise ConfigurationError(
                f"resume={AUTO}: {error}, under these settings; wait for it, or leave resume out to begin another"
            ) from None
        told = run.find_status()
        if status == "diverged":
            raise DivergedError(
                f"resume={AUTO}: {os.path.relpath(path)} has these settings and diverged, as it would again: "
                f"{told['reason']}; change a setting, or leave resume out to begin another"
            )
        how = ": ".join(str(told[name]) for name in ("status", "reason") if told.get(name))
        return path, f"resume={AUTO}: goes on with {os.path.relpath(path)} ({how or 'it says not how it ended'})"
    line = f"resume={AUTO}: no unfinished run of these settings in {os.path.relpath(folder)}; a new one begins"
    if finished is not None:
        line += f" ({os.path.relpath(finished)} has these settings and is finished)"
    elif other is not None:
        changed = changes(dict(_telling(other[1])), dict(_telling(settings)))
        line += f" (the newest unfinished, {os.path.relpath(other[0])}, has others: {_listed(changed)})"
    return None, line


def _status(run: RunDirectory) -> Any:
    try:
        return run.read_status().get("status")
    except (OSError, ValueError, AttributeError):  # not a run, or one that is damaged
        return None


def changes(before: Settings, now: Settings) -> list[tuple[str, Any, Any]]:
    """The keys, in dotted form, under which two settings, nested or flat, differ, with both values; None for none."""
    old, new = dict(_flat(before)), dict(_flat(now))
    return [
        (name, old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)
    ]


def telling(settings: Settings) -> dict[str, Any]:
    """The settings by which a run that goes on is held to be the same, as dotted key -> value.

    Where the files lie is no part of a run: the checkpoint knows them by their fingerprints.
    """
    return {name: value for name, value in _telling(settings) if not name.startswith("paths.")}


def _telling(settings: Settings) -> Iterator[tuple[str, Any]]:
    silent = [key.name for key in keys(TrainConfig) if not key.metadata["changes_result"]]
    for name, value in _flat(settings):
        if name not in silent and name.partition(".")[0] not in OF_THE_CALL:
            yield name, value


def _flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _listed(changed: list[tuple[str, Any, Any]]) -> str:
    return ", ".join(f"{name}: {_shown(old)} -> {_shown(new)}" for name, old, new in changed)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
