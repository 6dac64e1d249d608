"""Where does everything of one run lie, and how did the run end?

Nothing heavy is imported here: a run that fails in its first second still has a directory and a status.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from cxr.errors import ConfigurationError
from cxr.files import write_atomically
from cxr.training.launched import ask_directory, tell_directory

Status = Literal["running", "finished", "pruned", "failed", "interrupted", "diverged"]

# Processes that a distributed strategy starts find the directory of the first process here.
JOIN_VARIABLE = "CXR_RUN_DIR"
# Whoever asks whether a run is held holds it for a moment; who means to keep it waits that out, seconds.
_LOOKED_AT = 0.5
# The loader processes of a run that was killed have its lock from it, and notice within so many seconds.
_LEFT_BEHIND = 15.0
# So long after a job was said to run it may not have come to hold its run, seconds.
_STARTING = 300.0
# The name that `make_folder` gives; a job of a sweep is called by its number.
STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{3}_\d+|\d{1,6}")
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run; see `create`, `take`, `reopen` and `join` for how it comes to be."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def split_path(self) -> Path:
        return self.path / "split.csv"

    @property
    def dropped_path(self) -> Path:
        return self.path / "dropped.csv"

    @property
    def audit_path(self) -> Path:
        return self.path / "audit.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.json"

    @property
    def history_path(self) -> Path:
        return self.path / "history.csv"

    @property
    def rates_path(self) -> Path:
        return self.path / "rates.csv"

    @property
    def looks_path(self) -> Path:
        return self.path / "looks.csv"

    @property
    def status_path(self) -> Path:
        return self.path / "status.json"

    @property
    def environment_path(self) -> Path:
        return self.path / "environment.json"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_checkpoint_path(self) -> Path:
        return self.checkpoints_dir / "best.ckpt"

    @property
    def stands_for(self) -> Literal["best", "last"]:
        """The checkpoint that is meant where none is named: that of ``trainer.checkpoint``, best in older runs."""
        try:
            settings = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
            return "last" if settings["trainer"]["checkpoint"] == "last" else "best"
        except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
            return "best"

    @property
    def last_checkpoint_path(self) -> Path:
        return self.checkpoints_dir / "last.ckpt"

    @property
    def previous_checkpoint_path(self) -> Path:
        """What ``last.ckpt`` was before; gone when the run is finished."""
        return self.checkpoints_dir / "last_previous.ckpt"

    @property
    def diverged_path(self) -> Path:
        return self.path / "diverged.csv"

    @property
    def figures_dir(self) -> Path:
        return self.path / "figures"

    @property
    def predictions_dir(self) -> Path:
        return self.path / "predictions"

    @property
    def tracking_dir(self) -> Path:
        return self.path / "tracking"

    @property
    def tracked_path(self) -> Path:
        return self.path / "tracking.json"

    @classmethod
    def create(cls, output_dir: str | Path, name: str) -> RunDirectory:
        """Make the directory of a run, see `make_folder`.

        Raises:
            ConfigurationError: ``name`` would lead out of ``output_dir``, or the place cannot be written.
        """
        return cls._begin(make_folder(output_dir, name))

    @classmethod
    def take(cls, path: str | Path) -> RunDirectory:
        """Use a directory that is given, as a job of a sweep has one; it may exist, but may not hold a run already.

        Raises:
            ConfigurationError: another run has been there, or the place cannot be written.
        """
        path = Path(path).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            # The status is the mark of a run; whoever creates it owns the directory.
            with (path / "status.json").open("x", encoding="utf-8") as status:
                status.write("{}")
        except FileExistsError:
            raise ConfigurationError(f"run directory {path}: holds a run already; give another") from None
        except OSError as error:
            raise ConfigurationError(f"run directory {path}: cannot be written ({error.strerror})") from None
        return cls._begin(path)

    @classmethod
    def reopen(cls, path: str | Path) -> RunDirectory:
        """Go on in the directory of a run that stopped; the caller holds it (`held`).

        Raises:
            ConfigurationError: no run has been there, or it is finished.
        """
        run = cls(Path(path).absolute())
        if not run.config_path.is_file():
            raise ConfigurationError(f"run directory {path}: holds no run (there is no config.yaml)")
        if run.read_status().get("status") == "finished":
            raise ConfigurationError(f"run directory {path}: the run is finished; there is nothing to go on with")
        return cls._begin(run.path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the run to this process for as long as it lives: a process number may belong to another by now.

        Raises:
            ConfigurationError: a living process holds it.
        """
        lock = FileLock(self._lock_path)
        process = self.read_status().get("process")
        try:
            lock.acquire(timeout=_LOOKED_AT if _lives(process) else _LEFT_BEHIND)
        except Timeout:
            raise ConfigurationError(
                f"run directory {self.path}: a living process (number {process}) writes it"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"run directory {self.path}: cannot be written ({error.strerror})") from None
        try:
            yield
        finally:
            lock.release()

    def is_held(self) -> bool:
        """Whether a living process keeps the run, see `held`; where that cannot be told, none does."""
        if not self._lock_path.exists():
            return False
        try:
            with FileLock(self._lock_path, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    @property
    def _lock_path(self) -> Path:
        return self.path / ".lock"

    @staticmethod
    def is_joined() -> bool:
        """Whether this is a further process of a run, see `join`."""
        return bool(_further())

    @classmethod
    def join(cls) -> RunDirectory | None:
        """The directory of the run that this process was started to take part in, or None in a run's first process.

        A distributed strategy starts the program again, once for each further device; such a process must not make a
        directory of its own.

        Raises:
            ConfigurationError: this is a further process, and nobody said where the run lies.
        """
        further = _further()
        if not further:
            return None
        path = os.environ.get(JOIN_VARIABLE) or ask_directory()
        if path is None:
            raise ConfigurationError(
                f"{further[0]}={os.environ[further[0]]}: not the first process of its run;"
                f" set {JOIN_VARIABLE} to the run's directory"
            )
        return cls(Path(path))

    @classmethod
    def _begin(cls, path: Path) -> RunDirectory:
        run = cls(path.absolute())
        for folder in (run.checkpoints_dir, run.figures_dir, run.predictions_dir):
            folder.mkdir(exist_ok=True)
        os.environ[JOIN_VARIABLE] = str(run.path)
        run.write_status("running")
        tell_directory(run.path)
        return run

    def write_status(self, status: Status, *, reason: str | None = None, exit_status: int | None = None) -> None:
        """Replace ``status.json`` in one stroke; a reader never sees half of it.

        Args:
            status: what the run is now.
            reason: one line that says why, for a run that did not finish.
            exit_status: what the process returns; None while it runs.
        """
        content: dict[str, Any] = {
            "status": status,
            "reason": reason,
            "exit_status": exit_status,
            "process": os.getpid(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_atomically(self.status_path, json.dumps(content, indent=2) + "\n")

    def find_status(self) -> dict[str, Any]:
        """`read_status`, but for a run that was killed: nobody was left to write that it runs no more.

        Such a run is ``failed``, and the reason says that its process is gone.
        """
        told = self.read_status()
        if told.get("status") != "running" or self.is_held():
            return told
        written, process = self.status_path.stat().st_mtime, told.get("process")
        # A job of a sweep is said to run by whoever starts it, and holds its run only when it has come so far itself.
        if time.time() - written < _STARTING and _lives(process):
            return told
        reason = f"killed: process {process} is gone and did not say how it ended"
        return {**told, "status": "failed", "reason": reason}

    def read_status(self) -> dict[str, Any]:
        """What `write_status` wrote; empty where the run was killed before it said anything."""
        try:
            text = self.status_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        content: dict[str, Any] = json.loads(text or "{}")  # empty: made a moment ago to own the directory, or for ever
        return content


def _lives(process: Any) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, TypeError, ValueError, OverflowError):
        return False
    return True


def _further() -> list[str]:
    return [name for name in _RANK_VARIABLES if os.environ.get(name, "0") != "0"]


def make_folder(output_dir: str | Path, name: str) -> Path:
    """Make ``<output_dir>/<name>/<date_time-milliseconds_process>`` for the caller alone.

    Two that start in the same millisecond with the same process number (on two machines with one file system) still get
    two folders: the second waits for the next millisecond.

    Raises:
        ConfigurationError: ``name`` would lead out of ``output_dir``, or the place cannot be written.
    """
    parent = _inside(Path(output_dir), name)
    while True:
        now = time.time()
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))
        path = parent / f"{stamp}-{int(now * 1000) % 1000:03d}_{os.getpid()}"
        try:
            _make(path)
        except FileExistsError:
            time.sleep(0.001)
        else:
            return path


def _inside(output_dir: Path, name: str) -> Path:
    parts = name.split("/")
    if Path(name).is_absolute() or not name or any(part in ("", ".", "..") for part in parts):
        raise ConfigurationError(f"run name {name!r}: give a plain name without '..', below {output_dir}")
    if re.search(r"[\x00-\x1f\\]", name):
        raise ConfigurationError(f"run name {name!r}: holds a control character or a backslash")
    root = output_dir.resolve()
    parent = (output_dir / name).resolve()
    if not parent.is_relative_to(root):
        raise ConfigurationError(f"run name {name!r}: leads out of {output_dir}")
    return parent


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError:
        if path.is_dir():
            raise
        raise ConfigurationError(f"run directory {path.parent}: a file stands in its place") from None
    except OSError as error:
        raise ConfigurationError(f"run directory {path}: cannot be written ({error.strerror})") from None
