from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cxr.errors import CheckpointError
from cxr.evaluation.scoring.checkpoint import open_run

Edit = Callable[[Callable[[dict[str, Any]], object]], Path]


def failure(run: Path, which: str = "best") -> str:
    with pytest.raises(CheckpointError) as caught:
        open_run(run, which)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 5
    return str(caught.value)


def test_the_best_checkpoint_of_a_run_is_opened_ready_to_answer(run: Path) -> None:
    opened = open_run(run)
    assert opened.path == run / "checkpoints" / "best.ckpt"
    assert opened.run_dir == run
    assert opened.notes == []
    assert not opened.module.training
    assert opened.module.class_names == ["covid", "other"]
    assert set(opened.training_split["split"]) == {"train", "val", "test"}
    assert open_run(run, "last").path.name == "last.ckpt"


def test_a_run_is_also_found_from_its_checkpoints_folder_and_file(run: Path) -> None:
    assert open_run(run / "checkpoints").run_dir == run
    assert open_run(run / "checkpoints" / "last.ckpt").run_dir == run


def test_without_a_best_checkpoint_the_last_is_taken_and_that_is_said(run: Path) -> None:
    (run / "checkpoints" / "best.ckpt").unlink()
    opened = open_run(run)
    assert opened.path.name == "last.ckpt"
    assert "last.ckpt is evaluated" in opened.notes[0]


def test_a_copied_checkpoint_stands_alone(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "model.ckpt"
    copy.parent.mkdir()
    shutil.copy(run / "checkpoints" / "best.ckpt", copy)
    shutil.rmtree(run)
    opened = open_run(copy)
    assert opened.run_dir is None
    data = opened.datamodule(evaluation_batch_size=3, progress=False)
    data.setup("test")
    known = opened.training_split.set_index("image")["split"]
    assert (data.records.set_index("image")["split"] == known).all()
    assert next(iter(data.test_dataloader()))["image"].shape == (3, 1, 32, 32)


def test_what_the_checkpoint_fixes_cannot_be_overridden(run: Path) -> None:
    with pytest.raises(TypeError, match="image_size"):
        open_run(run).datamodule(image_size=64)


def test_a_missing_run_is_answered_with_what_was_looked_for_and_the_runs_nearby(run: Path) -> None:
    message = failure(run.parent / "dmeo")
    assert "dmeo" in message
    assert "best.ckpt" in message
    assert os.path.relpath(run) in message


def test_a_sweep_directory_is_answered_with_its_jobs(run: Path) -> None:
    shutil.copytree(run, run.parent / "second")
    message = failure(run.parent)
    assert "holds no checkpoint" in message
    assert os.path.relpath(run) in message
    assert os.path.relpath(run.parent / "second") in message


def test_no_run_anywhere_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert "no run" in failure(tmp_path / "a" / "b")


def test_an_empty_file_is_named(run: Path) -> None:
    (run / "checkpoints" / "best.ckpt").write_bytes(b"")
    assert "best.ckpt is empty" in failure(run)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_damaged(run: Path, share: float) -> None:
    path = run / "checkpoints" / "best.ckpt"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "damaged" in failure(run)


def test_a_file_of_another_program_is_foreign(run: Path) -> None:
    path = run / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {}, "epoch": 1, "hyper_parameters": {}}, path)
    assert "no checkpoint of cxr" in failure(run)
    path.write_text("this is a note", encoding="utf-8")
    assert "no checkpoint of cxr" in failure(run)


def test_a_checkpoint_of_another_network_is_refused(edit: Edit, run: Path) -> None:
    edit(lambda content: content["state_dict"].popitem())
    assert "best.ckpt" in failure(run)


class Program:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.victim,)


def test_code_in_a_checkpoint_is_never_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The variable by which a careless environment switches the protection off.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write({"state_dict": {}, "epoch": Program(tmp_path / "victim")}, run / "checkpoints" / "best.ckpt")
        failure(run)
        assert not (tmp_path / "victim").exists()
