"""What is searched, as it was typed?  `interval`, `range`, `choice` and `tag`, held against the schema."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, Sweep, ValueType

from cxr.config import OptunaSweeper, TrainConfig, keys
from cxr.config_check import SettingError, check_range, check_value, nearest
from cxr.errors import ConfigurationError
from cxr.sweeps.space import Dimension, Space, in_order

INSTALL = "install it with: uv sync --extra optuna"


def require_optuna() -> None:
    """Raises:
    ConfigurationError: Optuna is absent, or too old.
    """
    try:
        version = importlib.metadata.version("optuna")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigurationError(f"hydra/sweeper=optuna: Optuna is not installed; {INSTALL}") from None
    if int(version.partition(".")[0]) < 5:
        raise ConfigurationError(f"hydra/sweeper=optuna: Optuna {version} is too old, 5 is needed; {INSTALL}")


def check_options(options: Mapping[str, Any]) -> None:
    """Hold the keys below ``hydra.sweeper`` against their ranges.

    Raises:
        ConfigurationError: one line for the first mistake.
    """
    for key in keys(OptunaSweeper, "hydra.sweeper."):
        if "meaning" not in key.metadata:
            continue  # Hydra's own
        try:
            check_range(key, options.get(key.name.rpartition(".")[2]))
        except SettingError as error:
            raise ConfigurationError(str(error)) from None


def read_space(overrides: Sequence[Override], conditions: Mapping[str, Any], sampler: str) -> Space:
    """The space of those overrides that have several values.

    Args:
        conditions: ``hydra.sweeper.conditions``.
        sampler: ``hydra.sweeper.sampler``; a grid needs an end.

    Raises:
        ConfigurationError: one line for the first mistake.
    """
    swept = {override.key_or_group: override for override in overrides if override.is_sweep_override()}
    dimensions = {name: _dimension(override) for name, override in swept.items()}
    if not dimensions:
        raise ConfigurationError(
            "hydra/sweeper=optuna: nothing is searched; give values, for example "
            "optimizer.lr='tag(log, interval(1e-5, 1e-2))' balance='choice(none, oversample)'"
        )
    for name, needed in conditions.items():
        if name not in dimensions:
            raise ConfigurationError(f"hydra.sweeper.conditions: {name} is not searched{_near(name, dimensions)}")
        dimensions[name] = replace(dimensions[name], when=_when(name, needed, dimensions))
    try:
        space = in_order(list(dimensions.values()))
    except ValueError as error:
        raise ConfigurationError(f"hydra.sweeper.conditions: {error} depend on each other in a circle") from None
    if sampler == "grid" and space.endless:
        raise ConfigurationError(
            f"hydra.sweeper.sampler=grid: {space.endless[0]} has no end of values; give choice(...) or range(...)"
        )
    if sampler == "grid" and not space.is_countable:
        raise ConfigurationError("hydra.sweeper.sampler=grid: too many combinations; use random or tpe")
    return space


def _dimension(override: Override) -> Dimension:
    name, typed, value = override.key_or_group, override.input_line, override.value()
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        raise ConfigurationError(f"{typed}: a search needs the names themselves, {name}='choice(<name>, ...)'")
    assert isinstance(value, Sweep)
    unknown = sorted(tag for tag in value.tags if tag != "log")
    if unknown:
        raise ConfigurationError(f"{typed}: tag {unknown[0]} means nothing here; there is only log")
    log = "log" in value.tags
    if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
        if log:
            raise ConfigurationError(f"{typed}: tag(log) belongs to interval(...)")
        words = (str(word) for word in override.sweep_string_iterator())
        # true and false as a condition names them; a text of that spelling stands in quotes.
        words = (word.lower() if word in ("True", "False") else word for word in words)
        return Dimension(name, "choice", choices=tuple(dict.fromkeys(words)))
    whole = _is_whole(name, str(typed))
    if isinstance(value, IntervalSweep):
        if value.start is None or value.end is None:
            raise ConfigurationError(f"{typed}: give both ends, interval(<low>, <high>)")
        return _checked(Dimension(name, _kind(whole), low=value.start, high=value.end, log=log), str(typed))
    numbers = [float(str(each)) for each in override.sweep_iterator()]
    if log:
        raise ConfigurationError(f"{typed}: tag(log) belongs to interval(...); a range has even steps")
    if not numbers:
        raise ConfigurationError(f"{typed}: holds no number; as in Python, the end of a range is not part of it")
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1.0
    return _checked(Dimension(name, _kind(whole), low=min(numbers), high=max(numbers), step=abs(step)), str(typed))


def _kind(whole: bool) -> Any:
    return "int" if whole else "float"


def _is_whole(name: str, typed: str) -> bool:
    key = next((key for key in keys(TrainConfig) if key.name == name and not key.section), None)
    words = [] if key is None else key.type_name.replace("|", " ").split()
    if key is None or not {"int", "float"} & set(words):
        raise ConfigurationError(f"{typed}: {name} is no number; give its values, {name}='choice(<value>, ...)'")
    return "float" not in words


def _checked(dimension: Dimension, typed: str) -> Dimension:
    low, high = dimension.low, dimension.high
    if low > high or (low == high and dimension.step is None):
        raise ConfigurationError(f"{typed}: the low end must be below the high one")
    if dimension.kind == "int" and any(number != int(number) for number in (low, high, dimension.step or 1)):
        raise ConfigurationError(f"{typed}: {dimension.name} takes whole numbers")
    if dimension.log and low <= 0:
        raise ConfigurationError(f"{typed}: tag(log) needs numbers above 0")
    for number in (low, high):
        try:
            check_value(dimension.name, int(number) if dimension.kind == "int" else number, TrainConfig)
        except SettingError as error:
            raise ConfigurationError(f"{typed}: {error}") from None
    return dimension


def _when(name: str, needed: Any, dimensions: Mapping[str, Dimension]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(needed, Mapping) or not needed:
        raise ConfigurationError(
            f"hydra.sweeper.conditions: {name}: {needed}: name another key and its value, "
            f"{{{name}: {{<key>: <value>}}}}"
        )
    found = []
    for other, given in needed.items():
        values = tuple(_word(value) for value in (given if isinstance(given, list) else [given]))
        if other not in dimensions or dimensions[other].kind != "choice":
            raise ConfigurationError(
                f"hydra.sweeper.conditions: {name} depends on {other}, which is not searched by choice(...)"
                f"{_near(other, dimensions)}"
            )
        absent = [value for value in values if value not in dimensions[other].choices]
        if absent:
            raise ConfigurationError(
                f"hydra.sweeper.conditions: {name} depends on {other}={absent[0]}, which is not among its choices "
                f"{', '.join(dimensions[other].choices)}"
            )
        found.append((str(other), values))
    return tuple(found)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _near(name: str, dimensions: Mapping[str, Dimension]) -> str:
    guess = nearest(name, [each for each in dimensions if each != name])
    return f"; did you mean {guess}?" if guess is not None else ""
