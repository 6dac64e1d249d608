"""Starts programs as processes forked from one that has imported what all of them need: a second each, not ten.

Reads one JSON object a line from its input: ``words`` (the program, or -m and a module, with arguments), ``cwd``,
``environment``, ``output`` (file of standard output and error), ``host`` (the name that it sees), and
``largest_file`` (bytes that it may write to one file). Answers with the process id, and with its exit status once it
has ended.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import platform
import resource
import runpy
import selectors
import socket
import sys
import traceback
from typing import Any

IMPORTED = (
    "cxr.assembly",
    "cxr.evaluation.evaluate",
    "cxr.evaluation.export.writing",
    "cxr.open_run",
    "cxr.report",
    "cxr.sync",
    "matplotlib.pyplot",
    "torch.utils.data",
    "cxr.training.artifacts",
)
CLONE_NEWUTS = 0x04000000


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    running: set[int] = set()
    asked = selectors.DefaultSelector()
    asked.register(sys.stdin, selectors.EVENT_READ)
    while True:
        if asked.select(timeout=0.05 if running else None):
            line = sys.stdin.readline()
            if not line:
                return
            running.add(start(json.loads(line)))
        for process in list(running):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                running.discard(process)
                print(json.dumps({"ended": process, "status": os.waitstatus_to_exitcode(status)}), flush=True)


def start(request: dict[str, Any]) -> int:
    process = os.fork()
    if process:
        print(json.dumps({"started": process}), flush=True)
        return process
    status = 1
    try:
        become(request)
        status = run(request["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def become(request: dict[str, Any]) -> None:
    os.setsid()
    for number, place in ((0, os.devnull), (1, request["output"])):
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    os.dup2(1, 2)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request.get("host"):
        rename_host(request["host"])
    if request.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], request["largest_file"]))


def rename_host(name: str) -> None:
    """For this process and its children; where the system does not allow it, for what Python asks."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUTS) == 0:
        socket.sethostname(name)
    else:
        socket.gethostname = platform.node = lambda: name  # type: ignore[assignment]


def run(words: list[str]) -> int:
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path.insert(0, os.path.dirname(words[0]))  # noqa: PTH120 - as Python does
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


if __name__ == "__main__":
    main()
