"""Is what puts the numbers in doubt said before them?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from tests.evaluation.drawn_run import edit_entry
from tests.evaluation.report.parsed_page import Page, report

from cxr.training.run_directory import RunDirectory


def divide_a_patient(run: RunDirectory) -> None:
    split = pd.read_csv(run.split_path)
    split.loc[split.index[-1], "group"] = split.loc[0, "group"]
    split.to_csv(run.split_path, index=False)


def look_again(run: RunDirectory) -> None:
    line = "2026-01-02T00:00:00+00:00,test,best.ckpt,ab,40\n"
    run.looks_path.write_text(run.looks_path.read_text(encoding="utf-8") + line, encoding="utf-8")


def set_in_config(run: RunDirectory, old: str, new: str) -> None:
    text = run.config_path.read_text(encoding="utf-8")
    assert old in text
    run.config_path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (divide_a_patient, "LEAK: 1 patient or files stand on more than one side of the split (archive/train"),
        (look_again, "Test split: scored 2 times with this run"),
        (
            lambda run: set_in_config(run, "kind: holdout", "kind: random_image"),
            "LEAK: the images were divided at random",
        ),
        (
            lambda run: set_in_config(run, "kind: holdout", "kind: kfold\n    unit: image"),
            "LEAK: the images were divided at random (data.split.unit=image)",
        ),
        (
            lambda run: (
                divide_a_patient(run),
                set_in_config(run, "kind: holdout", "kind: holdout\n    unit: patient"),
            ),
            "LEAK: the patient ids were believed as they are listed",
        ),
        (lambda run: edit_entry(run, "test", warnings=["LEAK: 3 of these"]), "Test split: LEAK: 3 of these"),
        (lambda run: edit_entry(run, "test", checkpoint_sha256="cd" * 32), "come from different checkpoints"),
        (
            lambda run: run.status_path.write_text('{"status": "interrupted", "reason": "exit status 143"}'),
            "The training did not finish: interrupted (exit status 143)",
        ),
        (
            lambda run: set_in_config(run, "limit_train_batches: null", "limit_train_batches: 0.1"),
            "limit_train_batches=0.1 left out a part",
        ),
        (lambda run: edit_entry(run, "test", saliency={"passed": False}), "not shown to look at the lungs"),
        (
            lambda run: edit_entry(run, "test", saliency={"randomisation": {"passed": False}}),
            "the saliency maps go with those of a random network",
        ),
        (lambda run: None, "positive images and"),  # of 40 images no side has a hundred
        (lambda run: None, "a network that reads the view can score well"),
    ],
)
def test_what_puts_the_numbers_in_doubt_is_said_before_them(
    run: RunDirectory, spoil: Callable[[RunDirectory], object], said: str
) -> None:
    spoil(run)
    text = report(run).text
    assert said in text
    assert text.index(said) < text.index("What was found")


def test_a_sound_run_has_no_warning_of_leaks_looks_size_or_training(page: Page) -> None:
    warnings = page.text[page.text.index("Warnings") : page.text.index("What was found")]
    assert not re.search("LEAK|scored|fewer than|finish|trial|different", warnings)


def found_before(run: RunDirectory, *flagged: str, **content: Any) -> None:
    """What the audit wrote before the training."""
    names = ("file facts", "grey levels", "border", "without lungs", "thumbnail")
    probes = [{"name": name, "flagged": None if name == "thumbnail" else name in flagged} for name in names]
    run.audit_path.write_text(json.dumps({"shortcuts": {"probes": probes}} | content), encoding="utf-8")


def warnings_of(run: RunDirectory) -> str:
    text = report(run).text
    return text[text.index("Warnings") : text.index("What was found")]


BEFORE = "SHORTCUTS in the data, found before the training"


def test_shortcuts_that_were_found_before_the_training_are_said_after_the_leaks(run: RunDirectory) -> None:
    found_before(run, "file facts", "border")
    edit_entry(run, "test", shortcuts=None)
    divide_a_patient(run)
    look_again(run)
    said = warnings_of(run)
    assert "tell the label from file facts, border." in said
    assert said.index("LEAK: 1 patient") < said.index(BEFORE) < said.index("scored 2 times")


def test_what_the_trained_network_shows_is_not_said_twice(run: RunDirectory) -> None:
    found_before(run, "without lungs")  # which the network of the drawn run is flagged for
    said = warnings_of(run)
    assert "a shortcut: the network keeps 0.71" in said
    assert BEFORE not in said
    found_before(run, "without lungs", "grey levels")
    assert "tell the label from grey levels." in warnings_of(run)


@pytest.mark.parametrize(
    "content", [{"shortcuts": None}, {"shortcuts": []}, {"shortcuts": {"probes": None}}, {"shortcuts": {"probes": [1]}}]
)
def test_an_audit_without_probes_says_nothing_of_shortcuts(run: RunDirectory, content: dict[str, Any]) -> None:
    found_before(run, "border", **content)
    assert BEFORE not in warnings_of(run)


def test_an_audit_that_flagged_nothing_says_nothing_of_shortcuts(run: RunDirectory) -> None:
    found_before(run)
    assert BEFORE not in warnings_of(run)


def test_a_run_without_an_audit_says_that_it_is_missing(run: RunDirectory) -> None:
    run.audit_path.unlink()
    assert "audit.json is not in the run." in report(run).text
    run.audit_path.write_text("{", encoding="utf-8")
    assert "audit.json cannot be read." in report(run).text
