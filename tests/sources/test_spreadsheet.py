"""Can no cell of a table start a formula, and is every text read back as it was?"""

from __future__ import annotations

import csv
import io
from itertools import product

import numpy as np
import pandas as pd
import pytest

from cxr.sources.spreadsheet import defuse, restore, restored, to_csv

STARTS = "=+-@\t\r\n"  # OWASP, "CSV injection"
TEXTS = [*("".join(letters) for size in range(4) for letters in product("'=-\ta", repeat=size)), *STARTS, "-1", "007"]


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str, na_filter=False)


@pytest.mark.parametrize("start", STARTS)
def test_no_text_begins_like_a_formula(start: str) -> None:
    for text in (start, f"{start}1+1", f'{start}HYPERLINK("http://x")'):
        assert defuse(text)[0] == "'"
        assert restore(defuse(text)) == text


def test_every_text_is_read_back_and_no_two_become_one() -> None:
    assert [restore(defuse(text)) for text in TEXTS] == TEXTS
    assert len({defuse(text) for text in TEXTS}) == len(set(TEXTS))
    assert [defuse(text) for text in ("plain", "it's", "'quoted'", "")] == ["plain", "it's", "'quoted'", ""]


def test_a_table_is_read_back_and_its_numbers_are_numbers() -> None:
    table = pd.DataFrame({"=name": TEXTS, "-1": "a\r\nb", "mixed": [-2, *TEXTS[1:]]}, dtype=object)
    table["number"] = -np.arange(len(table)) / 7
    text = to_csv(table)
    for row in list(csv.reader(io.StringIO(text, newline=""))):
        for cell in row:
            assert not cell.startswith(tuple(STARTS)) or isinstance(float(cell), float), cell
    back = restored(read(text))
    assert list(back.columns) == list(table.columns)
    assert back["=name"].tolist() == TEXTS
    assert back["-1"].tolist() == table["-1"].tolist()
    assert back["mixed"].tolist() == ["-2", *TEXTS[1:]]
    assert back["number"].astype(float).tolist() == table["number"].tolist()


def test_a_cell_that_holds_nothing_stays_empty() -> None:
    table = pd.DataFrame({"label": [None, "=x", np.nan], "age": [1.5, np.nan, 3.0]})
    assert read(to_csv(table)).to_numpy().tolist() == [["", "1.5"], ["'=x", ""], ["", "3.0"]]
