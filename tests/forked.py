"""What the server of `tests.programs` does once it has imported everything else, for all that are forked off it."""

from __future__ import annotations

import atexit
import multiprocessing.util
from multiprocessing import forkserver

from cxr.sweeps.program import forget_exits

forget_exits()
atexit.register(multiprocessing.util._exit_function)


def _is_running() -> None:
    """The server is, as long as one that asks."""


# The jobs of a sweep are forked off the same server: a second one would import everything once more.
forkserver.ensure_running = forkserver._forkserver.ensure_running = _is_running  # type: ignore[method-assign]
