"""Are the numbers of a report those that were measured?"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest
from tests.evaluation.drawn_run import edit_entry
from tests.evaluation.report.parsed_page import Page, metrics, report

from cxr.errors import ConfigurationError
from cxr.evaluation.report.page import write_report
from cxr.evaluation.words import ABSENT, Estimate, verdict
from cxr.training.run_directory import RunDirectory


def test_the_numbers_are_those_of_metrics_json_to_the_digits_that_are_shown(drawn: RunDirectory, page: Page) -> None:
    by_title = {"AUROC": "auroc", "average precision": "average_precision", "MCC": "mcc", "Brier score": "brier"}
    for table, name in zip(page.tables[1:4], ("test", "val", "hospital_b"), strict=True):
        entry = metrics(drawn)[name]
        rows = {row[0]: row for row in table[1:]}
        assert len(rows) == 12
        for title, key in by_title.items():
            held = entry[key]
            baseline = ABSENT if held["baseline"] is None else f"{held['baseline']:.3f}"
            assert rows[title][1] == f"{held['value']:.3f}"
            assert rows[title][2] == f"{held['low']:.3f} to {held['high']:.3f}"
            assert rows[title][4] == baseline
            assert rows[title][6:] == [f"{held['n']} of {held['n_patients']}", held["method"]]


def test_confusion_is_shown_in_counts_and_rates(drawn: RunDirectory, page: Page) -> None:
    table = next(table for table in page.tables if table[0][0] == "actual")
    counts = metrics(drawn)["test"]["confusion_matrix"]["counts"]
    for row, line in zip(table[1:], counts, strict=True):
        assert row[1:] == [*(f"{n} ({100 * n / sum(line):.1f} %)" for n in line), str(sum(line))]


def test_every_row_is_accounted_for(drawn: RunDirectory, page: Page) -> None:
    table = next(table for table in page.tables if table[1][0] == "rows read")
    amounts = {row[0]: int(row[1]) for row in table[1:]}
    assert amounts.pop("rows read") == sum(amounts.values())
    assert amounts["kept"] == len(pd.read_csv(drawn.split_path))
    assert amounts["dropped: view"] == 4


def test_patients_are_counted_once_in_the_table_of_who_was_imaged(drawn: RunDirectory, page: Page) -> None:
    table = {row[0]: row for row in next(table for table in page.tables if table[1][0].startswith("sex"))}
    split = pd.read_csv(drawn.split_path)
    test = split[split["split"] == "test"].drop_duplicates("group")
    females = int((test["sex"] == "F").sum())
    assert table["sex F"][3] == f"{females} ({100 * females / len(test):.1f} %)"
    known = test["age"].dropna()
    assert table["under 18"][3].startswith(f"{int((known < 18).sum())} (")
    images = split[split["split"] == "test"]
    assert table["view AP"][3].startswith(f"{int((images['view'] == 'AP').sum())} (")


def test_subgroups_are_shown_as_they_were_measured(drawn: RunDirectory, page: Page) -> None:
    rows = [row for row in metrics(drawn)["test"]["subgroups"] if (row["column"], row["metric"]) == ("sex", "auroc")]
    table = next(table for table in page.tables if table[0][0] == "sex" and "AUROC" in table[0])
    assert [line[0] for line in table[1:]] == [row["value"] for row in rows]
    for line, row in zip(table[1:], rows, strict=True):
        estimate, difference = row["estimate"], row["difference"]
        assert line[1:4] == [str(row[key]) for key in ("n", "patients", "positives")]
        if estimate["value"] is None:
            assert line[4:7] == [ABSENT, ABSENT, ""]
            assert line[9] == estimate["reason"]
        else:
            assert line[4:6] == [f"{estimate['value']:.3f}", f"{estimate['low']:.3f} to {estimate['high']:.3f}"]
        if difference["value"] is None:
            assert line[7] == ABSENT
            assert difference["reason"] in line[9]
        else:
            assert line[7].replace("\N{MINUS SIGN}", "-").startswith(f"{difference['value']:.3f} (")
    assert re.search(r"\d+ comparisons of a subgroup with the rest", page.text)
    assert "the same for every image" in page.text  # the source, on which nothing can depend


def test_what_the_label_depends_on_is_said_of_all_splits_together_before_each(run: RunDirectory) -> None:
    text = report(run).text
    section = text[text.index("Where a column differs between the classes") :]
    held = metrics(run)["test"]["dependence_of_run"]
    for row in held:
        assert f"{row['verdict']}." in section
    assert section.index("All splits together") < section.index("Test split")

    planted = next(row for row in held if row["column"] == "view")
    edit_entry(run, "test", dependence=[row for row in metrics(run)["test"]["dependence"] if row["column"] != "view"])
    shown = report(run)
    before = shown.text[: shown.text.index("What was found")]
    assert f"All splits together, {planted['verdict']}. That is a " in before
    edit_entry(run, "test", dependence_of_run=None)
    edit_entry(run, "val", dependence_of_run=None)
    assert "All splits together" not in report(run).text


def test_operating_points_are_shown_with_what_they_give_here_and_gave_where_they_were_chosen(
    drawn: RunDirectory, page: Page
) -> None:
    points = metrics(drawn)["test"]["operating_points"]
    table = next(table for table in page.tables if table[0][:2] == ["rule", "threshold"])
    for line, point in zip(table[1:], points, strict=True):
        held = point["sensitivity"]
        assert line[:2] == [point["name"], f"{point['threshold']:.3f}"]
        assert line[2] == f"{held['value']:.3f} ({held['low']:.3f} to {held['high']:.3f})"
        assert line[6] == f"{point['on_choice']['sensitivity']:.3f} / {point['on_choice']['specificity']:.3f}"
    stated = next(table for table in page.tables if table[0][:2] == ["rule", "prevalence"])
    assert stated[1][1] == "2.0 %"
    assert stated[1][2].startswith(f"{points[0]['ppv_at_prevalence']['value']:.3f} (")


def test_calibration_is_shown_before_and_after_with_what_it_would_be_by_chance(drawn: RunDirectory, page: Page) -> None:
    held = metrics(drawn)["test"]["calibration"]
    table = next(table for table in page.tables if "if calibrated" in table[0])
    line = next(line for line in table if line[0].startswith("calibration error, bins of equal mass"))
    for cell, stage in zip(line[1:3], ("before", "after"), strict=True):
        assert cell.startswith(f"{held[stage]['ece_equal_mass']['value']:.3f} (")
    assert line[3] == f"{held['after']['ece_equal_mass']['expected']:.3f}"
    assert "Temperature scaling, T = 1.370, fitted on the validation split." in page.text


def test_folds_and_ensembles_are_said(run: RunDirectory) -> None:
    entry = metrics(run)["test"]
    edit_entry(run, "test", folds={"0": entry, "1": entry}, networks=2, tta="flip")
    shown = report(run)
    table = next(table for table in shown.tables if table[0][0] == "fold")
    assert [line[0] for line in table[1:]] == ["0", "1"]
    assert table[1][2].startswith(f"{entry['auroc']['value']:.3f} (")
    assert "The answers of 2 networks." in shown.text
    assert "tta=flip" in shown.text


@pytest.mark.parametrize(
    ("auroc", "said"),
    [
        ({"value": 0.6, "low": 0.45, "high": 0.74}, "Not shown to be better than chance: the interval contains it."),
        ({"value": 0.8, "low": 0.71, "high": 0.88}, "Better than chance"),
        ({"value": 0.3, "low": 0.2, "high": 0.4}, "Worse than chance"),
        ({"value": 0.8, "low": None, "high": None, "reason": "one patient"}, "Without an interval (one patient)"),
        ({"value": None, "low": None, "high": None, "reason": "no image of class covid"}, "the AUROC is undefined"),
    ],
)
def test_the_headline_says_in_plain_words_what_is_shown(run: RunDirectory, auroc: dict[str, Any], said: str) -> None:
    edit_entry(run, "test", auroc={"n": 40, "baseline": 0.5, "method": "DeLong", **auroc})
    assert said in report(run).text


def test_a_score_that_should_be_low_is_better_below_its_baseline() -> None:
    below = {"value": 0.1, "low": 0.05, "high": 0.15, "baseline": 0.2}
    assert verdict(Estimate("brier", **below)) == "better"
    assert verdict(Estimate("accuracy", **below)) == "worse"
    assert verdict(Estimate("brier", 0.1, 0.05, 0.25, 0.2)) == "not shown to be better"
    # A constant answer has a sensitivity of 1: to lie below it is no fault.
    assert verdict(Estimate("sensitivity", 0.9, 0.8, 0.95, 1.0)) == ABSENT


def test_without_a_test_entry_the_headline_says_so_and_what_validation_is_worth(run: RunDirectory) -> None:
    shown = report(run, names=["val"])
    assert "The test split has not been scored. The checkpoint was chosen on these images" in shown.text
    assert "hospital_b" not in [text for _, text in shown.headings]


def test_a_name_that_was_not_evaluated_is_refused(run: RunDirectory) -> None:
    with pytest.raises(ConfigurationError, match=r"'ward'.*val, test, hospital_b"):
        write_report(run, names=["ward"])
