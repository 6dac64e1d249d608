"""What did a search try, and what came of it?  Read from what it wrote in plain text, without its storage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.evaluation.words import counted

RECORD = "study.json"
OUTCOMES = ("complete", "pruned", "diverged", "failed", "running")


@dataclass(frozen=True)
class Trial:
    """One trial.

    Args:
        number: in the study, and the name of its directory.
        outcome: one of `OUTCOMES`.
        value: the best val/auroc of a complete one, the last of a pruned one; None for none.
        params: key -> value.
        distributions: key -> what it was searched in, as Optuna's JSON.
    """

    number: int
    outcome: str
    value: float | None
    params: Mapping[str, Any]
    distributions: Mapping[str, str]


@dataclass(frozen=True)
class Search:
    """A search: the name of its study, and its trials in the order of their numbers."""

    study: str
    trials: Sequence[Trial]

    def having(self, *outcomes: str) -> list[Trial]:
        """The trials that came to one of these."""
        return [trial for trial in self.trials if trial.outcome in outcomes]

    @property
    def best(self) -> Trial | None:
        """The complete trial of the highest val/auroc."""
        known = [trial for trial in self.having("complete") if trial.value is not None]
        return max(known, key=lambda trial: trial.value or 0.0, default=None)

    @property
    def summary(self) -> str:
        """'Search demo/first: 20 trials, 15 complete, 4 pruned, 1 failed'."""
        parts = [f"{len(self.having(outcome))} {outcome}" for outcome in OUTCOMES if self.having(outcome)]
        return f"Search {self.study}: {counted(len(self.trials), 'trial')}, {', '.join(parts)}"


def find_searches(folders: Iterable[Path]) -> list[Search]:
    """The searches whose record lies in one of the folders; of those that share a study, the record that has more."""
    found: list[Search] = []
    for folder in dict.fromkeys(folders):
        search = _read(folder / RECORD)
        if search is None or not search.trials:
            continue
        tried = {trial.number: trial.params for trial in search.trials}
        same = [
            other
            for other in found
            if other.study == search.study
            and all(tried.get(trial.number, trial.params) == trial.params for trial in other.trials)
        ]
        if any(len(other.trials) >= len(search.trials) for other in same):
            continue
        found = [other for other in found if other not in same] + [search]
    return found


def _read(path: Path) -> Search | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        trials = [
            Trial(each["number"], each["outcome"], each["value"], each["params"], each["distributions"])
            for each in content["trials"]
        ]
        return Search(str(content["study"]), sorted(trials, key=lambda trial: trial.number))
    except (OSError, ValueError, KeyError, TypeError):
        return None
