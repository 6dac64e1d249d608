"""How does a program end that is told to, where nothing is half done?

SIGINT and SIGTERM end it with 130 and 143: at once, or, while work goes on that must not be cut anywhere, at the next
place that is fit for it. SIGUSR1 and SIGUSR2, by which clusters say that the time runs out, end it in the same way with
138 and 140.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

# Windows has no such signal.
TIME_RUNS_OUT: Final[int | None] = getattr(signal, "SIGUSR2", None)

# Seconds within which a second SIGINT is the first once more: one Ctrl-C reaches a program twice where what started it
# (uv run, srun) hands on what the terminal has sent to the whole process group.
SAME_INTERRUPT = 0.4

# All that end a program; Windows has two of them.
SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)

_asked: int | None = None  # the signal that came
_asked_at = 0.0
_deferring = False


def listen() -> None:
    """End with `SystemExit` 128 + its number after a signal; another SIGINT ends the process on the spot."""
    for number in SIGNALS:
        signal.signal(number, _on_signal)


@contextmanager
def asked_through(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, the signals that end a program go to a handler, and afterwards to whom they went before."""
    before = [signal.signal(number, handler) for number in SIGNALS]
    try:
        yield
    finally:
        for number, earlier in zip(SIGNALS, before, strict=True):
            signal.signal(number, earlier)


def defer() -> None:
    """From now on a signal ends the program at the next `end_if_asked`, not before."""
    global _deferring
    _deferring = True


def resume() -> None:
    """From now on a signal ends the program at once again; one that came meanwhile does at the next `end_if_asked`."""
    global _deferring
    _deferring = False


def asked() -> int | None:
    """The signal that came while that was deferred; None where none did."""
    return _asked


def end_if_asked() -> None:
    """End the program if a signal came while that was deferred.

    Raises:
        SystemExit: 130, 143, 138 or 140.
    """
    if _asked is not None:
        end(_asked)


def end(number: int) -> NoReturn:
    """End the program as after a signal, also one that came to another process of the same run.

    Raises:
        SystemExit: 128 + number.
    """
    raise SystemExit(128 + number)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    global _asked, _asked_at
    if _asked is not None and number == signal.SIGINT:
        if time.monotonic() - _asked_at > SAME_INTERRUPT:
            os._exit(128 + number)  # somebody is in a hurry: no file is touched any more
        return
    _asked, _asked_at = number, time.monotonic()
    if not _deferring:
        end_if_asked()
