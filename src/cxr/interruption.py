"""How does a program end that is told to, where nothing is half done?

SIGINT and SIGTERM end it with 130 and 143: at once, or, while work goes on that must not be cut anywhere, at the next
place that is fit for it.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

# Seconds within which a second SIGINT is the first once more: one Ctrl-C reaches a program twice where what started it
# (uv run, srun) hands on what the terminal has sent to the whole process group.
SAME_INTERRUPT = 0.4

_asked: int | None = None  # the signal that came
_asked_at = 0.0
_deferring = False


def listen() -> None:
    """End with `SystemExit` 130 after SIGINT and 143 after SIGTERM; another SIGINT ends the process on the spot."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def defer() -> None:
    """From now on a signal ends the program at the next `end_if_asked`, not before."""
    global _deferring
    _deferring = True


def resume() -> None:
    """From now on a signal ends the program at once again; one that came meanwhile does at the next `end_if_asked`."""
    global _deferring
    _deferring = False


def end_if_asked() -> None:
    """End the program if a signal came while that was deferred.

    Raises:
        SystemExit: 130 or 143.
    """
    if _asked is not None:
        raise SystemExit(128 + _asked)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    global _asked, _asked_at
    if _asked is not None and number == signal.SIGINT:
        if time.monotonic() - _asked_at > SAME_INTERRUPT:
            os._exit(128 + number)  # somebody is in a hurry: no file is touched any more
        return
    _asked, _asked_at = number, time.monotonic()
    if not _deferring:
        end_if_asked()
