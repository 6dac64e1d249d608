"""How does a mistake end?  One line on the terminal and an exit status that a script can tell apart."""

from __future__ import annotations

from collections.abc import Sequence


class CxrError(Exception):
    """A mistake that its user can mend; the message is one line: what, the value, the way out."""

    exit_status = 1


class ConfigurationError(CxrError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""

    exit_status = 2


class DataError(CxrError):
    """The data are missing, unreadable, or not fit for what was asked."""

    exit_status = 3


class DivergedError(CxrError):
    """The loss, a gradient, a weight or an answer of the network is not finite.

    Args:
        message: one line that names no patient and no file: it is sent to whoever tracks the run.
        records: rows of ``split.csv``, counted from 0, that the batch consisted of.
    """

    exit_status = 4

    def __init__(self, message: str, records: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.records = list(records)


class CheckpointError(CxrError):
    """A checkpoint is missing, damaged, or of another kind."""

    exit_status = 5
