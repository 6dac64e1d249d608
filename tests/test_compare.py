"""Does python -m cxr.compare work as a process: results, files, exit status, one line for a mistake?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.evaluation.written_runs import draw_records, draw_scores, end_run, write_run

from cxr.compare import main

HEAVY = {"torch", "pytorch_lightning", "timm", "wandb"}


def compare(*words: str, cwd: Path) -> tuple[subprocess.CompletedProcess[str], str, set[str]]:
    """The process, what it wrote to stderr, and the modules that it imported."""
    program = [sys.executable, "-X", "importtime", "-m", "cxr.compare", *words]
    done = subprocess.run(program, capture_output=True, text=True, cwd=cwd, timeout=120)
    lines = done.stderr.splitlines(keepends=True)
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return done, "".join(line for line in lines if not line.startswith("import time:")), imported


def write_sweep(folder: Path) -> None:
    records = draw_records(60, images_per_patient=2)
    for number, (lr, seed) in enumerate(((0.1, 0), (0.1, 1), (0.001, 0), (0.001, 1))):
        write_run(
            folder / str(number),
            records,
            draw_scores(records, 3.0 if lr == 0.001 else 0.5, seed=number),
            settings={"optimizer.lr": lr, "seed": seed},
        )
    end_run(folder / "4", "failed", "model.name=resnet51: timm knows no such network")


def test_a_sweep_is_compared_and_everything_written(tmp_path: Path) -> None:
    write_sweep(tmp_path / "outputs" / "sweep")
    done, errors, imported = compare("outputs/sweep", cwd=tmp_path)
    assert (done.returncode, errors) == (0, "")
    words = " ".join(done.stdout.split())
    assert "The two configurations differ in AUROC: 1 is better than 2. Configuration 1 is lr=0.001." in words
    assert "timm knows no such network" in words
    assert "Compared on the validation split" in words
    folder = tmp_path / "outputs" / "sweep" / "comparison"
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.csv",
        "comparison.html",
        "comparison_configurations.csv",
        "comparison_tests.csv",
        "figures",
    ]
    assert [path.name for path in (folder / "figures").iterdir()] == ["main_effects_auroc.png"]
    assert not imported & HEAVY


def test_metric_reference_and_place_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "sweep")
    words = [str(tmp_path / "sweep"), "--metric", "brier", "--reference", "0", "--output", str(tmp_path / "elsewhere")]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The two configurations differ in Brier score" in said
    assert "Each configuration against 2, as asked" in said
    assert (tmp_path / "elsewhere" / "comparison.html").is_file()


MISTAKES = [
    # words typed, what the line must name
    (["outputs/swep"], ["outputs/swep: there is no such folder", "outputs/sweep?"]),
    (["outputs", "split=test"], ["did you mean --split test?"]),
    ([], ["folder", "--help"]),
    (["outputs", "--frobnicate"], ["--frobnicate", "--help"]),
    (["outputs", "--metric", "acuracy"], ["--metric acuracy", "did you mean accuracy?"]),
    (["outputs", "--split", "tst"], ["--split tst"]),
    (["empty"], ["empty: holds no run"]),
]


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_ends_in_one_line(
    words: list[str],
    named: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    end_run(tmp_path / "outputs" / "sweep" / "0", "finished")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert all(name in said.err for name in named), said.err
    assert not (tmp_path / "outputs" / "comparison").exists()


def test_an_unknown_path_ends_the_process_with_status_2(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    done, errors, imported = compare("output", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert errors == "error: output: there is no such folder; did you mean outputs?\n"
    assert not imported & {*HEAVY, "pandas", "scipy", "matplotlib"}


def test_runs_without_numbers_are_listed_and_end_with_their_own_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end_run(tmp_path / "sweep" / "0", "failed", "the disk is full")
    assert main([str(tmp_path / "sweep")]) == 3
    said = capsys.readouterr()
    assert "the disk is full" in said.out
    assert said.err.splitlines() == ["error: no run can be compared on val: 0: the disk is full"]


def test_what_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "sweep")
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "sweep"), "--output", str(tmp_path / "file" / "below")]) == 2
    said = capsys.readouterr().err
    assert "file/below: cannot be written" in said
    assert len(said.splitlines()) == 1


def test_help_names_what_can_be_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("--split", "--metric", "--reference", "--output", "comparison.html"))
