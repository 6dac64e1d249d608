"""How does a test start the programs, each a process of its own, without waiting for all imports every time?

`multiprocessing`'s fork server imports everything once; a program that is forked from it begins within a tenth of a
second instead of ten. It has a session, a folder, an environment and standard streams of its own, and dies of signals
like any other. What it starts by ``sys.executable`` comes off the same server: `tests/interpreter.py` asks for it,
hands signals on to it, and ends as it does. What is asked about imports and start-up itself needs a new interpreter,
and is tested with one.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import multiprocessing
import os
import platform
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
_IMPORTED = [
    "cxr.assembly",
    "cxr.audit.audit",
    "cxr.command_line",
    "cxr.evaluation.evaluate",
    "cxr.evaluation.export.writing",
    "cxr.evaluation.report.audit_page",
    "cxr.evaluation.summary",
    "cxr.open_run",
    "cxr.pipeline.datamodule",
    "cxr.report",
    "cxr.sweeps.study",
    "cxr.sync",
    "cxr.training.artifacts",
    "cxr.training.module",
    "cxr.training.stage_control",
    "cxr.training.trainer",
    "matplotlib.pyplot",
    "optuna",
    "torch.utils.data",
    "wandb",
]
# A process that has threads cannot be forked in peace, and another number of them adds up in another order.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_SERVER = "ADDRESS_OF_THE_SERVER_OF_PROGRAMS"  # of the environment of a program
_TOLD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_NEW_HOST_NAME = 0x04000000  # CLONE_NEWUTS


class Ended(subprocess.CompletedProcess[str]):
    """A program that has ended."""

    @property
    def said(self) -> str:
        """What it printed, errors last."""
        return self.stdout + self.stderr


@dataclass
class Program:
    """A program that runs, or has run."""

    process: ForkServerProcess
    words: Sequence[str]
    folder: Path
    streams: tuple[Path, Path]

    @property
    def number(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def said(self) -> str:
        """What it has printed so far, errors last."""
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in self.streams)

    def tell(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.number, number)

    def kill(self, *, group: bool = False) -> None:
        """Kill it with SIGKILL, and what it has started only where asked to."""
        if group:
            os.killpg(self.number, signal.SIGKILL)
        else:
            os.kill(self.number, signal.SIGKILL)
        self.wait()

    def has_ended(self) -> bool:
        return self.process.exitcode is not None

    def wait(self, seconds: float = 280) -> int:
        """The exit status, or minus the signal that it died of."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"it does not end: {self.said}")
        return self.process.exitcode

    def wait_until(self, condition: Callable[[], bool], seconds: float = 280) -> None:
        """Wait for something to happen while it runs."""
        until = time.monotonic() + seconds
        while not condition():
            assert not self.has_ended(), self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.002)

    def ended(self) -> Ended:
        """Wait for it."""
        status = self.wait()
        return Ended(self.words, status, *(path.read_text(encoding="utf-8", errors="replace") for path in self.streams))


def start(
    *words: str,
    cwd: Path,
    prepare: Callable[..., None] | None = None,
    given: Sequence[Any] = (),
    host: str | None = None,
    largest_file: int | None = None,
    **environment: str,
) -> Program:
    """Start a program without waiting for it.

    Args:
        words: ``train.py`` or ``evaluate.py``, the path of another, -m and a module, or -c and a text; then arguments.
        cwd: where it works; made where it is not there.
        prepare: is called in the process, with what is given, before the program begins.
        host: what its machine is called.
        largest_file: bytes that it may write to one file.
        environment: beside what this process has without W&B's and cxr's, one thread for each library, and no key of
            whoever runs the tests.
    """
    cwd.mkdir(parents=True, exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "CXR_"))}
    folder = Path(tempfile.mkdtemp(dir=_folder_of_streams()))
    account = {"NETRC": str(folder / "netrc"), "WANDB_CONFIG_DIR": str(folder)}
    streams = (folder / "out", folder / "err")
    whole = {**clean, **_ONE_THREAD, **account, **environment}
    for stream in streams:
        stream.touch()
    process = fork_server().Process(
        target=_run,
        args=(words, cwd, whole, (os.devnull, *streams), (host, largest_file), prepare, given),
    )
    process.start()
    return Program(process, words, cwd, streams)


def run(*words: str, cwd: Path, **more: Any) -> Ended:
    """Start a program and wait for it; see `start`."""
    return start(*words, cwd=cwd, **more).ended()


@functools.cache
def fork_server() -> ForkServerContext:
    """What forks processes of a test's own functions, too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED, "tests.forked"])
    os.environ.update(_ONE_THREAD)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)  # the server has the environment of this process
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


@functools.cache
def _folder_of_streams() -> str:
    folder = tempfile.TemporaryDirectory(prefix="cxr_tests_said_")
    atexit.register(folder.cleanup)
    return folder.name


def _run(
    words: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    streams: Sequence[str | Path | int],
    limits: tuple[str | None, int | None],
    prepare: Callable[..., None] | None,
    given: Sequence[Any],
) -> None:
    status = 1
    try:
        assert "tests.forked" in sys.modules
        os.setsid()
        multiprocessing.set_start_method(None, force=True)  # its own processes begin as they would without this one
        for number, stream in enumerate(streams):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND
            handle = stream if isinstance(stream, int) else os.open(stream, flags)
            os.dup2(handle, number)
            os.close(handle)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        os.environ[_SERVER] = str(forkserver._forkserver._forkserver_address)  # type: ignore[attr-defined]
        sys.executable = str(ROOT / "tests" / "interpreter.py")
        _limit(*limits)
        if prepare is not None:
            prepare(*given)
        status = _call(words)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_as_asked(words: Sequence[str]) -> NoReturn:
    """What `tests/interpreter.py` does: let the server of the program that started it run another, and wait for it.

    Args:
        words: as the interpreter's: options, then a program, or -m and a module, or -c and a text; and its arguments.
    """
    server = forkserver._forkserver
    server._forkserver_address = os.environ[_SERVER]  # type: ignore[attr-defined]
    server._forkserver_alive_fd = os.pipe()[1]  # type: ignore[attr-defined]
    server.ensure_running = lambda: None  # type: ignore[method-assign]
    process = multiprocessing.get_context("forkserver").Process(
        target=_run,
        args=(words, Path.cwd(), dict(os.environ), [*map(_Handed, range(3))], (None, None), _die_with_parent, ()),
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)  # until there is something to hand them on to
    process.start()
    number = process.pid
    assert number is not None
    for told in _TOLD:
        signal.signal(told, lambda told, _: os.kill(number, told))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
    process.join()
    status = process.exitcode
    assert status is not None
    if status < 0:
        if -status in _TOLD:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


class _Handed:
    """A stream of this process, as the new one finds it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Callable[..., int], tuple[Any]]:
        return _take, (DupFd(self._number),)


def _take(handed: Any) -> int:
    number: int = handed.detach()
    return number


def _die_with_parent() -> None:
    """A process that is killed leaves none behind that only stood for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _limit(host: str | None, largest_file: int | None) -> None:
    if host is not None:
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_HOST_NAME) == 0:
            socket.sethostname(host)
        else:  # the system does not allow it: then what Python asks
            socket.gethostname = platform.node = lambda: host  # type: ignore[assignment]
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))


def _call(words: Sequence[str]) -> int:
    while words[0] in ("-u", "-E", "-s"):
        words = words[1:]
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(words[1], {"__name__": "__main__"})
        elif words[0] == "-m":
            sys.argv = list(words[1:])
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / words[0]), *words[1:]]
            sys.path.insert(0, str(ROOT))  # as Python does
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0
