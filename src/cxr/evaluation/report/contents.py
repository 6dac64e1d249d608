"""What does a run hold that can be shown?  Its files, each read or named as missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cxr.errors import ConfigurationError
from cxr.evaluation.metrics_file import read_metrics
from cxr.evaluation.words import mappings
from cxr.pipeline.splits import SPLITS
from cxr.sources.spreadsheet import restored
from cxr.training.environment import package_versions
from cxr.training.run_directory import RunDirectory

FIRST_SHOWN = ("test", "val", "train")


@dataclass(frozen=True)
class Contents:
    """What lies in a run directory; a file that is not there, or cannot be read, is None.

    Args:
        run: the directory.
        entries: split or collection -> its entry of ``metrics.json``: test, val, train, then other collections.
        all_names: the names of all entries, also of those that are not shown.
        settings: ``config.yaml``; empty where there is none.
        config_lines: the same, line by line, without the part that is for Hydra.
        split: ``split.csv``, all columns as text, '' for what is not known.
        dropped: ``dropped.csv``, likewise.
        history: ``history.csv``.
        looks: ``looks.csv``, as text.
        status: ``status.json``.
        environment: ``environment.json``: what the run was trained with; empty where it was not recorded.
        audit: ``audit.json``: what was found of copies, leaks and shortcuts before the training.
        missing: the files that are not there or cannot be read, a sentence each.
        shared: whether all that tells of patients, files and places was taken out, see
            `cxr.evaluation.report.sharing.without_patients`.
    """

    run: RunDirectory
    entries: dict[str, dict[str, Any]]
    all_names: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    config_lines: list[str] = field(default_factory=list)
    split: pd.DataFrame | None = None
    dropped: pd.DataFrame | None = None
    history: pd.DataFrame | None = None
    looks: pd.DataFrame | None = None
    status: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    shared: bool = False

    @property
    def external(self) -> list[str]:
        """The names of the entries that are no split of the run's own data."""
        return [name for name in self.entries if name not in SPLITS]

    @property
    def primary(self) -> str | None:
        """The entry that the headline is about: test, else another collection, else what there is."""
        order = ["test", *self.external, "val", "train"]
        return next((name for name in order if name in self.entries), None)

    @property
    def dependence_of_run(self) -> list[Mapping[str, Any]]:
        """How the label depends on each column over all splits together; empty where no own split was asked for it."""
        return next((rows for each in self.entries.values() if (rows := mappings(each.get("dependence_of_run")))), [])

    def setting(self, dotted: str) -> Any:
        """A value of the configuration by its dotted name; None where it is null or not there."""
        value: Any = self.settings
        for key in dotted.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def predictions(self, name: str) -> pd.DataFrame | None:
        """``predictions/<name>.csv`` as text; None where it is not there."""
        return _table(self.run.predictions_dir / f"{name}.csv", [])


def read_contents(run: RunDirectory, names: Sequence[str] | None = None) -> Contents:
    """Read everything that a report shows.

    Args:
        run: a run directory, or the folder that an evaluation of a lone checkpoint wrote to.
        names: the splits and collections that are shown; None: all.

    Raises:
        ConfigurationError: a name of which there is no entry.
        DataError: ``metrics.json`` is damaged.
    """
    found = read_metrics(run.metrics_path)
    found = {name: entry for name, entry in found.items() if isinstance(entry, dict) and "counts" in entry}
    unknown = [name for name in names or [] if name not in found]
    if unknown:
        raise ConfigurationError(
            f"report: {unknown[0]!r} has not been evaluated in this run; there are: {', '.join(found) or 'none'}"
        )
    shown = [name for name in found if names is None or name in names]
    ordered = [name for name in FIRST_SHOWN if name in shown] + [name for name in shown if name not in FIRST_SHOWN]
    missing: list[str] = []
    text = _text(run.config_path, missing)
    return Contents(
        run=run,
        entries={name: found[name] for name in ordered},
        all_names=list(found),
        settings=_settings(text, missing),
        config_lines=_without_head(text),
        split=_table(run.split_path, missing),
        dropped=_table(run.dropped_path, missing),
        history=_history(run.history_path, missing),
        looks=_table(run.looks_path, missing),
        status=_status(run, missing),
        environment=_object(run.environment_path, []),
        audit=_object(run.audit_path, missing),
        missing=missing,
    )


def versions(contents: Contents) -> list[tuple[str, str]]:
    """Name and version of what the run was trained with where that is recorded, and of what evaluates it now."""
    recorded = contents.environment.get("versions")
    trained = recorded if isinstance(recorded, dict) else {}
    return [(name, f"{trained[name]} in training, {number} now") if name in trained else (name, number)
            for name, number in package_versions().items()]  # fmt: skip


def revision(contents: Contents) -> str | None:
    """The git commit of the program that trained the run, where the run recorded it, and whether it was changed."""
    commit = contents.environment.get("git_commit")
    if not isinstance(commit, str) or not commit:
        return None
    return f"{commit}, with changes that are not committed" if contents.environment.get("git_dirty") else commit


def machine(contents: Contents) -> str | None:
    """The machine that trained the run, where the run recorded it: processor, cores, memory, GPUs, driver and CUDA."""
    found = contents.environment.get("machine")
    if not isinstance(found, dict):
        return None
    names = [str(each.get("name")) for each in found.get("gpus") or [] if isinstance(each, dict)]
    parts = [
        (found.get("processor"), "{}"),
        (found.get("cores"), "{} cores"),
        (found.get("memory_gib"), "{} GiB of memory"),
        *((f"{count} x {name}", "{}") for name, count in Counter(names).items()),
        (found.get("gpu_driver"), "driver {}"),
        (found.get("cuda"), "CUDA {}"),
    ]
    return ", ".join(words.format(value) for value, words in parts if value is not None) or None


def _text(path: Path, missing: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        missing.append(f"{path.name} is not in the run.")
        return ""


def _settings(text: str, missing: list[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text) if text else {}
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        missing.append("config.yaml cannot be read.")
        return {}
    content.pop("defaults", None)
    return content


def _without_head(text: str) -> list[str]:
    """The lines after the comments and the list of defaults, which tell Hydra how to read the rest."""
    lines = text.splitlines()
    while lines and (not lines[0] or lines[0].startswith(("#", "defaults:", "-", " "))):
        lines.pop(0)
    return lines


def _table(path: Path, missing: list[str]) -> pd.DataFrame | None:
    try:
        # All as text: a patient called "007" or "NA" keeps its name.
        return restored(pd.read_csv(path, dtype=str, na_filter=False, encoding_errors="replace"))
    except FileNotFoundError:
        missing.append(f"{path.name} is not in the run.")
    except (ValueError, OSError):  # pandas' own errors of reading are ValueErrors
        missing.append(f"{path.name} cannot be read.")
    return None


def _history(path: Path, missing: list[str]) -> pd.DataFrame | None:
    table = _table(path, missing)
    if table is None or "epoch" not in table or table.empty:
        return None
    numbers: pd.DataFrame = table.apply(pd.to_numeric, errors="coerce")
    return numbers


def _status(run: RunDirectory, missing: list[str]) -> dict[str, Any]:
    """How the run ended, also where it was killed before it could say so."""
    told = _object(run.status_path, missing)
    return run.find_status() if told else told


def _object(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        missing.append(f"{path.name} is not in the run.")
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        missing.append(f"{path.name} cannot be read.")
        return {}
    return content
