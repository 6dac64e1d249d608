"""How do two sides of a comparison take turns?  Each in a process of its own, which answers a line with a line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


# ------------------------------------------------------------------------------------------------------- in a child


def resident_peak() -> float:
    """The most memory that this process has had so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@dataclass
class Stopwatch:
    """Times of one epoch; `wait` holds the training until it is this side's turn.

    What lies between the last training batch and the end of the validation is validation; all else up to the end of
    the epoch is training.

    Args:
        answer: takes what goes back to the other half of the comparison.
        peak: the most memory so far, MB.
        finish: returns when the device has done all that it was given; called before each mark.
    """

    answer: Callable[[dict[str, float]], None]
    peak: Callable[[], float] = resident_peak
    finish: Callable[[], None] = lambda: None
    marks: dict[str, float] = field(default_factory=dict)

    def wait(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit("stopped")
        self.marks = {"begin": time.perf_counter()}

    def mark(self, name: str) -> None:
        self.finish()
        self.marks[name] = time.perf_counter()

    def tell(self) -> None:
        marks = self.marks
        val = marks["validated"] - marks["trained"]
        self.answer(
            {
                "train": marks["end"] - marks["begin"] - val,
                "val": val,
                "checkpoints": time.perf_counter() - marks["end"],
                "peak_mb": self.peak(),
            }
        )


def answers_alone() -> Callable[[dict[str, float]], None]:
    """Give the standard output to the answers; what the libraries print there goes nowhere."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)

    def answer(turn: dict[str, float]) -> None:
        answers.write(json.dumps(turn) + "\n")
        answers.flush()

    return answer
