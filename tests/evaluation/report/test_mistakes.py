"""Which wrong answers are shown, and are their pictures there only where they may be?"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image
from tests.evaluation.report.parsed_page import report, with_pixels

from cxr.evaluation.report.mistakes import find_mistakes
from cxr.evaluation.report.page import write_report
from cxr.training.run_directory import RunDirectory


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
