"""Can what a run writes be opened without anything from the data being run, followed or drawn as markup?"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.evaluation.drawn_run import draw_run
from tests.evaluation.written_runs import draw_records, draw_scores, end_run, write_run

from cxr.audit.audit import audit_records, write_audit
from cxr.audit.same_patient import Join
from cxr.evaluation.comparison.comparison import compare_runs
from cxr.evaluation.comparison.finished_runs import find_runs
from cxr.evaluation.comparison.page import write_page as write_comparison
from cxr.evaluation.comparison.table import write_tables
from cxr.evaluation.looks import record_look
from cxr.evaluation.predictions import predictions_table, write_predictions
from cxr.evaluation.protocols.optimism import Row
from cxr.evaluation.protocols.page import write_page as write_protocols
from cxr.evaluation.report.audit_page import write_audit_page
from cxr.evaluation.report.page import write_report
from cxr.sources.spreadsheet import defuse, restore, restored, to_csv
from cxr.training.artifacts import hashed_split

pytestmark = pytest.mark.fault

SIGNS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)><a href=javascript:x>&{{ 7*7 }}</style></title>"


def pairs(num_records: int) -> pd.DataFrame:
    rows = [(row, row + 1, "crop", 0.99, 0.5) for row in range(0, num_records - 1, 2)]
    return pd.DataFrame(rows, columns=["row_a", "row_b", "kind", "score", "scale"])


def hostile_records(text: str) -> pd.DataFrame:
    """What a source may bring, where a stranger chose all the names."""
    records = draw_records(24, images_per_patient=2)
    for column in ("image", "patient", "group", "source", "label"):
        records[column] = text + records[column]
    records["split"] = ["train", "test"] * 24
    records["view"] = "PA"
    return records


def audit_of(records: pd.DataFrame, folder: Path, **options: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    classes = sorted(records["label"].unique())
    joins = [Join(records["group"][0], (records["group"][0], records["group"][2]), (0,))]
    found = audit_records(
        records, pairs(len(records)), joins, classes, classes[0], folder, split_kind="holdout", shortcuts=False
    )
    write_audit(found, folder)
    return write_audit_page(found, folder, records, pairs(len(records)), folder, thumbnails=False)


def comparison_of(text: str, folder: Path) -> list[Path]:
    records = draw_records(40)
    runs = folder / "runs"
    for number in range(2):
        write_run(
            runs / f"{text.replace('/', '')[:60]}{number}",
            records,
            draw_scores(records, 1.0 + number, seed=number),
            settings={"model.name": f"{text}{number}"},
            entry={"warnings": [f"LEAK {text}"]},
        )
    end_run(runs / "failed", "failed", text)
    compared = compare_runs(find_runs([runs]), num_resamples=50)
    return [*write_tables(compared, folder), write_comparison(compared, folder)[0]]


def protocols_of(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [Row("group", None, reason=HOSTILE), Row("source", HOSTILE, reason=HOSTILE, notes=[HOSTILE])]
    write_protocols(rows, {HOSTILE: HOSTILE}, None, folder / "protocols.html")
    return folder / "protocols.html"


PAGES: dict[str, Callable[[Path], Path]] = {
    "report.html": lambda folder: write_report(
        draw_run(folder, class_names=(f"covid{HOSTILE}", f"other{HOSTILE}"), prefix=HOSTILE, num_images=40)
    ),
    "comparison.html": lambda folder: comparison_of(HOSTILE, folder)[-1],
    "audit.html": lambda folder: audit_of(hostile_records(HOSTILE), folder),
    "protocols.html": protocols_of,
}


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_shows_text_from_data_as_text_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    path = PAGES[kind](tmp_path / "out")
    assert path.name == kind
    page = Elements(path.read_text(encoding="utf-8"))
    assert "<script>alert(1)</script>" in page.words, "the hostile text is on the page, as text"
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base", "frame", "applet", "input", "button"}
    for _, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "xlink:href", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    heads = [attributes for tag, attributes in page.found if tag == "meta" and "http-equiv" in attributes]
    assert [head["http-equiv"] for head in heads] == ["Content-Security-Policy"]
    policy = dict(part.strip().split(" ", 1) for part in str(heads[0]["content"]).split(";"))
    assert policy["default-src"] == "'none'"
    assert not [name for name in policy if name.startswith("script")]
    before = [tag for tag, _ in page.found[: page.found.index(("meta", heads[0]))]]
    assert set(before) <= {"html", "head", "meta"}, "nothing is loaded before the policy holds"


def predictions_of(folder: Path, sign: str) -> list[Path]:
    records = hostile_records(sign)
    classes = sorted(records["label"].unique())
    scores = np.full((len(records), 2), 0.5, np.float32)
    table = predictions_table(records, scores, list(records["label"]), classes, 0.5)
    write_predictions(table, folder / "predictions.csv")
    return [folder / "predictions.csv"]


def looks_of(folder: Path, sign: str) -> list[Path]:
    path = folder / "looks.csv"
    record_look(path, split=f"{sign}ward", checkpoint=f"{sign}best.ckpt", checkpoint_sha256="a" * 64, num_images=3)
    return [path]


def split_of_a_tracked_run(folder: Path, sign: str) -> list[Path]:
    (folder / "split.csv").write_text(to_csv(hashed_split(hostile_records(sign), b"key")), encoding="utf-8")
    return [folder / "split.csv"]


def audited(folder: Path, sign: str) -> list[Path]:
    audit_of(hostile_records(sign), folder)
    return [folder / "leaks.csv", folder / "same_pictures.csv"]


def compared(folder: Path, sign: str) -> list[Path]:
    return [path for path in comparison_of(f"{sign}x;{sign}1", folder) if path.suffix == ".csv"]


TABLES: dict[str, Callable[[Path, str], list[Path]]] = {
    "predictions": predictions_of,
    "looks": looks_of,
    "leaks and same pictures": audited,
    "comparison": compared,
    "split of a tracked run": split_of_a_tracked_run,
}


# One sign is enough where runs have to be written and compared.
SIGNED = [("comparison", "=")] + [
    (kind, sign) for kind in TABLES if kind != "comparison" for sign in ("=", "+", "-", "@", "\t=", "\uff1d")
]


@pytest.mark.parametrize(("kind", "sign"), SIGNED, ids=ascii)
def test_no_cell_of_a_table_is_a_formula(tmp_path: Path, kind: str, sign: str) -> None:
    for path in TABLES[kind](tmp_path, sign):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) > 1
        assert any(sign in restore(cell) != cell for row in rows for cell in row), "the text is there, defused"
        for cell in (cell for row in rows for cell in row):
            if cell.startswith(tuple(SIGNS)):
                float(cell)  # a number, and nothing else


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    table = pd.DataFrame({"float": [-1.5, 2e-30], "whole": [-3, 4], "narrow": np.float32([-0.1, 0.7])})
    (tmp_path / "table.csv").write_text(to_csv(table), encoding="utf-8")
    back = pd.read_csv(tmp_path / "table.csv", float_precision="round_trip")
    assert back["float"].tolist() == [-1.5, 2e-30]
    assert back["whole"].tolist() == [-3, 4]
    assert back["narrow"].astype(np.float32).tolist() == table["narrow"].tolist()


def test_every_text_is_read_back_as_it_was() -> None:
    texts = ["".join(letters) for size in range(6) for letters in product("'=;\ta", repeat=size)]
    assert [restore(defuse(text)) for text in texts] == texts
    for text in texts:
        for cell in re.split(r"[;\t]", defuse(text)):
            assert not cell.startswith("="), text
    table = pd.DataFrame({"=;+a": texts})
    assert restored(pd.DataFrame({"'=;'+a": list(map(defuse, texts))})).equals(table)
