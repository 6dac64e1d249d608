"""The programs as real processes, many in the time of few: forked from one that has imported everything."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("program_server.py")


@dataclass(frozen=True)
class Ended:
    """What a process came to."""

    status: int
    said: str


class _Server:
    def __init__(self) -> None:
        # One thread everywhere: a process that has threads cannot be forked in peace.
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one},
        )
        self._ended: dict[int, int] = {}
        atexit.register(self.stop)

    def ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        while True:
            said = self._read()
            if "started" in said:
                return int(said["started"])

    def status(self, process: int) -> int:
        while process not in self._ended:
            self._read()
        return self._ended.pop(process)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that starts programs has ended"
        said: dict[str, Any] = json.loads(line)
        if "ended" in said:
            self._ended[said["ended"]] = said["status"]
        return said

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()


@dataclass(frozen=True)
class Program:
    """A process that runs.

    Attributes:
        process: its number; it leads a group of its own.
        output: file of what it prints.
    """

    process: int
    output: Path

    def wait(self) -> Ended:
        """Until it has ended."""
        status = _server().status(self.process)
        return Ended(status, self.output.read_text(encoding="utf-8", errors="replace"))


def start(
    *words: str,
    cwd: Path,
    home: Path | None = None,
    host: str | None = None,
    largest_file: int | None = None,
    **environment: str,
) -> Program:
    """Start train.py, evaluate.py (by these names) or a module (-m, its name) without waiting for it.

    Args:
        words: the program and its arguments.
        cwd: where it works.
        home: its home; None: ``home`` there.
        host: what its machine is called.
        largest_file: bytes that it may write to one file.
        environment: of the process, beside what this one has, without W&B's and cxr's.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "CXR_"))}
    home = cwd / "home" if home is None else home
    home.mkdir(parents=True, exist_ok=True)
    output = home / f"said-{len(list(home.glob('said-*')))}"
    output.touch()
    request = {
        "words": [str(ROOT / words[0]) if words[0].endswith(".py") else words[0], *words[1:]],
        "cwd": str(cwd),
        "output": str(output),
        "environment": {**clean, "HOME": str(home), **environment},
        "host": host,
        "largest_file": largest_file,
    }
    return Program(_server().ask(request), output)


def run(*words: str, cwd: Path, **more: Any) -> Ended:
    """Start a program and wait for it; see `start`."""
    return start(*words, cwd=cwd, **more).wait()
