"""Does a training come to the same weights, with one warning, whatever keeps W&B from it?"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tests.fault.small_runs import PLAIN
from tests.programs import Ended, run
from tests.wandb_server import serve

from cxr.training import tracking

pytestmark = pytest.mark.fault
TINY = [*PLAIN, "trainer.max_epochs=2"]
KEY = "a" * 40


def be_impatient() -> None:
    """Wait for a silent server for two seconds, not fifteen."""
    tracking._INIT_TIMEOUT = 2.0


def trained(
    folder: Path, *words: str, checkpoint: str = "*", **environment: str
) -> tuple[Ended, dict[str, torch.Tensor]]:
    """What a training says, and its weights."""
    done = run("train.py", *TINY, *words, cwd=folder, prepare=be_impatient, **environment)
    assert done.returncode == 0, done.said
    (place,) = (folder / "outputs" / "demo").glob(checkpoint)
    state: dict[str, torch.Tensor] = torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return done, state


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(tmp_path_factory.mktemp("untracked"), "logger=none")[1]


@contextmanager
def _nothing(folder: Path) -> Iterator[dict[str, str]]:
    yield {}


@contextmanager
def _wrong_key(folder: Path) -> Iterator[dict[str, str]]:
    """A server that knows nobody by this key."""
    with serve() as server:
        server.refused = {"Viewer", "UpsertBucket", "GetDefaultEntity", "ServerFeaturesQuery"}
        yield {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.address}


@contextmanager
def _silent(folder: Path) -> Iterator[dict[str, str]]:
    """A server that takes calls and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{listening.getsockname()[1]}"}


CASES = {"no key": _nothing, "a wrong key": _wrong_key, "a server that hangs": _silent}


@pytest.mark.parametrize("case", CASES)
def test_a_training_goes_on_to_the_same_weights(case: str, untracked: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with CASES[case](tmp_path) as environment:
        done, weights = trained(tmp_path, **environment)
    warned = [line for line in done.said.splitlines() if line.startswith("warning: W&B")]
    assert len(warned) == (0 if case == "no key" else 1), done.said
    assert "W&B is offline" in done.said
    assert "Traceback" not in done.said
    assert_equal(weights, untracked)


def test_a_folder_that_cannot_be_written_costs_one_warning(untracked: dict[str, torch.Tensor], tmp_path: Path) -> None:
    # Root may write to a folder of any mode, but nobody to the table of processes.
    place = tmp_path / "outputs" / "demo" / "swept"
    place.mkdir(parents=True)
    (place / "tracking").symlink_to("/proc")
    words = ["-m", "hydra/launcher=basic", "seed=0", f"hydra.sweep.dir={place}"]
    done, weights = trained(tmp_path, *words, checkpoint="swept/0")
    assert len([line for line in done.said.splitlines() if line.startswith("warning: W&B")]) == 1, done.said
    assert "this run is not tracked" in done.said
    assert_equal(weights, untracked)


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in other)
