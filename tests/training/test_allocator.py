from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import cxr.allocator
tuned = cxr.allocator.tune_allocator() if sys.argv[1] == "tuned" else False
assert "torch" not in sys.modules and "numpy" not in sys.modules
import numpy as np

def step():
    # 64 MB each: above the size up to which glibc learns by itself.
    return sum(float(np.ones(8_000_000).sum()) for _ in range(2))

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step(); step()
print(tuned, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(kind: str) -> tuple[str, int]:
    result = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True)
    tuned, faults = result.stdout.split()
    return tuned, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_not_faulted_in_again() -> None:
    _, plain = _run("plain")
    tuned, kept = _run("tuned")
    assert tuned == "True"
    assert kept < plain * 0.08


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr.allocator import tune_allocator

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert tune_allocator() is False
