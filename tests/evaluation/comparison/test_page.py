"""Does the page show everything, stand alone, and treat every text from data as text?"""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tests.evaluation.written_runs import draw_records, draw_scores, end_run, write_run

from cxr.evaluation.comparison.comparison import Comparison, compare_runs
from cxr.evaluation.comparison.finished_runs import find_runs
from cxr.evaluation.comparison.page import write_page
from cxr.evaluation.comparison.table import comparison_tables, show_seconds, write_tables

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data


def compared(tmp_path: Path) -> Comparison:
    return compare_runs(find_runs([tmp_path]), num_resamples=100)


def sweep(tmp_path: Path) -> Comparison:
    records = draw_records(40, images_per_patient=2)
    number = 0
    for lr in (0.1, 0.001):
        for size in (64, 96):
            for seed in (0, 1):
                write_run(
                    tmp_path / str(number),
                    records,
                    draw_scores(records, 1.0 + 2 * (lr == 0.001), seed=number),
                    settings={"optimizer.lr": lr, "data.image_size": size, "seed": seed},
                )
                number += 1
    end_run(tmp_path / "8", "diverged", "the loss is not finite", settings={"optimizer.lr": 10.0})
    return compared(tmp_path)


def test_the_page_stands_alone_and_holds_every_section(tmp_path: Path) -> None:
    written = write_page(sweep(tmp_path / "runs"), tmp_path / "out")
    source = written[0].read_text(encoding="utf-8")
    page = Page(source)
    assert [path.name for path in written] == [
        "comparison.html",
        "main_effects_auroc.png",
        "parallel_coordinates_auroc.png",
    ]
    headings = ["Configurations", "Differences", "What the settings do", "All metrics", "Runs", "Not compared"]
    assert all(f">{heading}</h2>" in source for heading in headings)
    assert not [
        tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object") and _.get("href") != "data:,"
    ]
    addresses = [value or "" for _, given in page.tags for key, value in given.items() if key in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|https?://", source)
    assert sum(tag == "img" and bool(given.get("alt")) for tag, given in page.tags) == 2
    assert "the loss is not finite" in page.text
    assert "n = 2" in page.text, "seeds are averaged"
    assert "no difference shown" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text


def test_text_from_data_is_escaped_on_the_page(tmp_path: Path) -> None:
    records = draw_records(40)
    write_run(tmp_path / "a<b", records, draw_scores(records, 2.0, seed=0), settings={"model.name": HOSTILE})
    write_run(
        tmp_path / "c",
        records,
        draw_scores(records, 2.0, seed=1),
        settings={"model.name": "\u202e{{ 7*7 }}"},
        entry={"warnings": [f"LEAK {HOSTILE}"]},
    )
    end_run(tmp_path / "d", "failed", f'bad "{HOSTILE}"')
    page = write_page(compared(tmp_path), tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
    assert "a&lt;b" in page
    assert "{{ 7*7 }}" in page
    assert "\u202e" not in page, "what turns the direction of reading is written out"


def test_text_from_data_is_no_markup_on_the_terminal(tmp_path: Path) -> None:
    records = draw_records(40)
    for number, name in enumerate(("[bold]x[/bold]", "\x1b[31mred")):
        write_run(
            tmp_path / str(number), records, draw_scores(records, 2.0, seed=number), settings={"model.name": name}
        )
    console = Console(width=250, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(comparison_tables(compared(tmp_path)))
    assert "[bold]x[/bold]" in capture.get()
    assert "\x1b" not in capture.get()


def test_tables_are_safe_for_spreadsheets_and_numbers_stay_numbers(tmp_path: Path) -> None:
    records = draw_records(40)
    write_run(tmp_path / "=1+1", records, draw_scores(records, 1.0, seed=0), settings={"model.name": "=cmd()"})
    write_run(
        tmp_path / "+2", records, draw_scores(records, 3.0, seed=1), settings={"model.name": "@x", "trainer.gpus": -1}
    )
    end_run(tmp_path / "-3", "failed", "-no")
    paths = write_tables(compared(tmp_path), tmp_path)
    assert [path.name for path in paths] == ["comparison.csv", "comparison_configurations.csv", "comparison_tests.csv"]
    rows = {}
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            rows[path.stem] = list(csv.DictReader(file))
        for row in rows[path.stem]:
            for cell in row.values():
                dangerous = cell.startswith(("=", "+", "-", "@", "\t", "\r"))
                assert not dangerous or isinstance(float(cell), float), cell
    assert {row["run"] for row in rows["comparison"]} == {"'=1+1", "'+2", "'-3"}
    failed = next(row for row in rows["comparison"] if row["run"] == "'-3")
    assert (failed["status"], failed["not_compared_because"]) == ("failed", "'-no")
    best = next(row for row in rows["comparison"] if row["configuration"] == "1")
    assert (best["model.name"], best["trainer.gpus"], best["epochs"], best["seconds"]) == ("'@x", "-1", "3", "7.5")
    assert float(best["auroc_low"]) < float(best["auroc"]) < float(best["auroc_high"])
    assert {row["metric"] for row in rows["comparison_tests"]} == {"auroc", "accuracy"}
    assert rows["comparison_configurations"][0]["run_names"] == "'+2"


def test_a_class_and_a_patient_that_look_like_formulas_are_compared_all_the_same(tmp_path: Path) -> None:
    records = draw_records(40)
    records["label"] = records["label"].map({"covid": "=covid", "other": "-other"})
    records["image"] = "=" + records["image"]
    scores = draw_scores(records.assign(label=records["label"].str.slice(1)), 2.0, seed=0)
    for number in range(2):
        write_run(
            tmp_path / str(number),
            records,
            scores,
            class_names=("=covid", "-other"),
            settings={"optimizer.lr": 0.1 * (number + 1)},
        )
    found = compared(tmp_path)
    assert found.excluded == []
    assert "matched by the SHA-256" in found.matching
    assert found.tests[0].difference.num_images == 40


def test_the_size_of_each_network_is_shown_where_its_evaluation_recorded_it(tmp_path: Path) -> None:
    records = draw_records(40)
    sizes = {"large": 23_512_130, "small": 4210, "early": None}
    for number, (name, size) in enumerate(sizes.items()):
        entry = {} if size is None else {"parameters": size}
        scores = draw_scores(records, 2.0, seed=number)
        write_run(tmp_path / name, records, scores, settings={"model.name": name}, entry=entry)
    found = compared(tmp_path)
    console = Console(width=250, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(comparison_tables(found))
    page = Page(write_page(found, tmp_path / "out")[0].read_text(encoding="utf-8"))
    for text in (capture.get(), page.text):
        assert "parameters" in text
        assert "23.5 million" in text
        assert "4,210" in text
    with write_tables(found, tmp_path / "out")[0].open(newline="", encoding="utf-8") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert {name: row["parameters"] for name, row in rows.items()} == {
        "large": "23512130",
        "small": "4210",
        "early": "",
    }


def test_undefined_metrics_say_why(tmp_path: Path) -> None:
    records = draw_records(40)
    never = np.tile(np.array([[0.1, 0.9]], dtype=np.float32), (40, 1))
    undefined = {"value": None, "low": None, "high": None, "n": 0, "reason": "no image was called covid"}
    write_run(tmp_path / "0", records, never, entry={"ppv": undefined})
    page = write_page(compared(tmp_path), tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "PPV (no image was called covid) undefined for 1" in page


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "\u2013"), (48.4, "48 s"), (720, "12 min"), (3 * 3600 + 290, "3 h 05 min")]
)
def test_wall_time_in_words(seconds: float | None, shown: str) -> None:
    assert show_seconds(seconds) == shown
