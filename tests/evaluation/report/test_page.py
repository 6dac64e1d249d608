from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.evaluation.drawn_run import draw_run, edit_entry

from cxr.errors import ConfigurationError
from cxr.evaluation.report.mistakes import Mistake, find_mistakes
from cxr.evaluation.report.page import write_report
from cxr.evaluation.words import ABSENT, Estimate, verdict, visible
from cxr.training.run_directory import RunDirectory

VOID = {"meta", "link", "img", "line", "circle", "br", "hr"}
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>' & {{ 7*7 }} </style>\u202e\u200b\x07"


class Page(HTMLParser):
    """A parsed page: its elements in order, the text below each kind of heading, its tables."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        data = data.replace("\xa0", " ")
        self.texts.append(data)
        if self._open and any(re.fullmatch("h[1-6]", tag) for tag in self._open):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data.strip("\n")

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    @property
    def sections(self) -> list[str]:
        return [text for level, text in self.headings if level == 2]

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == "img"]


def report(run: RunDirectory, **settings: Any) -> Page:
    return Page(write_report(run, **settings).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Never written to but for its report."""
    return draw_run(tmp_path_factory.mktemp("drawn") / "run")


@pytest.fixture(scope="module")
def page(drawn: RunDirectory) -> Page:
    return report(drawn)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Never written to, see `run`."""
    return draw_run(tmp_path_factory.mktemp("small") / "run", num_images=40)


@pytest.fixture
def run(small: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A small run that a test may write to."""
    return RunDirectory(Path(shutil.copytree(small.path, tmp_path / "run")))


def metrics(run: RunDirectory) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.metrics_path.read_text(encoding="utf-8"))
    return content


def with_pixels(run: RunDirectory, name: str) -> list[Mistake]:
    found = find_mistakes(pd.read_csv(run.predictions_dir / f"{name}.csv"))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    return [replace(mistake, pixels=pixels) for mistake in found]


# ------------------------------------------------------------------------------------------------------- one page


def test_the_page_needs_nothing_but_itself(drawn: RunDirectory, page: Page) -> None:
    text = write_report(drawn).read_text(encoding="utf-8")
    assert not re.search(r"<script|https?://|@import|url\(|javascript:|\son\w+=", text, re.IGNORECASE)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    policy = [attributes["content"] for _, attributes in page.elements if attributes.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_every_figure_is_embedded_whole_with_its_size_and_a_description(drawn: RunDirectory, page: Page) -> None:
    embedded = set()
    for image in page.images():
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        content = base64.b64decode(data, validate=True)
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.width / picture.height == pytest.approx(
                int(str(image["width"])) / int(str(image["height"])), rel=0.02
            )
        assert image["alt"]
        embedded.add(content)
    assert embedded == {path.read_bytes() for path in drawn.figures_dir.glob("*.png")}
    auroc = metrics(drawn)["test"]["auroc"]["value"]
    assert any(f"Test split; AUROC {auroc:.3f}" in str(image["alt"]) for image in page.images())


def test_the_page_can_be_read_by_a_machine_that_reads_aloud(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        target = attributes.get("aria-labelledby") or str(attributes.get("href") or "#warnings").removeprefix("#")
        assert target in ids or target == "data:,"
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.elements if tag == "th")
    assert ("html", {"lang": "en"}) in page.elements
    for table in page.tables:
        assert len({len(row) for row in table}) == 1


def test_warnings_come_first_then_the_headline_then_the_rest_in_order(page: Page) -> None:
    assert page.sections == [
        "Warnings",
        "What was found",
        "Metrics",
        "Data",
        "Classes in each split",
        "Training",
        "Confusion",
        "ROC and precision-recall",
        "Calibration",
        "Operating points",
        "Subgroups",
        "What the label depends on",
        "What it needs of the picture",
        "Where the network looks",
        "Most confident mistakes",
        "Looks",
        "Configuration",
        "Versions",
    ]
    assert page.text.index("Warnings") < page.text.index("AUROC")


def test_test_comes_before_validation_and_that_before_other_collections(page: Page) -> None:
    of_metrics = [text for level, text in page.headings if level == 3][:4]
    assert of_metrics == ["Side by side", "Test split", "Validation split", "hospital_b"]
    assert page.tables[0][0][1:] == [
        "Test split (internal)",
        "Validation split (internal)",
        "hospital_b (other collection)",
    ]


# -------------------------------------------------------------------------------------------------------- numbers


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


# ------------------------------------------------------------------------------------------------------- warnings


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


# ------------------------------------------------------------------------------------------ text that comes from data


def test_text_from_data_changes_no_element_of_the_page(tmp_path: Path) -> None:
    plain = draw_run(tmp_path / "plain", names=("val", "test", "ward"), num_images=40)
    name = "x'><img src=x onerror=alert(1)><!-- "
    hostile = draw_run(
        tmp_path / "hostile",
        class_names=(f"covid{HOSTILE}", f"other{HOSTILE}\r\n"),
        names=("val", "test", name),
        num_images=40,
        prefix=HOSTILE,
    )
    first, second = (report(run, mistakes={"test": with_pixels(run, "test")}) for run in (plain, hostile))

    def structure(page: Page) -> list[tuple[str, tuple[str, ...]]]:
        # The class says which names are long.
        return [(tag, tuple(name for name in attributes if name != "class")) for tag, attributes in page.elements]

    assert structure(second) == structure(first)
    text = (hostile.path / "report.html").read_text(encoding="utf-8")
    assert not set("\u202e\u200b\x07") & set(text)
    assert second.headings[0][1] == f"covid{visible(HOSTILE)} against other{visible(HOSTILE)}\\r\\n"


def test_hidden_characters_are_written_out_and_letters_of_other_scripts_are_not() -> None:
    assert visible("a\u202eb\n") == "a\\u202eb\\n"
    persian = "\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645"
    assert visible(f"{persian} é 胸") == f"{persian} é 胸"


# ---------------------------------------------------------------------------------------------- what is not there


def assert_no_section_is_empty(page: Page) -> None:
    places = [place for place, (tag, _) in enumerate(page.elements) if tag == "h2"]
    for start, end in zip(places, [*places[1:], len(page.elements)], strict=True):
        assert {"td", "img", "li", "p", "pre"} & {tag for tag, _ in page.elements[start:end]}
    for table in page.tables:
        assert len(table) > 1


def test_an_older_entry_gives_no_empty_section_and_says_what_it_lacks(run: RunDirectory) -> None:
    old = {"calibration", "operating_points", "subgroups", "dependence", "saliency", "shortcuts", "looks"}
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


# ------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_those_with_the_highest_probability_of_a_wrong_class() -> None:
    table = pd.DataFrame(
        {
            "image": ["a", "b", "c", "d", "e"],
            "patient": ["1", "2", "3", None, "5"],
            "source": "s",
            "label": ["covid", "other", None, "other", "covid"],
            "prob_covid": [0.3, 0.99, 0.999, 0.6, 0.9],
            "prob_other": [0.7, 0.01, 0.001, 0.4, 0.1],
            "predicted": ["other", "covid", "covid", "covid", "covid"],
        }
    )
    found = find_mistakes(table)
    assert [(each.image, each.patient, each.probability, each.row) for each in found] == [
        ("b", "2", 0.99, 1),
        ("a", "1", 0.7, 0),
        ("d", "", 0.6, 3),
    ]
    assert [each.image for each in find_mistakes(table, number=1)] == ["b"]


def test_thumbnails_are_shown_and_stay_for_the_next_report(run: RunDirectory) -> None:
    mistakes = with_pixels(run, "test")
    given = report(run, mistakes={"test": mistakes})
    radiographs = [image for image in given.images() if str(image["alt"]).startswith("Radiograph")]
    assert len(radiographs) == len(mistakes) > 0
    data = base64.b64decode(str(radiographs[0]["src"]).partition(",")[2])
    with Image.open(io.BytesIO(data)) as shown:
        assert np.array_equal(np.asarray(shown), mistakes[0].pixels)
    later = report(run)
    assert [image for image in later.images() if str(image["alt"]).startswith("Radiograph")] == radiographs


def test_thumbnails_can_be_switched_off_and_no_radiograph_is_left(run: RunDirectory) -> None:
    report(run, mistakes={"test": with_pixels(run, "test")})
    shown = report(run, mistakes={"test": with_pixels(run, "test")}, thumbnails=False)
    assert not [image for image in shown.images() if re.match("Radiograph|Grad-CAM", str(image["alt"]))]
    assert "Radiographs were left out of this page." in shown.text
    assert with_pixels(run, "test")[0].image in shown.text


def test_large_images_are_made_small(run: RunDirectory) -> None:
    large = replace(with_pixels(run, "test")[0], pixels=np.zeros((900, 1200), np.uint8))
    shown = report(run, mistakes={"test": [large]})
    radiograph = next(image for image in shown.images() if str(image["alt"]).startswith("Radiograph"))
    assert (radiograph["width"], radiograph["height"]) == ("256", "192")


def test_a_second_report_replaces_the_first_and_leaves_nothing_else(run: RunDirectory) -> None:
    write_report(run)
    before = {path.name for path in run.path.iterdir()}
    assert write_report(run, names=["test"]) == run.path / "report.html"
    assert {path.name for path in run.path.iterdir()} == before


# ------------------------------------------------------------------------------------------------- altered pictures


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
