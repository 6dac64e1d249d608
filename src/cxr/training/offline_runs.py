"""Which W&B runs lie in these folders, what would be sent of each, and has it been sent?  Asked without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.errors import ConfigurationError, DataError

_TOLD = "lineage.told"  # beside W&B's own mark of a run that was sent


@dataclass(frozen=True)
class OfflineRun:
    """One folder that W&B wrote offline; a run that was resumed has several, of one id.

    Args:
        path: the folder, ``offline-run-<time>-<id>``.
        tracking_dir: the folder above ``wandb/``, with what is staged.
        id, name, project, entity, job_type: of W&B; the entity is None for the default of the key.
        state: what W&B shows: finished, failed, or running (also of a run that was killed); ``empty`` where a run was
            killed before anything of it reached the disk.
        status: what the run said itself: finished, failed, interrupted, diverged or running; None where it did not.
        config: settings with dotted keys at the top level only, as W&B holds them.
        artifacts: ``name:alias`` of each.
        staged_bytes: size of the files of its artifacts.
        missing: files of its artifacts that are gone.
        sent: whether W&B's mark of a run that was sent lies beside it.
        models: of an evaluation, the artifacts with the weights that it used, ``name:alias`` of each.
        told: whether the server was told so.
    """

    path: Path
    tracking_dir: Path
    id: str
    name: str
    project: str
    entity: str | None
    job_type: str
    state: str
    status: str | None
    config: Mapping[str, Any]
    artifacts: tuple[str, ...]
    staged_bytes: int
    missing: tuple[Path, ...]
    sent: bool
    models: tuple[str, ...]
    told: bool

    def mark_told(self) -> None:
        """Put down that the server knows which weights were used."""
        (self.path / _TOLD).touch()


def find_offline_runs(paths: Sequence[str | Path]) -> list[OfflineRun]:
    """The offline runs below these folders: trainings before evaluations, each in the order in which they began.

    Args:
        paths: runs, sweeps, or folders that hold such at any depth.

    Raises:
        ConfigurationError: a path that is no folder, or holds no offline run.
        DataError: W&B cannot read one of its own files.
    """
    found: dict[Path, None] = {}
    for given in paths:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise ConfigurationError(f"{given}: there is no such folder; give a run or a sweep")
        below = list(_folders_of(folder.resolve()))
        if not below:
            raise ConfigurationError(
                f"{given}: holds no offline run of W&B; it was online, or tracked by another logger (logger.name)"
            )
        found.update(dict.fromkeys(below))
    with ThreadPoolExecutor() as readers:  # each waits for a process of its own
        runs = list(readers.map(_read, found))
    return sorted(runs, key=lambda run: (run.job_type == "evaluate", run.path.name))


def wandb_command(*words: str) -> list[str]:
    """W&B's own program, of the Python that runs."""
    return [sys.executable, "-m", "wandb", *words]


def wandb_environment(tracking_dir: Path) -> dict[str, str]:
    """The environment in which W&B looks for what it staged where a run staged it."""
    places = {"WANDB_DATA_DIR": tracking_dir / "staging", "WANDB_CACHE_DIR": tracking_dir / "cache"}
    # W&B's reports of its own errors may hold paths, and make even a look at a file ask for a network.
    quiet = {"WANDB_DIR": str(tracking_dir), "WANDB_ERROR_REPORTING": "false"}
    # A running W&B process of this one reads relative paths from another folder.
    kept = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {**kept, **{name: str(place) for name, place in places.items()}, **quiet}


def _folders_of(folder: Path) -> Iterator[Path]:
    """Folders ``offline-run-*`` at any depth, also the given one."""
    for here, folders, files in os.walk(folder):
        path = Path(here)
        if path.name.startswith("offline-run-") and any(name.endswith(".wandb") for name in files):
            folders.clear()
            yield path
            continue
        # Links, such as latest-run, are not followed by os.walk.
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _read(folder: Path) -> OfflineRun:
    tracking_dir = folder.parent.parent
    done = subprocess.run(
        wandb_command("leet", "inspect", "--json", str(folder)),
        capture_output=True,
        text=True,
        env=wandb_environment(tracking_dir),
        check=False,
    )
    try:
        # A run that was killed may end in half a record.
        records = [json.loads(line) for line in done.stdout.splitlines() if line.endswith("}")]
        if not records and done.returncode == 0:
            return _empty(folder)
        about = next(record["run"] for record in records if record["type"] == "run")
    except (StopIteration, ValueError, KeyError):
        said = " ".join(done.stderr.split())[-200:] or "it holds no run"
        raise DataError(f"{folder}: W&B cannot read it ({said}); move it away to go on without it") from None
    config, summary = dict(_updates(records, about)), dict(_summary(records))
    exits = [record["exit"].get("exit_code", 0) for record in records if record["type"] == "exit"]
    logged = [record["artifact"] for record in records if record["type"] == "artifact"]
    files = [tracking_dir / entry["local_path"] for each in logged for entry in _entries(each)]
    return OfflineRun(
        path=folder,
        tracking_dir=tracking_dir,
        id=about["run_id"],
        name=about.get("display_name") or about["run_id"],
        project=about.get("project") or "uncategorized",
        entity=about.get("entity") or None,
        job_type=about.get("job_type") or "",
        state="running" if not exits else "failed" if exits[-1] else "finished",
        status=summary.get("status"),
        config=config,
        artifacts=tuple(f"{each['name']}:{alias}" for each in logged for alias in each.get("aliases") or ["latest"]),
        staged_bytes=sum(file.stat().st_size for file in files if file.is_file()),
        missing=tuple(file for file in files if not file.is_file()),
        sent=any(folder.glob("*.wandb.synced")),
        models=_models(about.get("job_type"), config.get("model_artifact")),
        told=(folder / _TOLD).exists(),
    )


def _empty(folder: Path) -> OfflineRun:
    return OfflineRun(
        path=folder,
        tracking_dir=folder.parent.parent,
        id=folder.name.rpartition("-")[2],
        name=folder.name,
        project="",
        entity=None,
        job_type="",
        state="empty",
        status=None,
        config={},
        artifacts=(),
        staged_bytes=0,
        missing=(),
        sent=False,
        models=(),
        told=False,
    )


def _models(job_type: str | None, named: Any) -> tuple[str, ...]:
    """A single name, or one for each network of an ensemble; None for one that was not tracked."""
    if job_type != "evaluate":
        return ()
    return tuple(str(name) for name in (named if isinstance(named, list) else [named]) if name)


def _entries(artifact: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    contents = (artifact.get("manifest") or {}).get("contents") or []
    return [entry for entry in contents if entry.get("local_path")]


def _updates(records: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((about.get("config") or {}).get("update") or {}).items()
    for record in records:
        if record["type"] == "config":
            yield from (record["config"].get("update") or {}).items()


def _summary(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for record in records:
        if record["type"] == "summary":
            yield from (record["summary"].get("update") or {}).items()
