"""Does the comparison tell how a search went, and a setting that matters from one that does not?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.written_runs import draw_records, draw_scores, end_run, write_run

from cxr.evaluation.comparison.comparison import compare_runs
from cxr.evaluation.comparison.finished_runs import find_runs
from cxr.evaluation.comparison.importance import MIN_TRIALS, weigh
from cxr.evaluation.comparison.page import write_page
from cxr.evaluation.comparison.search_record import RECORD, Search, find_searches
from cxr.sweeps.space import Dimension, in_order
from cxr.sweeps.study import Study, open_storage

LR = Dimension("optimizer.lr", "float", low=1e-5, high=1e-2, log=True)
NAME = Dimension("optimizer.name", "choice", choices=("adamw", "sgd"))
MOMENTUM = Dimension("optimizer.momentum", "float", low=0.5, high=0.9, when=(("optimizer.name", ("sgd",)),))
OUTCOMES = {7: "pruned", 11: "diverged", 13: "failed"}


def search(folder: Path, num_trials: int, *, dead: bool = False) -> Search:
    """A study whose value is decided by the learning rate alone, or by nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(
        open_storage(None, folder), None, "demo/first", in_order([LR, NAME, MOMENTUM]), folder, "random", 0, 3, {}
    )
    for number in range(num_trials):
        asked = study.ask()
        assert asked is not None
        value = 0.7 if dead else 0.5 + 40 * float(asked.values["optimizer.lr"])
        outcome = OUTCOMES.get(number, "complete")
        study.tell(
            asked.number, value if outcome == "complete" else None, outcome, None if outcome == "complete" else "why"
        )
    (found,) = find_searches([folder])
    return found


def test_the_setting_that_matters_is_told_from_those_that_do_not(tmp_path: Path) -> None:
    found = weigh(search(tmp_path, 30))
    assert {each.name for each in found.settings} == {"optimizer.lr", "optimizer.name", "optimizer.momentum"}
    assert [each.name for each in found.settings if each.above_chance] == ["optimizer.lr"]
    assert found.settings[0].name == "optimizer.lr"
    assert sum(each.share for each in found.settings) == pytest.approx(1)


def test_where_nothing_can_be_said_of_importance_the_reason_is(tmp_path: Path) -> None:
    few = weigh(search(tmp_path / "few", MIN_TRIALS - 1))
    assert not few.settings
    assert f"needs {MIN_TRIALS} completed trials" in str(few.missing)


def test_a_record_is_counted_once_and_a_damaged_one_not_at_all(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", 16)
    assert whole.summary == "Search demo/first: 16 trials, 13 complete, 1 pruned, 1 diverged, 1 failed"
    assert whole.best == max(whole.having("complete"), key=lambda trial: trial.value or 0)
    # Two folders of one study, one of which has not heard of the last trials.
    content: dict[str, Any] = json.loads((tmp_path / "whole" / RECORD).read_text())
    content["trials"] = content["trials"][:5]
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / RECORD).write_text(json.dumps(content))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / RECORD).write_text('{"trials": [{"number": 1')
    folders = [tmp_path / name for name in ("part", "whole", "damaged", "absent")]
    assert find_searches(folders) == [whole]
    assert find_searches(folders[::-1]) == [whole]


def test_the_page_shows_the_search_and_what_was_pruned_is_no_warning(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    search(sweep, 14)
    records = draw_records(30)
    for number, lr in ((0, 0.1), (1, 0.001)):
        write_run(sweep / str(number), records, draw_scores(records, 2.0, seed=number), settings={"optimizer.lr": lr})
    end_run(sweep / "7", "pruned", "pruned at epoch 2 of 4 (val/auroc 0.5000)", settings={"optimizer.lr": 0.01})
    found = compare_runs(find_runs([sweep]), num_resamples=100)
    assert "Search demo/first: 14 trials, 11 complete, 1 pruned, 1 diverged, 1 failed." in found.notes
    assert not [text for text in found.warnings if "not compared" in text]
    written = write_page(found, tmp_path / "out")
    assert [path.name for path in written if "search" in path.name] == ["search_history.png", "search_importance.png"]
    page = written[0].read_text()
    assert ">How the search went</h2>" in page
    assert "pruned at epoch 2 of 4" in page, "it is listed with what is not compared"
    best = max(find_searches([sweep])[0].having("complete"), key=lambda trial: trial.value or 0)
    assert f"The best is trial {best.number} " in page
