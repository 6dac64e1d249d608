"""How does the program of a job begin without importing everything anew?

A server imports the stack once, and each job is forked off it (multiprocessing's fork server): from then on a process
like any other, with an environment, a console and a session of its own. To import touches no GPU and starts no threads
of OpenMP, so that a job may still choose both. Elsewhere than on Linux, where system libraries do not bear a fork,
every job imports for itself.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import sys
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from cxr.sweeps.child import Membership, membership_environment

# What a training imports. What is missing here costs each job the time of its import, and nothing else.
_STACK: Final = [
    "cxr.assembly",
    "cxr.open_run",
    "cxr.report",
    "cxr.pipeline.datamodule",
    "cxr.training.module",
    "cxr.training.tracking",
    "cxr.training.trainer",
]
_THREADS: Final = "OMP_NUM_THREADS"


def start_program(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    console_path: Path,
    membership: Membership,
    pipe: Connection,
) -> BaseProcess:
    """Start a Python program as if by ``python <arguments>``, in a session of its own.

    Args:
        arguments: path of the program, and its own arguments.
        environment: of the process.
        console_path: standard output and errors are appended to it, in their order; there is no standard input.
        membership: the place of the process in its sweep.
        pipe: the end that the process reads, see `cxr.sweeps.child`.

    Raises:
        OSError: the process cannot be started, or the console cannot be written.
    """
    console_path.open("ab").close()
    context: BaseContext = multiprocessing.get_context("spawn")
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        _start_server(environment.get(_THREADS))
    content = (list(arguments), dict(environment), str(console_path), membership, pipe)
    process: BaseProcess = context.Process(target=_run, args=content)
    process.start()
    return process


def _start_server(threads: str | None) -> None:
    """Start the server, if there is none; some of its libraries read the number of threads when they are loaded."""
    forkserver.set_forkserver_preload(_STACK)
    before = os.environ.get(_THREADS)
    try:
        if threads is not None:
            os.environ[_THREADS] = threads
        forkserver.ensure_running()
    finally:
        if before is None:
            os.environ.pop(_THREADS, None)
        else:
            os.environ[_THREADS] = before


def forget_exits() -> None:
    """Forget what the imports have left to do at the end of this process, but for what comes from now on.

    In a copy of the server it is not for the copy to do: W&B's temporary folders, for example, serve all copies.
    """
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]


def _run(
    arguments: list[str], environment: dict[str, str], console_path: str, membership: Membership, pipe: Connection
) -> None:
    os.setsid()
    forget_exits()
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, console_path, os.O_WRONLY | os.O_APPEND)):
        opened = os.open(path, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    # Unbuffered, or what goes to the two streams would not stand in its order.
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.environ.update({"PYTHONUNBUFFERED": "1", **membership_environment(membership, pipe.fileno())})
    if _THREADS in environment:
        import torch

        torch.set_num_threads(int(environment[_THREADS]))
    sys.argv[:] = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing leaves them out
