"""Runs that were drawn once, for all tests of reports and cards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.evaluation.drawn_run import draw_run
from tests.evaluation.report.parsed_page import Page, report

from cxr.training.run_directory import RunDirectory


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Never written to but for its report."""
    return draw_run(tmp_path_factory.mktemp("drawn") / "run")


@pytest.fixture(scope="session")
def page(drawn: RunDirectory) -> Page:
    return report(drawn)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Never written to, see `run`."""
    return draw_run(tmp_path_factory.mktemp("small") / "run", num_images=40)


@pytest.fixture
def run(small: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A small run that a test may write to."""
    return RunDirectory(Path(shutil.copytree(small.path, tmp_path / "run")))
