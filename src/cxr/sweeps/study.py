"""What does a search know of its trials, which comes next, and what is told of each?  On Optuna's ask and tell.

The trials lie in the storage of the study, which every job of the sweep, and programs on other machines, may share.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility, distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cxr.errors import ConfigurationError
from cxr.sweeps.search_folder import SearchFolder, open_folder
from cxr.sweeps.space import Dimension, Space, Value

JOURNAL = "optuna.journal"
WORST = 0.0  # what a diverged trial is worth: no val/auroc is lower
_MAX_REPEATS = 5  # proposals in a row that were tried before; then one is drawn at random that was not
# Marks on a trial: the sweep whose job it is; the trial that tried the same; why it came to nothing.
_SWEEP, _REPEATS, _REASON, _DIVERGED = "sweep", "repeats", "reason", "diverged"

optuna.logging.set_verbosity(optuna.logging.WARNING)
# Trials are asked for within groups of keys that stand together: Optuna calls it an experiment since 2.8.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
# To go in Optuna 6; until then it alone keeps a line for every conditional key off the terminal.
warnings.filterwarnings("ignore", message=".*warn_independent_sampling.*", category=FutureWarning)


@dataclass
class Asked:
    """A trial that is to be run: its number in the study, Optuna's own number, and its values."""

    number: int
    trial_id: int
    values: dict[str, Value]


@dataclass(frozen=True)
class Counts:
    """How many trials came to what; `ended` counts all but those that are running."""

    complete: int = 0
    pruned: int = 0
    diverged: int = 0
    failed: int = 0
    running: int = 0

    @property
    def ended(self) -> int:
        return self.complete + self.pruned + self.diverged + self.failed

    def __str__(self) -> str:
        names = ("complete", "pruned", "diverged", "failed", "running")
        return ", ".join(f"{getattr(self, name)} {name}" for name in names if getattr(self, name)) or "none yet"


def open_storage(given: str | None, sweep_dir: Path) -> BaseStorage:
    """The storage of a study.

    Args:
        given: a database URL or the path of a journal file; None: a journal file in ``sweep_dir``.

    Raises:
        ConfigurationError: it cannot be opened.
    """
    with _explained(given):
        if given is not None and "://" in given:
            return RDBStorage(given)
        return JournalStorage(JournalFileBackend(str(sweep_dir / JOURNAL if given is None else Path(given).absolute())))


@dataclass
class Study:
    """A study, as the program that asks and tells sees it.

    Args:
        storage: from `open_storage`.
        given: what the storage was opened from.
        name: of the study; one that exists goes on.
        space: what is searched.
        sweep_dir: receives the record, what is known of all trials, for whoever reads the sweep without the storage.
        sampler, seed, n_startup_trials: see `cxr.config.OptunaSweeper`.
        fixed: the settings that all trials share, as dotted key -> value; a study goes on with the same ones only.

    Raises:
        ConfigurationError: the study was begun with other settings, or with other kinds of values; the folder belongs
            to another, or the storage has lost trials.
    """

    storage: BaseStorage
    given: str | None
    name: str
    space: Space
    sweep_dir: Path
    sampler: str
    seed: int
    n_startup_trials: int
    fixed: Mapping[str, Any]
    _study: optuna.Study = field(init=False)
    _folder: SearchFolder = field(init=False)

    def __post_init__(self) -> None:
        self._folder = open_folder(self.sweep_dir, self.name)
        with _explained(self.given):
            self._study = optuna.create_study(
                storage=self.storage, study_name=self.name, direction="maximize", load_if_exists=True
            )
            self._require_the_same()
            num_trials = len(self._study.get_trials(deepcopy=False))
            # Another seed for every call, or it would begin with the proposals of the first again.
            self._study.sampler = self._build_sampler(self.seed + num_trials)
            self._study.set_user_attr("fixed", dict(self.fixed))
        self._random = random.Random(self.seed + num_trials)

    def counts(self) -> Counts:
        """How the trials stand, those aside whose values had been tried before."""
        found = [_outcome(trial) for trial in self._trials()]
        return Counts(**{name: found.count(name) for name in ("complete", "pruned", "diverged", "failed", "running")})

    def left_over(self) -> list[Asked]:
        """Trials of this sweep that were begun and not told, in the order of their numbers."""
        running = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        own = [trial for trial in running if trial.user_attrs.get(_SWEEP, self._folder.mark) == self._folder.mark]
        # A trial that was cut off before it had all its values gets the rest now.
        return [
            Asked(trial.number, trial._trial_id, {**self._suggest(Trial(self._study, trial._trial_id)), **trial.params})
            for trial in own
        ]

    def of_this_sweep(self) -> list[FrozenTrial]:
        """The trials that have, or may have, a directory in the folder of the sweep."""
        return [trial for trial in self._trials() if trial.user_attrs.get(_SWEEP) == self._folder.mark]

    def ask(self) -> Asked | None:
        """The next trial; None where everything has been tried."""
        with _explained(self.given):
            if self.space.is_countable and self._untried() is None:
                return None
            proposes = self._study.sampler
            try:
                for attempt in itertools.count():
                    if self.sampler == "grid" or (attempt == _MAX_REPEATS and self.space.is_countable):
                        values = self._untried()
                        if values is None:
                            return None
                        self._study.enqueue_trial(values)
                    elif attempt == _MAX_REPEATS:
                        self._study.sampler = optuna.samplers.RandomSampler(seed=self._random.randrange(2**31))
                    before = self._tried()
                    trial = self._study.ask()
                    trial.set_user_attr(_SWEEP, self._folder.mark)
                    values = self._suggest(trial)
                    if _known_by(values) not in before:
                        return Asked(trial.number, trial._trial_id, values)
                    trial.set_user_attr(_REPEATS, before[_known_by(values)])
                    self._study.tell(trial, state=TrialState.FAIL)
            finally:
                self._study.sampler = proposes
        raise AssertionError

    def tell(self, number: int, value: float | None, outcome: str, reason: str | None) -> None:
        """Tell what a trial came to.

        A diverged trial gets the worst value that there is: every sampler learns from it, while none learns from a
        failed one.

        Args:
            value: the best val/auroc, of a trial that was completed.
            outcome: 'complete', 'pruned', 'diverged' or 'failed'.
            reason: of one that was not completed.
        """
        frozen = next(trial for trial in self._trials() if trial.number == number)
        with _explained(self.given):
            trial = Trial(self._study, frozen._trial_id)
            if reason is not None:
                trial.set_user_attr(_REASON, reason)
            if outcome == "diverged":
                trial.set_user_attr(_DIVERGED, True)
                value = WORST
            state = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}.get(outcome, TrialState.COMPLETE)
            self._study.tell(number, value if state == TrialState.COMPLETE else None, state=state)
        self.write_record()

    def write_record(self) -> None:
        """Write the record: all trials, with what is needed to draw and to weigh them."""
        self._folder.write(
            {
                "number": trial.number,
                "outcome": _outcome(trial),
                "value": trial.value,
                "epochs": trial.last_step,
                "params": trial.params,
                "distributions": {name: distribution_to_json(one) for name, one in trial.distributions.items()},
                "reason": trial.user_attrs.get(_REASON),
            }
            for trial in self._trials()
        )

    def _require_the_same(self) -> None:
        if self._study.direction != optuna.study.StudyDirection.MAXIMIZE:
            raise ConfigurationError(f"hydra.sweeper.study_name={self.name}: is a study of another kind; give another")
        missing = self._folder.numbers - {trial.number for trial in self._study.get_trials(deepcopy=False)}
        if missing:
            raise ConfigurationError(
                f"study {self.name}: its storage lacks {len(missing)} of the {len(self._folder.numbers)} trials of the "
                "sweep folder; give the hydra.sweeper.storage with which they were run, or another sweep.name"
            )
        before: dict[str, Any] = self._study.user_attrs.get("fixed", dict(self.fixed))
        changed = [
            f"{name}: {before.get(name)} -> {self.fixed.get(name)}"
            for name in dict.fromkeys([*before, *self.fixed])
            if before.get(name) != self.fixed.get(name)
        ]
        if changed:
            raise ConfigurationError(
                f"study {self.name}: goes on with the settings that it has, or its trials could not be compared; "
                f"changed: {', '.join(changed)}; leave them as they are, or begin another sweep"
            )
        for trial in self._study.get_trials(deepcopy=False):
            for dimension in self.space.dimensions:
                if dimension.name in trial.distributions:
                    try:
                        check_distribution_compatibility(trial.distributions[dimension.name], _distribution(dimension))
                    except ValueError:
                        raise ConfigurationError(
                            f"study {self.name}: {dimension.name} was searched among other values before; of choices, "
                            "none can be added or taken away (limits can be moved); begin another sweep"
                        ) from None

    def _build_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self.sampler in ("random", "grid"):  # of a grid, each combination is put before it
            return optuna.samplers.RandomSampler(seed=seed)
        if self.sampler == "gp":
            return optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=self.n_startup_trials, warn_independent_sampling=False
            )
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=self.n_startup_trials,
            multivariate=True,
            group=self.space.is_conditional,  # keys that are not there in every trial are learned within their group
            warn_independent_sampling=False,
            constant_liar=True,  # trials that are running count as bad, or all workers would try the same
        )

    def _trials(self) -> list[FrozenTrial]:
        found = self._study.get_trials(deepcopy=False)
        return [trial for trial in found if _REPEATS not in trial.user_attrs and trial.state != TrialState.WAITING]

    def _tried(self) -> dict[str, int]:
        return {_known_by(trial.params): trial.number for trial in self._trials() if trial.params}

    def _untried(self) -> dict[str, Value] | None:
        """A combination that nobody has tried: the next of a grid, or any."""
        tried = self._tried()
        left = [values for values in self.space.combinations() if _known_by(values) not in tried]
        if not left:
            return None
        return left[0] if self.sampler == "grid" else self._random.choice(left)

    def _suggest(self, trial: Trial) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for one in self.space.dimensions:
            if not one.applies(values):
                continue
            if one.kind == "choice":
                values[one.name] = trial.suggest_categorical(one.name, one.choices)
            elif one.kind == "int":
                low, high, step = int(one.low), int(one.high), int(one.step or 1)
                values[one.name] = trial.suggest_int(one.name, low, high, step=step, log=one.log)
            else:
                values[one.name] = trial.suggest_float(one.name, one.low, one.high, step=one.step, log=one.log)
        return values


def _distribution(one: Dimension) -> optuna.distributions.BaseDistribution:
    if one.kind == "choice":
        return optuna.distributions.CategoricalDistribution(one.choices)
    if one.kind == "int":
        return optuna.distributions.IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return optuna.distributions.FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def _outcome(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE and trial.user_attrs.get(_DIVERGED):
        return "diverged"
    return "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()


def _known_by(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(sorted(values.items())))


@contextmanager
def _explained(given: str | None) -> Iterator[None]:
    """One line for what the storage says."""
    try:
        yield
    except ConfigurationError:
        raise
    except (OSError, ImportError, optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        shown = "optuna.journal" if given is None else re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", given)
        text = str(error).strip().splitlines()
        said = text[0][:200] if text else type(error).__name__
        raise ConfigurationError(f"hydra.sweeper.storage={shown}: cannot be used ({said})") from None
