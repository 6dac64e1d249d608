"""Does a signal end a program where nothing is half done?  With processes and signals."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from cxr.interruption import defer, end_if_asked, listen, resume

listen()
if sys.argv[1] != "at once":
    defer()
try:
    print("ready", flush=True)
    sys.stdin.readline()  # the work that must not be cut
    print("whole", flush=True)
    if sys.argv[1] == "resumed":
        resume()
        print("resumed", flush=True)
        sys.stdin.readline()
    end_if_asked()
finally:
    print("closed", flush=True)
"""


def start(how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 140)])
def test_at_once_where_nothing_is_deferred(number: signal.Signals, status: int) -> None:
    process = start("at once")
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == "closed\n"
    assert process.returncode == status


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_after_what_must_not_be_cut(number: signal.Signals, status: int) -> None:
    process = start("deferred")
    for _ in range(2):  # a cluster may say it more than once, and uv run hands on what the terminal has said already
        process.send_signal(number)
    assert process.communicate("\n", timeout=30)[0] == "whole\nclosed\n"
    assert process.returncode == status


def test_a_second_interrupt_ends_the_process_on_the_spot() -> None:
    process = start("deferred")
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert process.stdout is not None
    assert process.stdout.read() == ""  # not even what it does at its end


def test_at_once_again_after_that() -> None:
    process = start("resumed")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(2)] == ["whole\n", "resumed\n"]
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "closed\n"
    assert process.returncode == 143
