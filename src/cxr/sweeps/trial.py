"""What does the process of a trial know of its study, and how does it ask whether it should end early?"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import Trial

_VARIABLE = "CXR_TRIAL"


@dataclass(frozen=True)
class Pruning:
    """Which trials end early; see `cxr.config.OptunaSweeper` for each."""

    pruner: str
    n_warmup_epochs: int
    n_trials_before_pruning: int
    percentile: float
    threshold: float
    reduction_factor: int

    def build(self, max_epochs: int) -> BasePruner:
        """Optuna's pruner; epochs are counted from 1."""
        import optuna

        pruners = optuna.pruners
        first = self.n_warmup_epochs + 1  # epoch after which a trial may end
        if self.pruner == "median":
            return pruners.MedianPruner(self.n_trials_before_pruning, first)
        if self.pruner == "percentile":
            return pruners.PercentilePruner(self.percentile, self.n_trials_before_pruning, first)
        if self.pruner == "threshold":
            return pruners.ThresholdPruner(lower=self.threshold, n_warmup_steps=first)
        if self.pruner == "successive_halving":
            return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=self.reduction_factor)
        if self.pruner == "hyperband":
            return pruners.HyperbandPruner(first, max(first, max_epochs), self.reduction_factor)
        return pruners.NopPruner()


class RunningTrial:
    """The trial that a process works on.

    A storage that fails for a while costs the trial its chance to end early, not its training: a warning says so.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def report(self, epoch: int, value: float) -> bool:
        """Put down the value of an epoch (from 1), and ask whether the trial should end now.

        A pruner judges the last epoch that the study knows. A trial that was killed may have told it one more than its
        checkpoint holds: it comes to that epoch again, and is judged then.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is said again Optuna passes over, with a warning
                self._trial.report(value, epoch)
            known = self._trial.study.get_trials(deepcopy=False)[self._trial.number].last_step
            return known == epoch and bool(self._trial.should_prune())
        except Exception as error:
            text = str(error).strip().splitlines()
            said = text[0][:200] if text else type(error).__name__
            print(f"warning: epoch {epoch} could not be reported to the study ({said})", file=sys.stderr, flush=True)
            return False


def trial_environment(
    *, storage: str | None, sweep_dir: Path, study: str, trial_id: int, pruning: Pruning
) -> Mapping[str, str]:
    """What the process of a trial finds in its environment; the storage does not stand among its words, where others
    could read it."""
    told = {
        "storage": storage,
        "sweep_dir": str(sweep_dir),
        "study": study,
        "trial_id": trial_id,
        "pruning": asdict(pruning),
    }
    return {_VARIABLE: json.dumps(told)}


def join_trial(max_epochs: int) -> RunningTrial | None:
    """The trial that this process works on; None outside a search, or where nothing is pruned.

    Raises:
        ConfigurationError: the storage of the study cannot be opened.
    """
    told = os.environ.get(_VARIABLE)
    if told is None:
        return None
    content = json.loads(told)
    import optuna

    from cxr.sweeps.study import open_storage

    study = optuna.load_study(
        study_name=content["study"],
        storage=open_storage(content["storage"], Path(content["sweep_dir"])),
        sampler=optuna.samplers.RandomSampler(),  # nothing is proposed here
        pruner=Pruning(**content["pruning"]).build(max_epochs),
    )
    return RunningTrial(optuna.trial.Trial(study, content["trial_id"]))
