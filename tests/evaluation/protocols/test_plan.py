"""Is everything planned that can be trained, and is everything else named with its reason?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cxr.evaluation.protocols.plan import TITLES, Protocol, plan_protocols
from cxr.pipeline.records import Records

Read = Callable[..., Records]
# The healthy are of one source alone, as in many mixtures; two countries are large enough.
MIXED = [
    ("hospital", "Italy", "covid", 12),
    ("hospital", "Italy", "other", 12),
    ("hospital", "Spain", "covid", 12),
    ("hospital", "Spain", "other", 12),
    ("hospital", "Malta", "other", 3),
    ("healthy", None, "other", 40),
]


def plan(records: Records, **options: Any) -> dict[str, Protocol]:
    given = {"num_folds": 3, "min_images": 5, "seed": 0, "val_fraction": 0.25, **options}
    return {protocol.name: protocol for protocol in plan_protocols(records, list(TITLES), **given)}


def test_folds_test_every_record_and_say_whom_they_divide(make_read: Read) -> None:
    planned = plan(make_read(MIXED, images=2))
    num_records = 2 * sum(number for *_, number in MIXED)
    for name in ("random_image", "patient", "group"):
        networks = planned[name].trained
        assert [network.split["fold"] for network in networks] == [0, 1, 2]
        assert sum(network.num_images for network in networks) == num_records
    assert planned["random_image"].num_leaks > 10
    assert planned["group"].num_leaks == 0


def test_folds_that_are_those_by_group_are_not_trained_again(make_read: Read) -> None:
    records = make_read(MIXED, images=2)
    assert plan(records)["patient"].same_as == "group"
    assert plan(records)["random_image"].same_as is None
    table = records.manifest.records
    one = table["group"].isin(["hospital/Italy-covid-0", "hospital/Spain-covid-0"])
    joined = table.assign(group=table["group"].mask(one, "hospital/Italy-covid-0"))
    found = plan(Records(replace(records.manifest, records=joined)))["patient"]
    assert found.same_as is None


def test_what_is_impossible_is_there_with_its_reason(make_read: Read) -> None:
    planned = plan(make_read(MIXED))
    source = {network.name: network for network in planned["source"].networks}
    assert source["healthy"].reason is None
    assert "no image of class 'covid' is left to train on" in str(source["hospital"].reason)
    country = planned["country"]
    assert [network.name for network in country.trained] == ["Italy", "Spain"]
    assert any("Malta 3" in note for note in country.notes)
    assert any("40 images without a country" in note for note in country.notes)


@pytest.mark.parametrize(
    ("rows", "name", "reason"),
    [
        ([("only", "Italy", "covid", 20), ("only", "Italy", "other", 20)], "source", "one source, only"),
        ([("only", "Italy", "covid", 20), ("only", "Italy", "other", 20)], "country", "one country, Italy"),
        ([("only", None, "covid", 20), ("only", None, "other", 20)], "country", "no record has a country"),
        ([("only", "Italy", "covid", 2), ("only", "Spain", "other", 4)], "country", "no country has 5 images"),
        ([("only", "Italy", "covid", 2), ("only", "Spain", "other", 9)], "group", "'covid' has 2 patient groups"),
        ([("only", "Italy", "covid", 9), ("only", "Spain", "other", 9)], "country", "class 'other' is left"),
    ],
)
def test_a_protocol_that_is_impossible_says_why(
    make_read: Read, rows: list[tuple[str, str | None, str, int]], name: str, reason: str
) -> None:
    found = plan(make_read(rows))[name]
    assert reason in str(found.reason)
    assert not found.trained or found.reason is not None


def test_images_elsewhere_of_a_patient_who_is_left_out_are_counted(make_read: Read) -> None:
    records = make_read(MIXED)
    table = records.manifest.records
    moved = table["group"] == "hospital/Italy-other-0"
    joined = table.assign(group=table["group"].mask(moved, "hospital/Spain-other-0"))
    read = Records(replace(records.manifest, records=joined))
    notes = plan(read)["country"].notes
    assert any(note.startswith("Italy left out: 1 images elsewhere") for note in notes)
    assert any(note.startswith("Spain left out: 1 images elsewhere") for note in notes)
    left = read.without_strays("country", "Italy").manifest
    assert left.dropped["reason"].tolist() == ["patient stands in the country left out"]
    assert (left.accounting()["kept"].sum(), left.rows) == (len(table) - 1, len(table))
