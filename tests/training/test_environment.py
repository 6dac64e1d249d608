"""Does a run record which program trained it, also where git is of little help?"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr.training.environment import describe_environment, git_state


def git(folder: Path, *words: str) -> str:
    person = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", str(folder), *person, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, a tag on it, and a package in a folder."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("pass\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "tag", "v1")
    return tmp_path


def test_a_checkout_is_named_by_its_commit_and_says_whether_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout / "package") == (commit, False)
    (checkout / "outputs").mkdir()
    (checkout / "outputs" / "status.json").write_text("{}")
    assert git_state(checkout / "package") == (commit, False), "what git does not know is no change of the program"
    (checkout / "package" / "code.py").write_text("raise SystemExit\n")
    assert git_state(checkout / "package") == (commit, True)


def test_a_package_installed_within_another_program_has_no_commit(checkout: Path) -> None:
    installed = checkout / "venv" / "package"
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("pass\n")
    assert git_state(installed) == (None, None)


def test_a_folder_without_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert git_state(tmp_path) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == (None, None)


def test_versions_are_those_of_the_packages_themselves() -> None:
    found = describe_environment(cuda=False)
    versions = found["versions"]
    assert versions["Python"] == platform.python_version()
    assert versions["numpy"] == np.__version__
    assert versions["torch"] == torch.__version__.partition("+")[0]
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["gpus"] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_gpus_are_named() -> None:
    machine = describe_environment(cuda=True)["machine"]
    assert [gpu["name"] for gpu in machine["gpus"]] == [
        torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
    ]
    assert machine["cuda"] == torch.version.cuda


def test_no_heavy_package_is_imported_for_its_version() -> None:
    code = (
        "import sys; from cxr.training.environment import describe_environment; describe_environment(cuda=False);"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "timm", "wandb"} & set(done.stdout.split())
