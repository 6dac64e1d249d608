"""Is it said what the network keeps of its AUROC on altered pictures?"""

from __future__ import annotations

from tests.evaluation.drawn_run import edit_entry
from tests.evaluation.report.parsed_page import Page, report

from cxr.training.run_directory import RunDirectory


def test_what_the_network_keeps_is_a_sentence_a_table_and_a_warning(page: Page) -> None:
    assert "The network keeps 0.71 of its AUROC above chance without lungs." in page.text
    rows = [row for table in page.tables for row in table if row[0] == "without lungs"]
    assert len(rows) == 3  # one for each split and collection
    assert rows[0][2] == "0.710 (0.610 to 0.810)"
    assert rows[0][-1] == "shortcut"
    assert "a shortcut: the network keeps 0.71 of its AUROC above chance without lungs" in page.text


def test_of_what_was_not_asked_nothing_is_said(run: RunDirectory) -> None:
    for name in ("val", "test", "hospital_b"):
        edit_entry(run, name, shortcuts=None)
    shown = report(run)
    assert "What it needs of the picture" not in shown.sections
    edit_entry(run, "test", shortcuts={"images": 3, "of": 3, "patients": 2, "rows": [], "reason": "no image of covid"})
    assert "3 of 3 images, 2 patients: no image of covid." in report(run).text
