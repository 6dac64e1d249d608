"""What does a sweep cost beyond its trainings, and is it faster than what Hydra offers without cxr's launcher?

    uv run benchmarks/sweep.py
    uv run benchmarks/sweep.py --values 3 3 3 --rounds 1 data=chest_xray paths.data=<folder>

A grid of learning rates, image sizes and class weightings, small networks, few steps. The same trainings are run in
four ways, which take turns: as a sweep of cxr with one job at a time, and with as many as there are cores; by the basic
launcher, which does one after the other in one process; and by a call of its own for each, with the basic launcher.
Every image size is prepared, and every network trained once, before the clock starts. Words without dashes go to every
training.

What a job costs beyond its training is wall time less the seconds of its epochs (``history.csv``), divided by the jobs;
it holds reading, splitting and auditing the records, building the network, the last validation, checkpoints and report.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GRID = {
    "optimizer.lr": ["1e-4", "3e-4", "1e-3"],
    "data.image_size": ["64", "96", "128"],
    "balance": ["none", "oversample", "class_weights"],
}
SMALL = [
    "experiment=demo",
    "model.name=resnet10t",
    "data.batch_size=32",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=20",
    "trainer.limit_val_batches=10",
    "logger=none",
]


@dataclass(frozen=True)
class Way:
    """One way to run the trainings.

    Attributes:
        title: for the table.
        calls: the words of every call of ``train.py`` that it takes.
        side_by_side: trainings at a time.
    """

    title: str
    calls: list[list[str]]
    side_by_side: int = 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--values", type=int, nargs=3, default=[2, 1, 3], help="how many rates, sizes and weightings, 1 to 3 each"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    given, words = parser.parse_known_args()
    if not all(1 <= number <= 3 for number in given.values) or given.rounds < 1:
        parser.error("give 1 to 3 of each of the --values, and at least one of --rounds")
    if any(word.startswith("-") for word in words):
        parser.error(f"{' '.join(words)}: the words for the trainings have no dashes")

    grid = {name: values[:number] for (name, values), number in zip(GRID.items(), given.values, strict=True)}
    combinations = [
        [f"{name}={value}" for name, value in zip(grid, chosen, strict=True)]
        for chosen in itertools.product(*grid.values())
    ]
    whole = [f"{name}={','.join(values)}" for name, values in grid.items()]
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        words = [*SMALL, *words, f"paths.cache={folder}/cache"]
        basic = "hydra/launcher=basic"
        ways = [
            Way("sweep of cxr, one job at a time", [["-m", "hydra.launcher.n_jobs=1", *whole]]),
            Way(f"sweep of cxr, {cores} at a time", [["-m", f"hydra.launcher.n_jobs={cores}", *whole]], cores),
            Way("basic launcher, one sweep", [["-m", basic, *whole]]),
            Way("basic launcher, a call for each", [["-m", basic, *each] for each in combinations]),
        ]
        for size in grid["data.image_size"]:
            call([*words, f"data.image_size={size}", f"paths.output={folder}/before"])
        seconds: dict[str, list[float]] = {way.title: [] for way in ways}
        training: dict[str, list[float]] = {way.title: [] for way in ways}
        for turn in range(given.rounds):
            for number, way in enumerate(ways):
                output = Path(folder, f"{turn}-{number}")
                begin = time.monotonic()
                for each in way.calls:
                    call([*each, *words, f"paths.output={output}"])
                seconds[way.title].append(time.monotonic() - begin)
                training[way.title].append(of_epochs(output, len(combinations)))

    reference = statistics.median(seconds[ways[-1].title])
    print(f"{len(combinations)} trainings: {' '.join([*words[:-1], *whole])}\n")
    print(
        "| way | wall, s | epochs of all jobs, s | beyond the epochs, s per job | times faster than a call for each |"
    )
    print("|---|---:|---:|---:|---:|")
    for way in ways:
        wall, epochs = seconds[way.title], training[way.title]
        beyond = [(w * way.side_by_side - e) / len(combinations) for w, e in zip(wall, epochs, strict=True)]
        faster = reference / statistics.median(wall)
        print(f"| {way.title} | {spread(wall)} | {spread(epochs)} | {spread(beyond)} | {faster:.2f} |")
    print(f"\nMedians of {given.rounds} turns (smallest-largest); {cores} cores, Python {platform.python_version()}")
    return 0


def call(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "train.py", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"train.py {' '.join(words)}: ended with status {done.returncode}\n{done.stdout[-3000:]}")


def of_epochs(output: Path, num_jobs: int) -> float:
    """Seconds of the epochs of all runs below a folder."""
    histories = list(output.rglob("history.csv"))
    if len(histories) != num_jobs:
        raise SystemExit(f"{output}: holds {len(histories)} trainings, not {num_jobs}")
    # The seconds are counted from the start of each training, so that its last row holds them all.
    return sum(float(list(csv.DictReader(path.open(encoding="utf-8")))[-1]["seconds"]) for path in histories)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    sys.exit(main())
