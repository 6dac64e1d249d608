"""What the tests that break something share: a run that nobody disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fault.small_runs import TINY, the_run
from tests.programs import run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that nobody disturbed, and the words of the same run for whom it may be disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    words = [*TINY, "trainer.accumulate_grad_batches=2", f"paths.cache={folder / 'cache'}"]
    done = run("train.py", *words, cwd=folder)
    assert done.returncode == 0, done.said
    return the_run(folder), words
