"""Is every job that is forked off the server as if it were the first?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# By a new interpreter, so that the server is one of a sweep and not that of other tests.
SWEEP = """
import multiprocessing, os, sys
from pathlib import Path
from cxr.sweeps.child import Membership
from cxr.sweeps.program import start_program

folder = Path(sys.argv[1])
for number in range(2):
    reading, writing = multiprocessing.Pipe(duplex=False)
    console = folder / f"{number}.log"
    job = start_program([str(folder / "job.py")], dict(os.environ), console, Membership(folder, number, False), reading)
    job.join()
    print(job.exitcode)
"""
# A picture of pixels lies in a temporary folder that W&B makes when it is imported, until it is logged.
JOB = """
import tempfile
import numpy as np
import wandb

wandb.Image(np.zeros((8, 8, 3), np.uint8))
kept = tempfile.TemporaryDirectory()
print(kept.name)
"""


def test_the_end_of_a_job_takes_nothing_from_the_next(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    command = [sys.executable, "-c", SWEEP, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    consoles = [(tmp_path / f"{number}.log").read_text(encoding="utf-8") for number in range(2)]
    assert done.stdout.split() == ["0", "0"], (consoles, done.stderr)
    assert not any(Path(console.strip()).exists() for console in consoles), "what a job has made it clears away"
