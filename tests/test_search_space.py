"""Is what is searched read as it was typed, and every mistake told in one line?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cxr.errors import ConfigurationError
from cxr.search_space import read_space
from cxr.sweeps.space import Dimension, Space


def read(*words: str, conditions: Mapping[str, Any] | None = None, sampler: str = "tpe") -> Space:
    return read_space(OverridesParser.create().parse_overrides(list(words)), conditions or {}, sampler)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("optimizer.lr=interval(0.1, 0.2)", Dimension("optimizer.lr", "float", low=0.1, high=0.2)),
        ("optimizer.lr=tag(log, interval(1e-5, 1))", Dimension("optimizer.lr", "float", low=1e-5, high=1, log=True)),
        ("data.batch_size=tag(log, interval(8, 64))", Dimension("data.batch_size", "int", low=8, high=64, log=True)),
        ("seed=range(1, 8, 2)", Dimension("seed", "int", low=1, high=7, step=2)),
        ("model.drop_rate=range(0, 0.5, 0.25)", Dimension("model.drop_rate", "float", low=0, high=0.25, step=0.25)),
        ("balance=choice(none, oversample)", Dimension("balance", "choice", choices=("none", "oversample"))),
        ("balance=none,oversample", Dimension("balance", "choice", choices=("none", "oversample"))),
        ("audit.shortcuts=true,false", Dimension("audit.shortcuts", "choice", choices=("true", "false"))),
    ],
)  # fmt: skip
def test_values_are_read_as_they_were_typed(typed: str, expected: Dimension) -> None:
    assert read(typed, "trainer.max_epochs=3").dimensions == (expected,), "one value is no search"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("seed=3", "nothing is searched"),
        ("optimizer.lr=interval(1e-2, 1e-5)", "low end must be below"),
        ("optimizer.lr=tag(log, interval(0, 1e-2))", "numbers above 0"),
        ("optimizer.lr=interval(-1, 1)", "optimizer.lr=-1"),
        ("optimizer.lr=tag(ln, interval(1e-5, 1e-2))", "tag ln means nothing"),
        ("optimizer.lr=tag(log, choice(1e-5, 1e-2))", "belongs to interval"),
        ("data.batch_size=interval(8.5, 64)", "takes whole numbers"),
        ("optimizer.name=interval(0, 1)", "is no number"),
        ("balance=glob(*)", "needs the names themselves"),
        ("seed=range(3, 3)", "holds no number"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_type(typed: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        read(typed)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_a_condition_names_searched_keys_and_their_choices() -> None:
    words = ("optimizer.momentum=interval(0.5, 0.9)", "optimizer.name=choice(adamw, sgd)")
    space = read(*words, conditions={"optimizer.momentum": {"optimizer.name": "sgd"}})
    assert [dimension.name for dimension in space.dimensions] == ["optimizer.name", "optimizer.momentum"]
    assert space.dimensions[1].applies({"optimizer.name": "sgd"})
    assert not space.dimensions[1].applies({"optimizer.name": "adamw"})
    for conditions, said in (
        ({"optimizer.momentun": {"optimizer.name": "sgd"}}, "did you mean optimizer.momentum?"),
        ({"optimizer.momentum": {"optimizer.nam": "sgd"}}, "did you mean optimizer.name?"),
        ({"optimizer.momentum": {"optimizer.name": "lion"}}, "not among its choices adamw, sgd"),
        ({"optimizer.momentum": "sgd"}, "name another key and its value"),
    ):
        with pytest.raises(ConfigurationError, match=r"hydra\.sweeper\.conditions") as told:
            read(*words, conditions=conditions)
        assert said in str(told.value)


def test_a_grid_needs_an_end_of_values() -> None:
    with pytest.raises(ConfigurationError, match=r"optimizer\.lr has no end of values"):
        read("optimizer.lr=interval(0.1, 0.2)", "seed=1,2", sampler="grid")
    assert read("seed=range(1, 4)", "balance=none,oversample", sampler="grid").is_countable
