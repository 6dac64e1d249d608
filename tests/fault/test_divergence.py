"""Does a training that diverges say so, where, and with which records, and does it keep what was good?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.fault.small_runs import TINY, the_run
from tests.programs import run, start

from cxr.training.checkpoint_io import require_whole

pytestmark = pytest.mark.fault

# The first epoch is an ordinary one; then the steps are so large that the weights overflow.
DIVERGING = [
    *TINY,
    "logger=wandb",
    "optimizer.name=sgd",
    "trainer.max_epochs=null",
    "schedule.stages=[{epochs:1,lr:0.01},{epochs:3,lr:1e30,schedule:constant}]",
]


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The directory of a run that diverges in its second epoch, its exit status, and what it printed."""
    folder = tmp_path_factory.mktemp("diverged")
    done = run("train.py", *DIVERGING, "resume=auto", cwd=folder)
    return the_run(folder), done.returncode, done.said


def test_it_says_where_and_with_which_records(diverged: tuple[Path, int, str]) -> None:
    run_dir, status, said = diverged
    assert status == 4
    line = said.splitlines()[-1]
    told = json.loads((run_dir / "status.json").read_text())
    assert (told["status"], told["exit_status"]) == ("diverged", 4)
    assert line == f"error: {told['reason']}"
    step, rate, norm = re.search(
        r"of epoch 1 \(optimizer step (\d+), learning rate (\S+), (?:gradient norm of the last step|loss) (\S+);", line
    ).groups()  # type: ignore[union-attr]
    history = pd.read_csv(run_dir / "history.csv")
    assert int(step) >= history["step"].iloc[0]
    assert float(rate) == 1e30
    assert float(norm) > 0
    rows = [int(row) for row in re.search(r"rows ([\d, ]+) of split\.csv", line).group(1).split(", ")]  # type: ignore[union-attr]
    table, split = (pd.read_csv(run_dir / name) for name in ("diverged.csv", "split.csv"))
    assert table["row"].tolist() == rows
    assert table["image"].tolist() == split.loc[rows, "image"].tolist()
    assert set(table["split"]) == {"train"}
    assert len(rows) == 8, "the whole batch"


def test_the_good_weights_stay(diverged: tuple[Path, int, str]) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        path = diverged[0] / "checkpoints" / name
        require_whole(path)
        content = torch.load(path, weights_only=True)
        assert content["epoch"] == 0
        assert all(tensor.isfinite().all() for tensor in content["state_dict"].values())


def test_wandb_is_told_and_learns_no_name(diverged: tuple[Path, int, str], inspect_wandb: Any) -> None:
    run_dir = diverged[0]
    (folder,) = (run_dir / "tracking" / "wandb").glob("offline-run-*")
    records = inspect_wandb(folder)
    assert [record["exit"]["exit_code"] for record in records if record["type"] == "exit"] == [4]
    text = json.dumps(records)
    assert "of split.csv" in text
    split = pd.read_csv(run_dir / "split.csv", dtype=str)
    assert not [name for name in split["image"] if name in text]


def test_it_does_not_diverge_once_more(diverged: tuple[Path, int, str]) -> None:
    folder = diverged[0].parents[2]
    done = run("train.py", *DIVERGING, "resume=auto", cwd=folder)
    assert done.returncode == 4
    assert "diverged, as it would again" in done.said.splitlines()[-1]
    assert the_run(folder) == diverged[0], "no other run was begun"


# A gradient that is not finite, of a loss that is: as a division by zero in a layer's backward gives.
def spoil_a_gradient() -> None:
    from cxr.training.module import CXRModule

    step = CXRModule.training_step

    def spoilt(self: CXRModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        if self.current_epoch == 1 and batch_idx == 2:
            Path("indices").write_text(json.dumps(batch["index"].tolist()))
            weight = next(self.network.parameters())
            loss = loss + 0 * (weight.flatten()[0] * 0).sqrt()
        return loss

    CXRModule.training_step = spoilt  # type: ignore[method-assign]


def test_a_gradient_that_is_not_finite_is_told_from_a_loss(tmp_path: Path) -> None:
    program = start("train.py", *TINY, "logger=none", cwd=tmp_path, prepare=spoil_a_gradient)
    assert program.wait() == 4, program.said
    line = program.said.splitlines()[-1]
    assert "the gradient is not finite (norm nan) in batch 2 of epoch 1" in line
    indices = json.loads((tmp_path / "indices").read_text())
    assert pd.read_csv(the_run(tmp_path) / "diverged.csv")["row"].tolist() == indices


def test_an_exploding_loss_is_named_at_the_end(tmp_path: Path) -> None:
    words = [*TINY, "logger=none", "trainer.max_epochs=1", "optimizer.name=sgd", "optimizer.lr=1", "schedule=constant"]
    done = run("train.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.said
    run_dir = the_run(tmp_path)
    history = pd.read_csv(run_dir / "history.csv")
    worst = history[["train/loss", "val/loss"]].max().max()
    assert worst > 6.94, "else this run is none that explodes"
    said = " ".join(done.said.split())
    assert f"The loss exploded: {history[['train/loss', 'val/loss']].max().idxmax()} {worst:.4g} in epoch" in said
    told = json.loads((run_dir / "status.json").read_text())
    assert told["status"] == "finished"
    assert "the loss exploded" in told["reason"]
