"""How long does the user wait for an answer: the help, a mistake in the configuration, the first training step?

    uv run benchmarks/start_up.py
    uv run benchmarks/start_up.py --rounds 1

Every command is a fresh process; they take turns. Byte code goes to a folder of the benchmark's own, so that the first
turn ("first time") pays for compiling what no row above has compiled, for drawing and preparing the radiographs, and
for what is not in the page cache; the medians are of the turns after it. Processor time (user + system) is that of the
process and of those that it started and that have ended. The training run stops the clock behind the first `step` of
its optimizer, which a hook of torch's tells; the program itself is as it is. Whether torch was imported is read from
``python -X importtime``, in runs of their own. Wanted: help and mistakes at most 0.8 processor seconds each, without
torch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENOUGH = 0.8
# A small network on few drawings: what is measured is what comes before the first step.
TINY = (
    "experiment=demo",
    "model.name=test_resnet",
    "data.sources.phantom.num_patients=40",
    "data.image_size=32",
    "data.batch_size=8",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=2",
)
_POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Case:
    """A command.

    Attributes:
        title: for the table.
        words: what follows the interpreter.
        status: with which it must end.
        limited: whether `ENOUGH` holds for it, and torch is out of the question.
        trains: whether the clock stops behind the first step instead of at the end.
    """

    title: str
    words: tuple[str, ...]
    status: int = 0
    limited: bool = False
    trains: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each command, after the first time")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: give at least 1")

    with tempfile.TemporaryDirectory() as folder:
        tiny = ("train.py", *TINY, f"paths.output={folder}/outputs")
        cases = [
            Case("`python train.py --help`", ("train.py", "--help"), limited=True),
            Case("`python train.py trainer.max_epoch=3`", ("train.py", "trainer.max_epoch=3"), 2, limited=True),
            Case("`python train.py trainer.max_epochs=abc`", ("train.py", "trainer.max_epochs=abc"), 2, limited=True),
            Case('`python -c "import hydra"`, for comparison', ("-c", "import hydra")),
            Case("`import torch, timm, pytorch_lightning`, the same", ("-c", "import torch, timm, pytorch_lightning")),
            Case("`python train.py`, tiny, `logger=none`, to the first step", (*tiny, "logger=none"), trains=True),
            Case("`python train.py`, tiny, W&B offline, to the first step", tiny, trains=True),
        ]
        turns: dict[str, list[tuple[float, float]]] = {case.title: [] for case in cases}
        for _ in range(given.rounds + 1):
            for case in cases:
                turns[case.title].append(measure(case, Path(folder)))
        with_torch = {case.title: imports_torch(case, Path(folder)) for case in cases if not case.trains}

    missed = False
    print("| command | CPU, s | wall, s | CPU wanted | torch imported | first time: CPU, s | wall, s |")
    print("|---|---:|---:|---|---|---:|---:|")
    for case in cases:
        first, *later = turns[case.title]
        cpu, wall = (spread([turn[column] for turn in later]) for column in range(2))
        wanted = f"at most {ENOUGH}" if case.limited else "-"
        torch = "yes" if with_torch.get(case.title, True) else "no"
        print(f"| {case.title} | {cpu} | {wall} | {wanted} | {torch} | {first[0]:.2f} | {first[1]:.2f} |")
        if case.limited:
            missed = missed or statistics.median(turn[0] for turn in later) > ENOUGH or with_torch[case.title]
    python = sys.version.split()[0]
    print(f"\nMedians of {given.rounds} turns (smallest-largest), {os.cpu_count()} cores, Python {python}")
    return 1 if missed else 0


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"


def measure(case: Case, folder: Path) -> tuple[float, float]:
    """Processor and wall seconds."""
    told = folder / "first_step.json"
    told.unlink(missing_ok=True)
    words = (__file__, "--launch", str(told), *case.words) if case.trains else case.words
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run(case, words, folder)
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if not case.trains:
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall
    if not told.is_file():
        raise SystemExit(f"{case.title}: it made no training step")
    first_step = json.loads(told.read_text(encoding="utf-8"))
    return first_step["cpu"], first_step["time"] - begin


def run(case: Case, words: tuple[str, ...], folder: Path) -> str:
    """Run a command to its end; what it wrote to the standard error."""
    # Nobody's account is used: the run is tracked in its own folder.
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPYCACHEPREFIX": str(folder / "byte_code")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    ended = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if ended.returncode != case.status:
        last = (ended.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise SystemExit(f"{case.title}: ended with status {ended.returncode}, not {case.status}: {last}")
    return ended.stderr


def imports_torch(case: Case, folder: Path) -> bool:
    lines = run(case, ("-X", "importtime", *case.words), folder).splitlines()
    modules = {line.rsplit("|", 1)[-1].strip() for line in lines if line.startswith("import time:")}
    return any(name == "torch" or name.startswith("torch.") for name in modules)


def launch(told: Path, words: list[str]) -> None:
    """Run a program as Python would, and write down when its optimizer first stepped.

    torch must be imported by the program, in its own time, so that a thread waits for it.
    """

    def tell(*_: object) -> None:
        taken = os.times()
        cpu = taken.user + taken.system + taken.children_user + taken.children_system
        if not told.exists():
            told.write_text(json.dumps({"time": time.monotonic(), "cpu": cpu}), encoding="utf-8")

    def wait_for_torch() -> None:
        while True:
            register = getattr(sys.modules.get("torch.optim.optimizer"), "register_optimizer_step_post_hook", None)
            if register is not None:
                register(tell)
                return
            time.sleep(_POLL_SECONDS)

    threading.Thread(target=wait_for_torch, daemon=True).start()
    sys.argv = words
    sys.path[0] = str(ROOT)
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--launch"]:
        launch(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(main())
