"""What does a job take in Slurm?  The rest is shown by a real Slurm, tests/slurm/run."""

from __future__ import annotations

from typing import Any

import pytest

from cxr.errors import ConfigurationError
from cxr.sweeps.slurm import Shape, shape_of


def shape(*, gpus_per_node: int | None = None, **trainer: Any) -> Shape:
    settings = {"gpus": 0, "strategy": "auto", "num_processes": None, "num_nodes": 1, **trainer}
    return shape_of(settings, gpus_per_node, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Shape(nodes=1, tasks_per_node=1, gpus_per_node=0)),
        ({"gpus": 1}, Shape(1, 1, 1)),
        ({"gpus": 4, "strategy": "ddp"}, Shape(1, 4, 4)),
        ({"gpus": 4, "strategy": "ddp", "num_nodes": 2}, Shape(2, 4, 4)),
        ({"gpus": 2, "strategy": "ddp", "gpus_per_node": 4}, Shape(1, 2, 4)),
        ({"gpus": -1, "strategy": "ddp", "gpus_per_node": 8}, Shape(1, 8, 8)),
        ({"gpus": None, "gpus_per_node": 1}, Shape(1, 1, 1)),
        ({"gpus": None, "gpus_per_node": 0}, Shape(1, 1, 0)),
        ({"strategy": "ddp"}, Shape(1, 2, 0)),
        ({"strategy": "ddp", "num_processes": 3}, Shape(1, 3, 0)),
    ],
)
def test_a_process_for_every_device(options: dict[str, Any], expected: Shape) -> None:
    assert shape(**options) == expected


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gpus": -1}, "trainer.gpus=-1"),
        ({"gpus": 4, "strategy": "ddp", "gpus_per_node": 2}, "hydra.launcher.gpus_per_node=2"),
        ({"gpus": 1, "num_nodes": 2}, "trainer.num_nodes=2"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        shape(**options)
