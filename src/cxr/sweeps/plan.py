"""Which jobs of a sweep have a run already, and where does each of the others go?"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxr.errors import ConfigurationError
from cxr.training.run_directory import RunDirectory

Standing = Literal["missing", "running", "stopped", "finished", "diverged"]

# A run whose sweep was killed is told so and ends between two batches; it is waited for this long, seconds.
_PATIENCE = 120.0


@dataclass(frozen=True)
class Place:
    """Where a job of a sweep lies, and how its run stands."""

    number: int
    standing: Standing


def find_places(
    sweep_dir: Path,
    identities: Sequence[str | None],
    first_number: int,
    identify: Callable[[RunDirectory], str | None],
    say: Callable[[str], None],
    running: Container[int] = (),
) -> list[Place]:
    """Find for each job the run that its settings describe, or else a number that is free: its own, where it is.

    A run is known by its configuration, not by its number: jobs may be added to a sweep and come in another order.

    Args:
        sweep_dir: folder of the sweep.
        identities: what each job is; None for one that cannot begin.
        first_number: number of the first job, where all are new.
        identify: what the run in a directory is; None where none is.
        say: is told whom the program waits for.
        running: the numbers of those that run, or wait to, where this is as it should be.

    Raises:
        ConfigurationError: a run of the sweep goes on somewhere, and does not end.
    """
    there = [RunDirectory(path) for path in sweep_dir.glob("[0-9]*") if path.name.isdecimal()]
    known: dict[int, str] = {}
    for run in sorted(there, key=lambda run: int(run.path.name)):
        name = identify(run)
        if name is not None:
            known[int(run.path.name)] = name
        elif int(run.path.name) not in running:
            # What was refused before it had a configuration left nothing but a status.
            run.status_path.unlink(missing_ok=True)
    places: dict[int, Place] = {}
    for index, wanted in enumerate(identities):
        number = next((number for number, name in known.items() if name == wanted), None)
        if number is not None:
            del known[number]  # two jobs of the same settings are two runs
            if number in running:
                places[index] = Place(number, "running")
                continue
            run = RunDirectory(sweep_dir / str(number))
            wait_for_its_end(run, say)
            status = run.read_status().get("status")
            places[index] = Place(number, status if status in ("finished", "diverged") else "stopped")
    taken = {place.number for place in places.values()} | set(known)
    for index in range(len(identities)):
        if index not in places:
            number = first_number + index
            if number in taken:
                number = max(taken | {first_number + len(identities) - 1}) + 1
            taken.add(number)
            places[index] = Place(number, "missing")
    return [places[index] for index in range(len(identities))]


def wait_for_its_end(run: RunDirectory, say: Callable[[str], None]) -> None:
    """Wait until no process works on a run any more; ``say`` is told of it.

    Raises:
        ConfigurationError: it does not end.
    """
    until, told = time.monotonic() + _PATIENCE, False
    while True:
        try:
            with run.held():
                return
        except ConfigurationError:
            if time.monotonic() > until:
                raise
        if not told:
            say(f"job {run.path.name} of the interrupted sweep is still ending; waiting for it")
            told = True
        time.sleep(0.2)


def differing(chosen: Sequence[dict[str, str]]) -> list[str]:
    """The keys in which the jobs of a sweep differ, sorted."""
    names = sorted({name for each in chosen for name in each})
    return [name for name in names if len({each.get(name) for each in chosen}) > 1]
