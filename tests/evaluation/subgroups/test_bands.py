from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.errors import ConfigurationError
from cxr.evaluation.subgroups.bands import MAX_VALUES, bands_of


def banded(cells: list[Any], column: str = "x") -> list[str | None]:
    """The name of the band of each cell."""
    bands = bands_of(pd.DataFrame({column: pd.Series(cells, dtype=object)}), column)
    return [None if code < 0 else bands.names[code] for code in bands.codes]


def test_ages_fall_into_bands_that_begin_at_their_first_year() -> None:
    assert banded([0.0, 17.99, 18.0, 39.5, 40.0, 59.9, 60, 79.99, 80, 120.0], "age") == [
        *["under 18"] * 2,
        *["18-39"] * 2,
        *["40-59"] * 2,
        *["60-79"] * 2,
        *["80 and over"] * 2,
    ]


def test_every_age_band_is_named_also_where_it_holds_nobody() -> None:
    bands = bands_of(pd.DataFrame({"age": [45.0, 50.0]}), "age")
    assert bands.names == ["under 18", "18-39", "40-59", "60-79", "80 and over"]


def test_impossible_ages_are_missing_and_said_to_be() -> None:
    frame = pd.DataFrame({"age": [45.0, 412.0, -1.0, np.nan]})
    assert banded([45.0, 412.0, -1.0, np.nan], "age") == ["40-59", None, None, None]
    assert bands_of(frame, "age").note == "ages outside 0 to 120 years, counted as missing: 2"


@pytest.mark.parametrize("empty", [None, np.nan, pd.NA, pd.NaT, "", "  ", float("inf")])
def test_empty_cells_are_missing(empty: Any) -> None:
    assert banded(["M", empty, "F", "M"]) == ["M", None, "F", "M"]


def test_a_column_of_a_typed_frame_is_read_as_well() -> None:
    frame = pd.DataFrame(
        {"sex": pd.array(["M", None, "F"], dtype="string"), "n": pd.array([1, None, 2], dtype="Int64")}
    )
    assert bands_of(frame, "sex").codes.tolist() == [1, -1, 0]
    assert bands_of(frame, "n").names == ["1", "2"]


def test_few_numbers_stand_for_themselves_in_their_order() -> None:
    bands = bands_of(pd.DataFrame({"x": [10.0, 2.0, 10.0, 10.0, 1.0]}), "x")
    assert bands.names == ["1", "2", "10"]


def test_many_numbers_are_cut_into_quarters_whose_names_are_true() -> None:
    values = np.random.default_rng(0).gamma(2.0, 30.0, 400)
    names = banded(values.tolist())
    assert set(pd.Series(names).value_counts() // 10) <= {9, 10}
    for value, name in zip(values, names, strict=True):
        assert name is not None
        words = name.split()
        if words[0] == "up":
            assert value <= float(words[2])
        else:
            assert value > float(words[1])
            assert len(words) == 2 or value <= float(words[3])


@pytest.mark.parametrize(
    "values",
    [
        [20200101 + day for day in range(40)],  # three digits would put all into one band
        [0.0] * 90 + list(range(1, 12)),  # three of four quartiles are the same
        [7.0] * 90 + [float(n) for n in range(-9, 2)],  # and are the largest
    ],
)
def test_no_band_of_numbers_is_empty(values: list[float]) -> None:
    bands = bands_of(pd.DataFrame({"x": values}), "x")
    assert sorted(set(bands.codes.tolist())) == list(range(len(bands.names)))
    assert len(set(bands.names)) == len(bands.names)


def test_of_many_values_the_commonest_stand_for_themselves() -> None:
    cells = [f"v{number:02d}" for number in range(20) for _ in range(30 - number)]
    bands = bands_of(pd.DataFrame({"x": cells}), "x")
    assert bands.names == [*(f"v{number:02d}" for number in range(MAX_VALUES)), "12 other values"]
    assert (bands.codes == MAX_VALUES).sum() == sum(30 - number for number in range(MAX_VALUES, 20))


def test_a_single_value_too_many_is_still_shown() -> None:
    names = [f"v{number}" for number in range(MAX_VALUES + 1)]
    assert bands_of(pd.DataFrame({"x": names}), "x").names == names


def test_a_value_called_missing_is_not_taken_for_a_missing_one() -> None:
    assert banded(["missing", "present", None]) == ['"missing"', "present", None]


def test_a_column_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match=r"'contry'; nearest: 'country'"):
        bands_of(pd.DataFrame({"sex": ["M"], "country": ["Spain"]}), "contry")
