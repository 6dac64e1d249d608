"""How do two sides of a comparison take turns?  Each in a process of its own, which answers a line with a line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


class ChildProcess:
    """A program of this folder, started again as one side of its comparison.

    Args:
        name: of the side, for messages.
        program: the file.
        options: of its command line.

    Attributes:
        last: what it answered last; after the start, that it is ready.
    """

    def __init__(self, name: str, program: str, options: Mapping[str, object]) -> None:
        words = [str(word) for option in options.items() for word in option]
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.last: Any = self._read()

    def ask(self, line: str) -> Any:
        """Give it a line, and wait for its answer, which is JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        self.last = self._read()
        return self.last

    def end(self) -> None:
        """Let it come to its end."""
        self._process.communicate()
        if self._process.returncode != 0:
            raise SystemExit(f"{self._name}: ended with status {self._process.returncode}")

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name}: ended with status {self._process.wait()}")
        return json.loads(line)
