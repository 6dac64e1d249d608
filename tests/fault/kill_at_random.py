"""Is a run that was killed with SIGKILL, wherever it stood, and resumed, the run that nobody disturbed?

    python -m tests.fault.kill_at_random --kills 50 --seed 0

Tiny runs with different settings are killed at random moments, some of them again after they were resumed, until so
many kills are done. Every run then has to have logged the losses and rates of the undisturbed run of the same settings,
step by step, and to end with its history and its weights, bit for bit. Each kill is one row of the table that is
printed.

The processes are forked, see `tests.programs`: a kill costs some seconds, not many.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tests.fault.small_runs import TINY, the_run
from tests.programs import Program, fork_server, start

from cxr.errors import CheckpointError
from cxr.training.checkpoint_io import DurableCheckpointIO, require_whole
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory

STAGES = "[{epochs:1,freeze:body},{epochs:2,lr:auto,spread:10,image_size:24},{epochs:1,freeze:half}]"
KINDS = {
    "augmentation, dropout": [],
    "2 workers, oversampling, augmentation": ["data.num_workers=2", "balance=oversample"],
    "average of the weights, mixup": ["trainer.ema_decay=0.9", "augment.mixup_alpha=0.4"],
    "stages, rate found, sizes": ["trainer.max_epochs=null", f"schedule.stages={STAGES}", "balance=balanced_batches"],
    "2 workers, stages, average, cutmix, early stopping": [
        "data.num_workers=2",
        "trainer.max_epochs=null",
        f"schedule.stages={STAGES}",
        "trainer.ema_decay=0.9",
        "augment=fastai_v1",
        "augment.cutmix_alpha=1",
        "trainer.early_stopping_patience=3",
        "trainer.accumulate_grad_batches=2",
    ],
}

PHASES = ("before training", "training batch", "validation", "checkpoint write", "between", "after training")
BEFORE, TRAINING, VALIDATION, WRITING, BETWEEN, AFTER = range(len(PHASES))


class Progress:
    """Where a run stands: what it does, and how often it has begun each of these; read while it runs."""

    def __init__(self) -> None:
        self._memory = fork_server().Array("q", len(PHASES) + 1, lock=False)

    def enter(self, phase: int) -> None:
        self._memory[phase + 1] += 1
        self._memory[0] = phase

    @property
    def phase(self) -> int:
        return int(self._memory[0])

    @property
    def counts(self) -> list[int]:
        return [int(count) for count in self._memory[1:]]

    def watch(self) -> None:
        """Let the training, in the process that calls this, say what it begins."""
        self._watch(CXRModule, "training_step", TRAINING)
        self._watch(CXRModule, "validation_step", VALIDATION)
        self._watch(CXRModule, "on_validation_epoch_end", BETWEEN)
        self._watch(DurableCheckpointIO, "save_checkpoint", WRITING, BETWEEN)
        self._watch(CXRModule, "on_fit_end", AFTER)

    def _watch(self, owner: Any, name: str, phase: int, after: int | None = None) -> None:
        method = getattr(owner, name)

        def told(*given: Any, **named: Any) -> Any:
            self.enter(phase)
            result = method(*given, **named)
            if after is not None:
                self.enter(after)
            return result

        setattr(owner, name, told)


@dataclass
class Moment:
    """When a run is killed: after some seconds, or within the n-th of something that it does."""

    phase: int | None
    nth: int
    seconds: float


def draw_moment(rng: random.Random, seconds: float, counts: Sequence[int]) -> Moment:
    """Any moment of an undisturbed run, or, every other time, one within what is short and where it would hurt most."""
    phase = rng.choice([None, None, WRITING, WRITING, VALIDATION, TRAINING])
    if phase is None:
        return Moment(None, 0, rng.uniform(0, seconds))
    return Moment(phase, rng.randint(1, counts[phase]), rng.uniform(0, 0.06))


def kill_at(program: Program, progress: Progress, moment: Moment, *, whole_group: bool) -> int | None:
    """Kill a process at a moment; the phase that it was in, or None where it had ended before."""
    reached: float | None = time.monotonic() if moment.phase is None else None
    while not program.has_ended():
        if reached is None and moment.phase is not None and progress.counts[moment.phase] >= moment.nth:
            reached = time.monotonic()
        if reached is not None and time.monotonic() - reached >= moment.seconds:
            phase = progress.phase
            program.kill(group=whole_group)  # else its loader processes have to notice by themselves
            return phase
        time.sleep(0.0005)
    return None


def logged_steps(run_dir: Path) -> dict[int, set[tuple[str, str, str]]]:
    """Step -> all (loss, rate, momentum) that were logged for it: what was done again has been logged again."""
    found: dict[int, set[tuple[str, str, str]]] = {}
    for path in sorted((run_dir / "tracking").rglob("metrics.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "train/loss_step" not in table:
            continue
        for row in table[table["train/loss_step"] != ""].to_dict("records"):
            found.setdefault(int(row["step"]), set()).add((row["train/loss_step"], row["lr"], row["momentum"]))
    return found


def same_content(one: Any, other: Any) -> bool:
    """Whether two contents of checkpoints are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_content(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same_content, one, other))
    return bool(one == other)


LEARNED = ("epoch", "global_step", "state_dict", "current_model_state", "optimizer_states", "lr_schedulers")


def differences(expected: Path, found: Path) -> list[str]:
    """In what a run is not the one that it should be; empty where it is, to the last bit."""
    said = []
    steps, again = logged_steps(expected), logged_steps(found)
    if any(len(values) != 1 for values in steps.values()) or not steps:
        raise AssertionError("the undisturbed run has not logged each step once")
    wrong = [step for step, values in again.items() if values != steps.get(step)]
    missing = steps.keys() - again.keys()
    said += [f"{len(wrong)} steps have another loss or rate (first: {min(wrong)})"] if wrong else []
    said += [f"{len(missing)} steps were not logged (first: {min(missing)})"] if missing else []
    tables = [pd.read_csv(each / "history.csv", dtype=str) for each in (expected, found)]
    if not tables[0].drop(columns="seconds").equals(tables[1].drop(columns="seconds")):
        said.append("history.csv")
    for name in ("best.ckpt", "last.ckpt"):
        contents = [
            torch.load(each / "checkpoints" / name, map_location="cpu", weights_only=True) for each in (expected, found)
        ]
        for key in LEARNED:
            if (key in contents[0]) != (key in contents[1]) or not same_content(*(each.get(key) for each in contents)):
                said.append(f"{name}: {key}")
    measured = [json.loads((each / "metrics.json").read_text())["val"]["auroc"] for each in (expected, found)]
    said += ["metrics.json"] if measured[0] != measured[1] else []
    for name in ("split.csv", "rates.csv"):
        said += [name] if len({(each / name).read_bytes() for each in (expected, found)}) > 1 else []
    names = sorted(path.name for path in (found / "checkpoints").iterdir())
    said += [] if names == ["best.ckpt", "last.ckpt"] else [f"checkpoints/ holds {', '.join(names)}"]
    return said


def wrongs_after_kill(run_dir: Path | None) -> list[str]:
    """What must not be seen in a run that was just killed."""
    if run_dir is None:
        return []
    said = []
    with RunDirectory(run_dir).held():  # also by loader processes, until they notice
        pass
    status = RunDirectory(run_dir).find_status()
    if status and status["status"] not in ("failed", "finished"):
        said.append(f"the status is {status['status']}")
    for path in (run_dir / "checkpoints").glob("*.ckpt"):
        try:
            require_whole(path)
        except CheckpointError as error:
            said.append(str(error))
    return said


def resumable(folder: Path) -> Path | None:
    """The run in a folder; None where it was killed before it had a directory, or before that could be resumed."""
    found = [path for path in folder.glob("outputs/demo/[0-9]*") if (path / "config.yaml").is_file()]
    assert len(found) < 2, found
    return found[0] if found else None


@dataclass
class Undisturbed:
    """A run that nobody killed."""

    run_dir: Path
    seconds: float
    counts: list[int]


def train_undisturbed(words: Sequence[str], folder: Path) -> Undisturbed:
    progress, begun = Progress(), time.monotonic()
    program = start("train.py", *words, cwd=folder, prepare=progress.watch)
    if program.wait() != 0:
        raise SystemExit(f"an undisturbed run failed: {program.said}")
    return Undisturbed(the_run(folder), time.monotonic() - begun, progress.counts)


@dataclass
class Kill:
    """One kill, and what it led to."""

    kind: str
    phase: int
    epochs: int
    wrong: list[str]


def disturb(
    kind: str, words: Sequence[str], expected: Undisturbed, folder: Path, rng: random.Random, most: int
) -> list[Kill]:
    """Kill a run once or more, at most so often, resume it, and hold it against the undisturbed one."""
    kills: list[Kill] = []
    given = list(words)
    while True:
        progress = Progress()
        program = start("train.py", *given, cwd=folder, prepare=progress.watch)
        phase = None
        if len(kills) < most and (not kills or rng.random() < 0.35):
            moment = draw_moment(rng, expected.seconds, expected.counts)
            phase = kill_at(program, progress, moment, whole_group=rng.random() < 0.5)
        if phase is None:
            status = program.wait()
            break
        run_dir = resumable(folder)
        history = None if run_dir is None else run_dir / "history.csv"
        epochs = 0 if history is None or not history.is_file() else len(history.read_text().splitlines()) - 1
        kills.append(Kill(kind, phase, epochs, wrongs_after_kill(run_dir)))
        by_directory = run_dir is not None and rng.random() < 0.5
        given = [f"resume={run_dir}"] if by_directory else [*words, "resume=auto"]
    if not kills:
        return []
    console, run_dir = program.said, resumable(folder)
    if status == 0 and run_dir is not None:
        wrong = differences(expected.run_dir, run_dir)
    else:
        wrong = [f"the exit status is {status}", *console.splitlines()[-3:]]
    for kill in kills:
        kill.wrong += wrong
    return kills


def kill_many(num_kills: int, seed: int, kinds: Sequence[str], folder: Path, say: Callable[[str], None]) -> list[Kill]:
    """Do so many kills, one kind of run after the other."""
    rng = random.Random(seed)
    shared = [*TINY, f"paths.cache={folder / 'cache'}"]
    expected: dict[str, Undisturbed] = {}
    kills: list[Kill] = []
    number = 0
    while len(kills) < num_kills:
        kind = kinds[number % len(kinds)]
        number += 1
        words = [*shared, *KINDS[kind]]
        if kind not in expected:
            expected[kind] = train_undisturbed(words, folder / f"undisturbed-{len(expected)}")
        for kill in disturb(kind, words, expected[kind], folder / str(number), rng, num_kills - len(kills)):
            kills.append(kill)
            verdict = "equal" if not kill.wrong else "; ".join(kill.wrong)
            say(f"| {len(kills)} | {kill.kind} | {PHASES[kill.phase]} | {kill.epochs} | {verdict} |")
    return kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kinds", type=int, nargs="+", default=range(len(KINDS)), help="which settings, by their numbers from 0"
    )
    parser.add_argument("--folder", type=Path, help="where the runs are left; default: a temporary folder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).absolute()
        print("| kill | settings | killed in | whole epochs | resumed, against the undisturbed run |", flush=True)
        print("|---|---|---|---|---|", flush=True)
        kinds = [list(KINDS)[number] for number in chosen.kinds]
        kills = kill_many(chosen.kills, chosen.seed, kinds, folder, lambda line: print(line, flush=True))
    wrong = sum(bool(kill.wrong) for kill in kills)
    print()
    for phase, count in sorted(Counter(kill.phase for kill in kills).items()):
        print(f"{PHASES[phase]}: {count}")
    print(f"{len(kills)} kills, {wrong} of them led to another run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
