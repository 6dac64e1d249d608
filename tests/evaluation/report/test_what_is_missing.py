"""Does a report that lacks something say so, and show the rest?"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.evaluation.drawn_run import draw_run, edit_entry
from tests.evaluation.report.parsed_page import Page, metrics, report

from cxr.training.run_directory import RunDirectory


def assert_no_section_is_empty(page: Page) -> None:
    places = [place for place, (tag, _) in enumerate(page.elements) if tag == "h2"]
    for start, end in zip(places, [*places[1:], len(page.elements)], strict=True):
        assert {"td", "img", "li", "p", "pre"} & {tag for tag, _ in page.elements[start:end]}
    for table in page.tables:
        assert len(table) > 1


def test_an_older_entry_gives_no_empty_section_and_says_what_it_lacks(run: RunDirectory) -> None:
    old = {"calibration", "operating_points", "subgroups", "dependence", "dependence_of_run", "saliency"}
    old |= {"shortcuts", "looks"}
    for name, entry in metrics(run).items():
        edit_entry(run, name, **dict.fromkeys(old))
        changed = {
            key: {"value": held["value"], "n": held["n"], "baseline": held["baseline"]}
            for key, held in entry.items()
            if isinstance(held, dict) and "baseline" in held
        }
        edit_entry(run, name, **changed)
        for kind in ("reliability", "subgroups", "saliency_false_positives", "roc"):
            (run.figures_dir / f"{name}_{kind}.png").unlink()
    shown = report(run)
    assert_no_section_is_empty(shown)
    assert not {"Calibration", "Operating points", "Subgroups", "What the label depends on"} & set(shown.sections)
    assert shown.sections[-1] == "Not on this page"
    for said in ("No calibration of Test split", "No subgroups of hospital_b", "No saliency of Validation split"):
        assert said in shown.text
    assert "No intervals: this entry was written by an older evaluation." in shown.text
    assert "no interval" in shown.text


def test_a_folder_with_nothing_in_it_gives_a_page_that_says_so(tmp_path: Path) -> None:
    shown = report(RunDirectory(tmp_path))
    assert_no_section_is_empty(shown)
    assert "No labelled image has been scored with this run" in shown.text
    for name in ("config.yaml", "split.csv", "dropped.csv", "history.csv", "looks.csv", "status.json"):
        assert f"{name} is not in the run." in shown.text


@pytest.mark.parametrize("content", [b'"\x00\xff{: [', b"", b"a,b\n1,2,3\n", b"[1]"])
def test_files_that_are_damaged_cost_no_more_than_their_own_parts(run: RunDirectory, content: bytes) -> None:
    for path in run.path.iterdir():
        if path.is_file() and path.name != "metrics.json":
            path.write_bytes(content)
    for path in (*run.figures_dir.iterdir(), *run.predictions_dir.iterdir()):
        path.write_bytes(content)
    shown = report(run)
    assert_no_section_is_empty(shown)
    assert {"Metrics", "Confusion", "Calibration", "Subgroups"} <= set(shown.sections)
    assert shown.images() == []


def test_a_damaged_figure_is_named_and_left_out(run: RunDirectory) -> None:
    before = len(report(run).images())
    (run.figures_dir / "test_roc.png").write_bytes(b"<svg onload='alert(1)'>")
    shown = report(run)
    assert_no_section_is_empty(shown)
    assert len(shown.images()) == before - 1
    assert "figures/test_roc.png is no PNG that can be read." in shown.text


def test_images_of_one_class_have_no_curves_and_the_reason(run: RunDirectory) -> None:
    entry = metrics(run)["hospital_b"]
    undefined = {
        "value": None,
        "low": None,
        "high": None,
        "n": 40,
        "baseline": None,
        "reason": "no image of class covid",
    }
    edit_entry(run, "hospital_b", auroc=undefined, counts=entry["counts"] | {"positives": 0})
    for kind in ("roc", "precision_recall"):
        (run.figures_dir / f"hospital_b_{kind}.png").unlink()
    text = report(run).text
    assert "No ROC and no precision-recall curve of hospital_b: no image of class covid." in text


def test_figures_of_a_kind_that_is_not_known_are_shown_too(run: RunDirectory) -> None:
    (run.figures_dir / "test_roc.png").rename(run.figures_dir / "test_novelty.png")
    shown = report(run)
    assert "Further figures" in shown.sections
    assert any(str(image["alt"]) == "novelty, Test split" for image in shown.images())


def test_a_figure_belongs_to_the_collection_whose_whole_name_it_begins_with(tmp_path: Path) -> None:
    run = draw_run(tmp_path / "run", names=("test", "test_b"), num_images=40)
    for image in report(run, names=["test"]).images():
        assert "test_b" not in str(image["alt"])
