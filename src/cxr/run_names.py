"""What is a run called where many runs stand together?  By what was typed for it and not for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from cxr.evaluation.comparison.configurations import HOUSEKEEPING, short_names
from cxr.training.shared_settings import shareable

# Hydra writes the overrides of the whole sweep here before the first job begins.
_SWEEP_FILE = "multirun.yaml"
# Options of a group that say nothing without its name.
_MEANINGLESS = ("none", "default", "null", "constant")
_NOT_OF_THE_NAME = ("experiment", "sweep", "logger", "trainer.gpus", "paths")


def job_name(number: int, chosen: Mapping[str, str], sweep_dir: Path, settings: Mapping[str, object]) -> str:
    """The name of a job, such as ``3: lr=0.0003, image_size=224, oversample``.

    Args:
        number: of the job.
        chosen: what was typed for it, key -> value.
        sweep_dir: where Hydra wrote what was typed for all jobs; where it did not, all that was typed is named.
        settings: of the job; tells the options of a group from values.
    """
    swept = _swept_keys(sweep_dir)
    differs = {key: value for key, value in chosen.items() if swept is None or key in swept}
    words = _words(differs, settings)
    return f"{number}: {', '.join(words)}" if words else str(number)


def single_name(name: str, folder: str, chosen: Mapping[str, str], settings: Mapping[str, object]) -> str:
    """The name of a single run, such as ``demo 2026-11-27 13:04:11: lr=0.003, resnet18``.

    Args:
        name: of the experiment.
        folder: the run directory's own name, ``<date>_<time>-<milliseconds>_<process>``.
        chosen: what was typed for it, key -> value.
        settings: tells the options of a group from values.
    """
    date, _, rest = folder.partition("_")
    clock = rest.partition("_")[0].rsplit("-", 1)[0].replace("-", ":")
    when = f"{date} {clock}" if clock else folder
    differs = {
        key: value
        for key, value in chosen.items()
        if key.split(".")[0] not in _NOT_OF_THE_NAME and key not in _NOT_OF_THE_NAME and not HOUSEKEEPING.fullmatch(key)
    }
    words = _words(differs, settings)
    return f"{name} {when}" + (f": {', '.join(words)}" if words else "")


def _words(differs: Mapping[str, str], settings: Mapping[str, object]) -> list[str]:
    names = short_names(list(differs))
    words = []
    for key, value in shareable(differs).items():
        is_group = "." not in key and isinstance(settings.get(key, {}), Mapping)
        words.append(value if is_group and value not in _MEANINGLESS else f"{names[key]}={value}")
    return words


def _swept_keys(sweep_dir: Path) -> set[str] | None:
    """The keys that take several values in a sweep; None where Hydra did not say."""
    try:
        content = yaml.safe_load((sweep_dir / _SWEEP_FILE).read_text(encoding="utf-8"))["hydra"]
        typed: Sequence[str] = content["overrides"]["task"] or []
        from_file = content["sweeper"].get("params") or {}
        given = [*typed, *(f"{key}={value}" for key, value in from_file.items())]
        overrides = OverridesParser.create().parse_overrides(given)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, HydraException):
        return None
    return {override.key_or_group for override in overrides if override.is_sweep_override()}
