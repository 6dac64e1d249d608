"""How does a test start many trainings, each a process of its own, without waiting for all imports every time?

`multiprocessing`'s fork server imports everything once; a training that is forked from it begins within a tenth of a
second. It has a session, a folder and a console of its own, and dies of signals like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "cxr.assembly",
        "cxr.command_line",
        "cxr.open_run",
        "cxr.report",
        "cxr.evaluation.evaluate",
        "cxr.evaluation.summary",
        "cxr.pipeline.datamodule",
        "cxr.training.module",
        "cxr.training.stage_control",
        "cxr.training.trainer",
        "wandb",
    ]
)

# Small, and as random as a training can be: order, augmentation and dropout.
TINY = [
    "experiment=demo",
    "data.sources.phantom.num_patients=30",
    "data.sources.phantom.size=64",
    "data.look_for_copies=false",
    "audit.shortcuts=false",
    "data.image_size=32",
    "data.batch_size=8",
    "model.name=test_resnet",
    "model.drop_rate=0.3",
    "augment=light",
    "trainer.max_epochs=4",
    "trainer.gpus=0",
    "trainer.log_every_n_steps=1",
    "logger=csv",
]


@dataclass
class Forked:
    """A program that runs, or has run, in a folder."""

    process: ForkServerProcess
    folder: Path

    @property
    def number(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def console(self) -> str:
        """What it and those before it in this folder have printed."""
        return (self.folder / "console.log").read_text()

    def tell(self, number: int) -> None:
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

    def wait(self, seconds: float = 3600) -> int:
        """The exit status, or minus the signal that it died of."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"it does not end: {self.console}")
        return self.process.exitcode

    def wait_until(self, condition: Callable[[], bool], seconds: float = 3600) -> None:
        """Wait for something to happen while it runs."""
        until = time.monotonic() + seconds
        while not condition():
            assert not self.has_ended(), self.console
            assert time.monotonic() < until, self.console
            time.sleep(0.002)


def start(
    words: Sequence[str], folder: Path, prepare: Callable[..., None] | None = None, *given: Any, program: str = "train"
) -> Forked:
    """Start ``python <program>.py <words>`` in a folder.

    Args:
        prepare: is called in the process, with what is given, before the program begins.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # another number adds up in another order
    folder.mkdir(parents=True, exist_ok=True)
    process = CONTEXT.Process(target=_run, args=(program, list(words), folder, prepare, given))
    process.start()
    return Forked(process, folder)


def run(words: Sequence[str], folder: Path, *, program: str = "train") -> tuple[int, str]:
    """Run to the end; the exit status and what was printed."""
    before = len((folder / "console.log").read_text()) if (folder / "console.log").is_file() else 0
    started = start(words, folder, program=program)
    return started.wait(), started.console[before:]


def the_run(folder: Path) -> Path:
    """The one run below a folder."""
    (found,) = (folder / "outputs" / "demo").glob("[0-9]*")
    return found


def _run(
    program: str, words: list[str], folder: Path, prepare: Callable[..., None] | None, given: Sequence[Any]
) -> None:
    status = 1
    try:
        os.setsid()
        multiprocessing.set_start_method(None, force=True)  # its own processes begin as they would without this one
        os.chdir(folder)
        console = os.open("console.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(console, standard)
        for name in [name for name in os.environ if name.startswith(("WANDB_", "CXR_"))]:
            del os.environ[name]
        if prepare is not None:
            prepare(*given)
        sys.argv = [str(ROOT / f"{program}.py"), *words]
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
