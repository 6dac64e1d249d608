"""Are the README, the docs and the experiments true?  Commands are accepted, links lead somewhere, Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.programs import run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
EXPERIMENTS = [path.read_text() for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))]
PROGRAMS = r"(?:train|evaluate)\.py|python -m cxr\.(?:audit|protocols|export|lr_find)"


def _commands() -> list[str]:
    """What a person is told to type."""
    # A line that goes on is one; in a file of settings each begins with a mark.
    texts = [re.sub(r"\\\n[# ]*", "", text) for text in (README, *DOCS.values(), *EXPERIMENTS)]
    found = {words for text in texts for words in re.findall(rf"(?:uv run|#   python) ((?:{PROGRAMS}) [^\n`#]*)", text)}
    return sorted(words.strip() for words in found)


COMMANDS = _commands()


def test_the_two_commands_and_the_test_command_stand_first() -> None:
    assert "pip install uv && uv run train.py experiment=demo" in README
    assert "uv run pytest" in README
    assert "uv run pytest" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_accepted(command: str, tmp_path: Path) -> None:
    program, *words = shlex.split(
        re.sub(r"<([^>]*)>", lambda found: re.sub(r"\W", "_", found[1]), command.split("  ")[0])
    )
    named = [program]
    if program == "python":
        named, words = words[:2], words[2:]
    if "--config-dir" in words:
        pytest.skip("needs a run; tests/test_runs.py repeats one")
    if any(word == "trainer.max_epoch=3" for word in words):
        pytest.skip("the mistake that the README shows")
    if "hydra/sweeper=optuna" in words:  # what is searched cannot be shown by --cfg: all is accepted but the folder
        (tmp_path / "file").touch()
        done = run(*named, *words, f"paths.output={tmp_path / 'file'}", cwd=tmp_path)
        assert (done.returncode, done.stderr.startswith("error: sweep folder")) == (2, True), done.stderr
        return
    if "-m" in words:
        words.remove("-m")
        words = [word if "[" in word else word.split(",")[0] for word in words]  # one job of them
    done = run(*named, *words, "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    for folder, text in [(ROOT, README), *((ROOT / "docs", text) for text in DOCS.values())]:
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if not target.startswith("https://"):
                assert (folder / target.partition("#")[0]).exists(), target


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    block = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "CXRDataModule" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    small = block.replace("image_size=96", "image_size=32").replace('"resnet18"', '"resnet10t"')
    small = small.replace("max_epochs=3", "max_epochs=1, limit_train_batches=2, limit_val_batches=2, logger=False")
    small = small.replace('"kind": "phantom"', '"kind": "phantom", "num_patients": 20, "size": 64')
    (tmp_path / "small.py").write_text(small)
    done = run(str(tmp_path / "small.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
