from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
from rich.console import Console

from cxr.training.module import CXRModule
from cxr.training.progress import EpochProgress


def _fit(progress: EpochProgress, module: CXRModule, train: Any, val: Any) -> None:
    pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[progress],
    ).fit(module, train, val)


def test_without_a_terminal_there_is_one_line_an_epoch(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _fit(EpochProgress(), make_module(), loader([0, 1] * 8), loader([0, 1] * 4))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        assert line.startswith(f"epoch {number}/2")
        assert all(name in line for name in ("train/loss", "val/loss", "val/auroc"))
        assert "\x1b" not in line


def test_a_terminal_gets_a_bar_with_loss_score_and_time_left(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr.training.progress._REDRAWS", 1e9)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    _fit(EpochProgress(console=console), make_module(), loader([0, 1] * 32), loader([0, 1] * 4))
    text = stream.getvalue()
    assert "epoch 2/2" in text
    assert "loss 0." in text
    assert "val/auroc" in text
    assert " left" in text
    assert "16/16" in text
    assert "validating" in text


def test_disabled_it_says_nothing(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _fit(EpochProgress(enabled=False), make_module(), loader([0, 1] * 4), loader([0, 1] * 4))
    assert capsys.readouterr().out == ""


def test_a_run_that_fails_leaves_the_terminal_as_it_was(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    class Failing(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ValueError("no more")

    stream = io.StringIO()
    progress = EpochProgress(console=Console(file=stream, force_terminal=True, width=80))
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[progress, Failing()]
    )
    with pytest.raises(ValueError, match="no more"):
        trainer.fit(make_module(), loader([0, 1] * 8))
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert stream.getvalue().rfind(shown) > stream.getvalue().rfind(hidden) >= 0
