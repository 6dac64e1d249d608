"""Are areas taken within networks and sources, and differences on the same images and patients?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from sklearn.metrics import roc_auc_score

from cxr.evaluation.protocols.figure import draw_protocols
from cxr.evaluation.protocols.optimism import Row, compare_protocols
from cxr.evaluation.protocols.page import write_page
from cxr.evaluation.protocols.plan import Protocol, plan_protocols
from cxr.evaluation.protocols.table import protocols_table, write_tables
from cxr.evaluation.protocols.verdicts import conclude
from cxr.pipeline.records import Records

Read = Callable[..., Records]
Say = Callable[..., pd.DataFrame]
# Both sources know both classes, in very different shares; each country one source.
ROWS = [
    ("x", "Italy", "covid", 60),
    ("x", "Italy", "other", 20),
    ("y", "Spain", "covid", 20),
    ("y", "Spain", "other", 90),
]
NAMES = ("random_image", "group", "source", "country")


@pytest.fixture
def planned(make_read: Read) -> tuple[pd.DataFrame, list[Protocol]]:
    read = make_read(ROWS, images=2)
    return read.manifest.records, plan_protocols(read, NAMES, num_folds=3, min_images=5, seed=0, val_fraction=0.25)


def folds_of(records: pd.DataFrame) -> list[str]:
    return [str(code % 3) for code in pd.factorize(records["group"])[0]]


def by_hand(told: pd.DataFrame, *columns: str) -> float:
    """The area over the pairs within what the columns divide, weighted by their number."""
    areas, pairs = [], []
    for _, part in told.reset_index().groupby(list(columns)):
        positives = int(part["is_positive"].sum())
        if 0 < positives < len(part):
            areas.append(roc_auc_score(part["is_positive"], part["score"]))
            pairs.append(positives * (len(part) - positives))
    return float(np.average(areas, weights=pairs))


def rows_of(
    planned: tuple[pd.DataFrame, list[Protocol]], say: Say, **failures: str
) -> tuple[dict[tuple[str, str | None], Row], dict[str, pd.DataFrame]]:
    records, protocols = planned
    scored = {
        "random_image": say(records, folds_of(records), skill=2.5, source=-1.5, seed=1),
        "group": say(records, folds_of(records), skill=1.0, source=-1.5, seed=2),
        "source": say(records, records["source"].tolist(), skill=0.2, source=-1.5, seed=3),
        "country": say(records, records["country"].tolist(), skill=1.0, source=-1.5, seed=2),
    }
    kept = {name: told for name, told in scored.items() if name not in failures}
    rows = compare_protocols(protocols, kept, failures, num_resamples=400)
    return {(row.protocol, row.value): row for row in rows}, scored


def test_areas_are_taken_within_networks_and_within_sources(
    planned: tuple[pd.DataFrame, list[Protocol]], say: Say
) -> None:
    rows, scored = rows_of(planned, say)
    for name, told in scored.items():
        metrics = rows[name, None].metrics
        assert metrics["auroc"]["value"] == pytest.approx(by_hand(told, "network"))
        assert metrics["auroc_within_sources"]["value"] == pytest.approx(by_hand(told, "network", "source"))
        assert metrics["auroc"]["low"] < metrics["auroc"]["value"] < metrics["auroc"]["high"]
        assert metrics["sensitivity"]["value"] == pytest.approx(told.loc[told["is_positive"], "called"].mean())
        assert metrics["specificity"]["value"] == pytest.approx(1 - told.loc[~told["is_positive"], "called"].mean())


def test_an_optimism_is_a_difference_on_the_same_images(planned: tuple[pd.DataFrame, list[Protocol]], say: Say) -> None:
    rows, scored = rows_of(planned, say)
    group = scored["group"]
    found = rows["random_image", None].optimism["auroc"]
    assert found["value"] == pytest.approx(by_hand(scored["random_image"], "network") - by_hand(group, "network"))
    assert 0 < found["low"] < found["value"] < found["high"]
    # The networks by group are asked about pairs within what is left out, for no other pair is held against them.
    assert rows["source", None].by_group["auroc"]["value"] == pytest.approx(by_hand(group, "network", "source"))
    assert rows["source", None].optimism["auroc"]["high"] < 0
    spain = group[group["country"] == "Spain"]
    row = rows["country", "Spain"]
    assert row.by_group["auroc"]["value"] == pytest.approx(by_hand(spain, "network"))
    assert (row.num_images, row.num_positives, row.num_patients) == (220, 40, 110)


def test_what_makes_a_patient_hard_is_no_difference(planned: tuple[pd.DataFrame, list[Protocol]], say: Say) -> None:
    """Paired limits are narrower than those of two protocols that were asked about other patients."""
    rows, _ = rows_of(planned, say)
    row = rows["random_image", None]
    apart = [metrics["auroc"]["high"] - metrics["auroc"]["low"] for metrics in (row.metrics, row.by_group)]
    difference = row.optimism["auroc"]
    assert difference["high"] - difference["low"] < 0.8 * np.hypot(*apart)


def test_the_images_of_a_patient_are_drawn_together(make_read: Read, say: Say) -> None:
    """Ten copies of an image say no more than two."""
    widths = []
    for images in (2, 10):
        read = make_read(ROWS, images=images)
        records = read.manifest.records
        plan = plan_protocols(read, ("random_image", "group"), num_folds=3, min_images=5, seed=0, val_fraction=0.25)
        single = records.drop_duplicates("group").reset_index(drop=True)
        folds = dict(zip(single["group"], folds_of(single), strict=True))
        scored = {}
        for name, skill, seed in (("random_image", 2.0, 1), ("group", 1.0, 2)):
            told = say(single, folds_of(single), skill=skill, seed=seed).set_index("group")
            copies = records.set_index(["source", "image"])
            scored[name] = pd.DataFrame(
                {
                    "network": copies["group"].map(folds),
                    "group": copies["group"],
                    "country": copies["country"],
                    **{key: copies["group"].map(told[key]) for key in ("is_positive", "called", "score")},
                }
            ).sort_index()
        found = compare_protocols(plan, scored, {}, num_resamples=400)[0].optimism["auroc"]
        widths.append(found["high"] - found["low"])
    assert widths[1] == pytest.approx(widths[0], rel=0.01)


def test_a_source_of_one_class_has_rates_instead_of_an_area(make_read: Read, say: Say) -> None:
    read = make_read([("hospital", None, "covid", 30), ("hospital", None, "other", 30), ("healthy", None, "other", 40)])
    records = read.manifest.records
    plan = plan_protocols(read, ("group", "source"), num_folds=3, min_images=5, seed=0, val_fraction=0.25)
    # In this order the healthy are the second source, and called covid more often than by group.
    unseen = say(records.iloc[::-1], ["healthy"] * len(records), source=1.5, seed=1).loc[["healthy"]]
    scored = {"group": say(records, folds_of(records), skill=2.0), "source": unseen}
    rows = {(row.protocol, row.value): row for row in compare_protocols(plan, scored, {}, num_resamples=200)}
    row = rows["source", "healthy"]
    assert row.metrics["auroc"]["value"] is None
    assert "one class only" in row.metrics["auroc"]["reason"]
    assert row.metrics["sensitivity"]["reason"] == "no positive image"
    assert row.metrics["specificity"]["value"] == pytest.approx(1 - scored["source"]["called"].mean())
    by_group = scored["group"].loc[scored["source"].index]
    assert row.by_group["specificity"]["value"] == pytest.approx(1 - by_group["called"].mean())
    assert row.optimism["specificity"]["high"] < 0
    assert "no image of class 'covid' is left" in str(rows["source", "hospital"].reason)
    (said,) = [line for line in conclude(list(rows.values())) if "Leave one source out" in line]
    assert said.startswith("OPTIMISM: ")
    assert all(text in said for text in ("one class only", "specificity", "as to a new source the split by group"))


def test_a_failure_and_an_impossible_protocol_keep_their_place(
    planned: tuple[pd.DataFrame, list[Protocol]], say: Say, tmp_path: Path
) -> None:
    records, protocols = planned
    impossible = [replace(one, networks=(), reason="no record has a country") if one.name == "country" else one
                  for one in protocols]  # fmt: skip
    rows, _ = rows_of((records, impossible), say, random_image="1 of 3 trainings failed", country="")
    told = list(rows.values())
    assert [row.protocol for row in told if row.value is None] == list(NAMES)
    console = Console(width=190, record=True, file=(tmp_path / "out").open("w"))
    console.print(protocols_table(told))
    shown = console.export_text()
    write_tables(told, tmp_path, {"seed": 0})
    page = tmp_path / "protocols.html"
    assert draw_protocols(told, tmp_path / "protocols.png")
    write_page(told, {"group": "python train.py"}, tmp_path / "protocols.png", page)
    with Image.open(tmp_path / "protocols.png") as image:
        assert min(image.size) > 300
    table = pd.read_csv(tmp_path / "protocols.csv")
    assert table["protocol"].tolist() == [row.protocol for row in told]
    content = json.loads((tmp_path / "protocols.json").read_text(encoding="utf-8"))
    for text in (shown, page.read_text(encoding="utf-8"), json.dumps(content), "\n".join(table["reason"].dropna())):
        assert "1 of 3 trainings failed" in text
        assert "no record has a country" in text
    group = table[table["protocol"] == "group"].iloc[0]
    assert group["auroc"] == pytest.approx(rows["group", None].metrics["auroc"]["value"])


def test_the_verdict_names_optimism_and_sources(planned: tuple[pd.DataFrame, list[Protocol]], say: Say) -> None:
    rows, _ = rows_of(planned, say)
    said = conclude(list(rows.values()))
    assert any(line.startswith("OPTIMISM: Random image") and "flatters as to new patients" in line for line in said)
    assert any(line.startswith("OPTIMISM: Leave one source out") for line in said)
    assert any(line.startswith("SOURCE: by group") for line in said)
    worse, _ = rows_of(
        planned, lambda records, networks, *, skill, **options: say(records, networks, skill=3.5 - skill, **options)
    )
    (line,) = [line for line in conclude(list(worse.values())) if line.startswith("Random image")]
    assert "another seed would tell" in line
    same, _ = rows_of(planned, lambda records, networks, **_: say(records, folds_of(records), skill=1.0))
    assert not [line for line in conclude(list(same.values())) if line.startswith("OPTIMISM")]


def test_a_difference_of_few_patients_has_no_limits(make_read: Read, say: Say) -> None:
    read = make_read([("x", "Italy", "covid", 8), ("x", "Italy", "other", 50)], images=2)
    plan = plan_protocols(read, ("random_image", "group"), num_folds=2, min_images=5, seed=0, val_fraction=0.25)
    records = read.manifest.records
    scored = {
        name: say(records, folds_of(records), skill=1.0, seed=seed)
        for seed, name in enumerate(("random_image", "group"))
    }
    found = compare_protocols(plan, scored, {}, num_resamples=200)[0].optimism["auroc"]
    assert found["value"] is not None
    assert (found["low"], found["reason"]) == (None, "no interval: 8 patients on one side, 20 are needed")
