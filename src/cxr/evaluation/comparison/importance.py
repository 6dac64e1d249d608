"""Which of the settings that were searched decide whether a trial is among the best, and is that more than chance?"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxr.evaluation.comparison.search_record import Search, Trial

MIN_TRIALS = 10
NUM_SHUFFLES = 200
CHANCE = 0.95  # of the shuffles must give less than a setting does
_BEST = 5  # trials, at least, that the best are; PED-ANOVA's authors advise against fewer
METHOD = (
    "Importance by PED-ANOVA (Watanabe, Bansal and Hutter, 2023, 'PED-ANOVA: Efficiently Quantifying Hyperparameter "
    "Importance in Arbitrary Subspaces'), from the trials that were completed or diverged; pruned ones have no final "
    f"value. The values were shuffled among these trials {NUM_SHUFFLES} times: what a setting then still seems to "
    "matter is chance."
)


@dataclass(frozen=True)
class Importance:
    """Of one setting.

    Args:
        name: the key.
        share: of the importance of all settings, 0 to 1.
        above_chance: whether it exceeds what shuffled values give in 19 of 20 cases.
    """

    name: str
    share: float
    above_chance: bool


@dataclass(frozen=True)
class Importances:
    """Of all settings, the most important first; `best` is the share of the trials that counts as the best.

    `missing` says why there are none.
    """

    settings: Sequence[Importance] = ()
    best: float = 0.0
    missing: str | None = None


def weigh(search: Search, *, seed: int = 0) -> Importances:
    """The importance of what was searched, by Optuna.

    Args:
        seed: of the shuffles.
    """
    trials = [trial for trial in search.having("complete", "diverged") if trial.value is not None]
    values = np.array([trial.value for trial in trials])
    if len(trials) < MIN_TRIALS:
        return Importances(missing=f"the importance of the settings needs {MIN_TRIALS} completed trials")
    if len(set(values)) == 1:
        return Importances(missing="all trials have the same val/auroc: no setting is important")
    if importlib.util.find_spec("optuna") is None:
        return Importances(missing="the importance of the settings needs Optuna: uv sync --extra optuna")
    best = max(0.1, min(0.5, _BEST / len(trials)))
    found = _evaluate(trials, values.tolist(), best)
    generator = np.random.default_rng(seed)
    shuffled = [_evaluate(trials, generator.permutation(values).tolist(), best) for _ in range(NUM_SHUFFLES)]
    total = sum(found.values())
    settings = [
        Importance(
            name,
            weight / total if total > 0 else 0.0,
            weight > 0 and float(np.mean([weight > other[name] for other in shuffled])) >= CHANCE,
        )
        for name, weight in sorted(found.items(), key=lambda item: -item[1])
    ]
    return Importances(settings, best)


def _evaluate(trials: Sequence[Trial], values: Sequence[float], best: float) -> dict[str, float]:
    import optuna
    from optuna.distributions import json_to_distribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else a line for every study
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params=dict(trial.params),
                distributions={name: json_to_distribution(text) for name, text in trial.distributions.items()},
                value=value,
            )
            for trial, value in zip(trials, values, strict=True)
        ]
    )
    with warnings.catch_warnings():  # that it is an experiment not to norm the weights
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=best), normalize=False
        )
