"""How does a program end that is told to, where nothing is half done?

SIGINT and SIGTERM end it with 130 and 143: at once, or, while work goes on that must not be cut anywhere, at the next
place that is fit for it.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

_asked: int | None = None  # the signal that came
_deferring = False


def listen() -> None:
    """End with `SystemExit` 130 after SIGINT and 143 after SIGTERM; a second SIGINT ends the process on the spot."""
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
    global _asked
    if _asked is not None and number == signal.SIGINT:
        os._exit(128 + number)  # somebody is in a hurry: no file is touched any more
    _asked = number
    if not _deferring:
        end_if_asked()
