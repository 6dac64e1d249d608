"""Is a report one page that needs nothing but itself and can be read?"""

from __future__ import annotations

import base64
import io
import re
from itertools import pairwise

import pytest
from PIL import Image
from tests.evaluation.report.parsed_page import Page, metrics

from cxr.evaluation.report.page import write_report
from cxr.training.run_directory import RunDirectory


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
