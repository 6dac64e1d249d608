"""Does python -m cxr.lr_find say, draw and track which rate a range test suggests, and train nothing?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from tests.programs import run

TINY = [
    "experiment=demo",
    "data.sources.phantom.num_patients=30",
    "data.sources.phantom.size=64",
    "data.look_for_copies=false",
    "data.image_size=32",
    "model.name=test_resnet",
    "trainer.gpus=0",
]


def test_the_suggestion_is_said_drawn_and_tracked(
    tmp_path: Path, inspect_wandb: Callable[[Path], list[dict[str, Any]]]
) -> None:
    done = run("-m", "cxr.lr_find", *TINY, "lr_find.num_steps=40", cwd=tmp_path)
    assert done.returncode == 0, done.said
    (folder,) = (tmp_path / "outputs" / "lr_find" / "demo").iterdir()
    curve = pd.read_csv(folder / "lr_find.csv")
    assert len(curve) <= 40
    assert (folder / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.rglob("*.ckpt"))
    (tracked,) = (folder / "tracking" / "wandb").glob("offline-run-*")
    sent = str(inspect_wandb(tracked))
    assert "lr_find.png" in sent or "media/images/lr_find" in sent
    assert "'lr_find'" in sent, "the type of the job"
    suggested = re.search(r"Try: optimizer\.lr=(\S+)", done.stdout)
    assert ("lr_find/valley" in sent) == (suggested is not None)


def test_it_is_not_tracked_where_nothing_shall_be(tmp_path: Path) -> None:
    done = run("-m", "cxr.lr_find", *TINY, "lr_find.num_steps=20", "logger=none", cwd=tmp_path)
    assert done.returncode == 0, done.said
    assert not list(tmp_path.rglob("tracking"))
