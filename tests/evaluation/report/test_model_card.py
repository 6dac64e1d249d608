from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from tests.evaluation.drawn_run import draw_run, edit_entry

from cxr.evaluation.report.checklists import CLAIM, LACKING, TRIPOD_AI, find_evidence, judge
from cxr.evaluation.report.contents import read_contents
from cxr.evaluation.report.model_card import write_model_card
from cxr.training.run_directory import RunDirectory

HOSTILE = (
    "# <script>alert(1)</script> | [x](javascript:alert(1)) `a` *b* _c_ ~d~ $e$ ![i](x) http://x.example @me\n\n- l \\"
)


def read_card(run: RunDirectory) -> str:
    return write_model_card(run).read_text(encoding="utf-8")


def statuses(card: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Checklist -> item -> status and where."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for title in ("CLAIM", "TRIPOD+AI"):
        part = card[card.index(f"## {title}") :].split("\n## ")[0]
        rows = re.findall(r"^\| (\w+) \| [^|]* \| (filled|needs a human|missing) \| ([^|]*) \|$", part, re.MULTILINE)
        found[title] = {number: (status, where) for number, status, where in rows}
    return found


def test_the_checklists_are_whole() -> None:
    assert [item.number for item in CLAIM] == [str(number) for number in range(1, 45)]
    numbers = [item.number for item in TRIPOD_AI]
    assert len(numbers) == len(set(numbers)) == 52
    assert {int(re.match(r"\d+", number)[0]) for number in numbers} == set(range(1, 28))  # type: ignore[index]
    parts = Counter(re.match(r"\d+", number)[0] for number in numbers)  # type: ignore[index]
    assert parts["12"] == 7
    assert parts["18"] == 6


def test_every_name_of_evidence_can_be_found_in_some_run_and_has_words(run: RunDirectory) -> None:
    rows = json.loads(run.metrics_path.read_text(encoding="utf-8"))["test"]["subgroups"]
    row = next(row for row in rows if row["column"] == "source") | {"estimate": {"value": 0.9}}
    edit_entry(run, "test", subgroups=[row, row | {"value": "another"}])
    (run.path / "environment.json").write_text('{"versions": {"torch": "2.0"}, "git_commit": "abc"}', encoding="utf-8")
    asked = {name for item in (*CLAIM, *TRIPOD_AI) for name in item.evidence}
    assert asked == set(LACKING)
    assert asked <= set(find_evidence(read_contents(run)))


def test_statuses_of_a_full_run(run: RunDirectory) -> None:
    found = statuses(read_card(run))
    assert len(found["CLAIM"]) == 44
    assert len(found["TRIPOD+AI"]) == 52
    for number in ("9", "19", "22", "28", "29", "31", "32", "33", "35"):
        assert found["CLAIM"][number][0] == "filled"
    for number in ("1", "5", "14", "18", "34", "40", "44"):
        assert found["CLAIM"][number][0] == "needs a human"
    assert found["CLAIM"]["33"][1] == "report, Metrics: hospital\\_b"
    # Nothing in the run says what it was trained with.
    assert found["CLAIM"]["23"][0] == "missing"
    assert found["TRIPOD+AI"]["23a"][0] == "filled"
    assert found["TRIPOD+AI"]["12d"][0] == "missing"


@pytest.mark.parametrize(
    ("lost", "checklist", "number"),
    [
        ({"saliency": None}, "CLAIM", "31"),
        ({"subgroups": None}, "CLAIM", "30"),
        ({"calibration": None}, "TRIPOD+AI", "12e"),
        ({"operating_points": None, "threshold": None}, "TRIPOD+AI", "15"),
        ({"confusion_matrix": None}, "CLAIM", "38"),
    ],
)
def test_an_item_is_missing_where_the_run_lacks_its_answer(
    run: RunDirectory, lost: dict[str, None], checklist: str, number: str
) -> None:
    before = statuses(read_card(run))
    edit_entry(run, "test", **lost)
    after = statuses(read_card(run))
    assert before[checklist][number][0] == "filled"
    assert after[checklist][number][0] == "missing"
    assert after[checklist][number][1].startswith("the run lacks ")
    humans = {number for number, (status, _) in before[checklist].items() if status == "needs a human"}
    assert humans == {number for number, (status, _) in after[checklist].items() if status == "needs a human"}


def test_files_and_collections_decide_too(run: RunDirectory) -> None:
    run.dropped_path.unlink()
    run.config_path.unlink()
    content = json.loads(run.metrics_path.read_text(encoding="utf-8"))
    run.metrics_path.write_text(json.dumps({"val": content["val"]}), encoding="utf-8")
    card = read_card(run)
    found = statuses(card)["CLAIM"]
    for number in ("9", "12", "22", "25", "32", "33", "37"):
        assert found[number][0] == "missing"
    assert "The test split has not been scored." in card
    assert "No other collection has been scored" in card


def test_versions_that_were_recorded_in_training_fill_their_item(run: RunDirectory) -> None:
    recorded = {"versions": {"torch": "9.9.9"}, "git_commit": "0123abc"}
    (run.path / "environment.json").write_text(json.dumps(recorded), encoding="utf-8")
    card = read_card(run)
    assert statuses(card)["CLAIM"]["23"][0] == "filled"
    assert "| torch | 9.9.9 in training, " in card
    assert "0123abc" in card


def test_a_divided_patient_is_named_where_the_level_of_the_split_is_asked_for(run: RunDirectory) -> None:
    assert statuses(read_card(run))["CLAIM"]["20"][1] == "split.csv: patients (groups)"
    split = pd.read_csv(run.split_path)
    split.loc[split.index[-1], "group"] = split.loc[0, "group"]
    split.to_csv(run.split_path, index=False)
    card = read_card(run)
    assert "NOT disjoint: 1 patient" in statuses(card)["CLAIM"]["20"][1]
    assert card.index("LEAK") < card.index("## Found")


def test_a_run_without_intervals_does_not_pass_for_one_with_them(run: RunDirectory) -> None:
    content = json.loads(run.metrics_path.read_text(encoding="utf-8"))
    for name, held in content["test"].items():
        if isinstance(held, dict) and "low" in held:
            content["test"][name] = {"value": held["value"], "n": held["n"], "baseline": held["baseline"]}
    run.metrics_path.write_text(json.dumps(content), encoding="utf-8")
    found = statuses(read_card(run))
    assert {found["CLAIM"][number][0] for number in ("29", "37", "38")} == {"missing"}
    assert found["TRIPOD+AI"]["23a"][0] == "missing"


def test_the_numbers_are_those_of_the_run(run: RunDirectory) -> None:
    card = read_card(run)
    for entry in json.loads(run.metrics_path.read_text(encoding="utf-8")).values():
        auroc = entry["auroc"]
        limits = f"{auroc['low']:.3f} to {auroc['high']:.3f}"
        assert f"| AUROC | {auroc['value']:.3f} | {limits} | 0.500 |" in card
        assert entry["checkpoint_sha256"] in card


def test_what_no_program_can_know_is_marked(run: RunDirectory) -> None:
    card = read_card(run)
    for title in ("Intended use", "Limits", "Ethical notes", "Data", "Model"):
        part = card[card.index(f"## {title}\n") :].split("\n## ")[0]
        assert "**[needs a human]**" in part


def test_text_from_data_stays_text(tmp_path: Path) -> None:
    cards = [
        read_card(
            draw_run(tmp_path / name, class_names=(f"covid{prefix}", f"other{prefix}"), prefix=prefix, num_images=40)
        )
        for name, prefix in (("plain", "p"), ("hostile", HOSTILE))
    ]
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    def structure(card: str) -> list[str]:
        kinds = []
        for token in parser.parse(card):
            kinds.append(token.type)
            kinds += [child.type for child in token.children or [] if child.type not in ("text", "text_special")]
        return kinds

    assert structure(cards[1]) == structure(cards[0])
    assert "<script" not in cards[1]
    assert not re.search(r"https?://|(?<!\\)\$|@", cards[1])
    # What was written is what is read.
    rendered = " ".join(child.content for token in parser.parse(cards[1]) for child in token.children or [])
    assert "<script>alert(1)</script>" in rendered


def test_an_empty_folder_gives_a_card_that_says_what_it_lacks(tmp_path: Path) -> None:
    card = read_card(RunDirectory(tmp_path))
    assert "No labelled image has been scored with this run." in card
    assert "The run holds no configuration." in card
    for checklist in statuses(card).values():
        assert {status for status, _ in checklist.values()} == {"needs a human", "missing"}


def test_judging_needs_all_of_the_evidence() -> None:
    item = next(item for item in TRIPOD_AI if item.number == "23a")
    assert judge([item], {"intervals": "here", "subgroups": "there"}) == [(item, "filled", "here; there")]
    assert judge([item], {"intervals": "here"})[0][1] == "missing"
