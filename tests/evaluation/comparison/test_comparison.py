"""Are runs compared on the same records, repeats kept together, and nothing dropped without a word?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from tests.evaluation.written_runs import draw_records, draw_scores, end_run, write_run

from cxr.errors import ConfigurationError
from cxr.evaluation.comparison.comparison import Comparison, compare_runs, conclude
from cxr.evaluation.comparison.finished_runs import find_runs
from cxr.evaluation.metrics_file import merge_metrics, read_metrics
from cxr.evaluation.words import NAMES
from cxr.training.run_directory import RunDirectory

NUM_RESAMPLES = 300


def compare(*paths: Path, **options: object) -> Comparison:
    return compare_runs(find_runs(list(paths)), num_resamples=NUM_RESAMPLES, **options)  # type: ignore[arg-type]


def test_a_planted_difference_is_found_and_named(tmp_path: Path) -> None:
    records = draw_records(150, images_per_patient=2)
    write_run(tmp_path / "0", records, draw_scores(records, 0.8, seed=1), settings={"optimizer.lr": 0.1})
    write_run(tmp_path / "1", records, draw_scores(records, 3.0, seed=2), settings={"optimizer.lr": 0.001})
    found = compare(tmp_path)
    assert [one.label for one in found.configurations] == ["lr=0.001", "lr=0.1"], "the better first"
    test = found.tests[0]
    assert test.corrected is not None
    assert test.corrected < 0.001
    assert test.verdict == "1 is better"
    assert conclude(found) == "The two configurations differ in AUROC: 1 is better than 2. Configuration 1 is lr=0.001."
    assert found.matching == (
        "All 2 runs scored the same 300 images of 150 patients, matched by the SHA-256 of each file."
    )
    assert found.split == "val"


def test_equal_networks_show_no_difference(tmp_path: Path) -> None:
    records = draw_records(150, images_per_patient=2)
    for number, size in enumerate((64, 96, 128)):
        write_run(
            tmp_path / str(number),
            records,
            draw_scores(records, 1.5, seed=number),
            settings={"data.image_size": size},
        )
    found = compare(tmp_path)
    assert [test.verdict for test in found.tests] == ["no difference shown"] * 6
    assert conclude(found).startswith("No difference shown in AUROC between any of the 3 pairs tested.")
    assert any("no configuration was trained with a second seed" in text for text in found.warnings)


def test_identical_predictions_differ_in_nothing(tmp_path: Path) -> None:
    records = draw_records(40)
    scores = draw_scores(records, 1.5, seed=0)
    for number in range(2):
        write_run(tmp_path / str(number), records, scores, settings={"optimizer.lr": 0.1 * (number + 1)})
    for test in compare(tmp_path).tests:
        assert (test.difference.value, test.difference.p) == (0, 1)


def test_two_seeds_of_one_configuration_are_never_called_different(tmp_path: Path) -> None:
    records = draw_records(150, images_per_patient=2)
    write_run(tmp_path / "0", records, draw_scores(records, 0.5, seed=1), settings={"seed": 0})
    write_run(tmp_path / "1", records, draw_scores(records, 3.0, seed=2), settings={"seed": 1, "name": "other"})
    found = compare(tmp_path)
    assert len(found.configurations) == 1
    assert found.tests == []
    assert "none is called different" in conclude(found)


def test_seeds_are_aggregated_as_mean_deviation_and_interval(tmp_path: Path) -> None:
    records = draw_records(100)
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", records, draw_scores(records, 2.0, seed=seed), settings={"seed": seed})
        write_run(
            tmp_path / f"b{seed}",
            records,
            draw_scores(records, 1.8, seed=10 + seed),
            settings={"seed": seed, "optimizer.lr": 0.1},
        )
    found = compare(tmp_path)
    assert len(found.configurations) == 2
    one = found.configurations[0]
    values = [read_metrics(run.run.directory.metrics_path)["val"]["auroc"]["value"] for run in one.runs]
    summary = one.summaries["auroc"]
    deviation = float(np.std(values, ddof=1))
    half = t.ppf(0.975, 2) * deviation / np.sqrt(3)
    assert (summary.mean, summary.deviation) == pytest.approx((np.mean(values), deviation))
    assert (summary.low, summary.high) == pytest.approx((np.mean(values) - half, min(1, np.mean(values) + half)))
    assert summary.num_runs == 3
    assert summary.estimate.low is not None
    assert summary.estimate.low < summary.estimate.value < summary.estimate.high  # type: ignore[operator]
    assert "spread of the seeds" in found.tests[0].difference.method
    assert not any("second seed" in text for text in found.warnings)


def test_a_run_that_repeats_a_seed_is_no_further_evidence(tmp_path: Path) -> None:
    records = draw_records(60)
    for name in ("0", "1"):
        write_run(tmp_path / name, records, draw_scores(records, 2.0, seed=0))
    found = compare(tmp_path)
    summary = found.configurations[0].summaries["auroc"]
    assert summary.num_runs == 1
    assert summary.deviation is None
    assert any("repeat each other" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("kind", "key", "names"),
    [("kfold", "fold", (0, 1, 2)), ("leave_one_out", "value", ("Italy", "Spain", "Malta"))],
)
def test_folds_are_pooled_where_their_records_are_disjoint(
    kind: str, key: str, names: tuple[object, ...], tmp_path: Path
) -> None:
    records = draw_records(120)
    scores = {0.001: draw_scores(records, 2.0, seed=0), 0.1: draw_scores(records, 2.0, seed=1)}
    for lr, of_lr in scores.items():
        for fold in range(3):
            part = np.arange(len(records)) % 3 == fold
            write_run(
                tmp_path / f"{lr}-{fold}",
                records[part],
                of_lr[part],
                everything=records,
                settings={"data.split.kind": kind, f"data.split.{key}": names[fold], "optimizer.lr": lr},
                split="test",
            )
    found = compare(tmp_path)
    assert found.split == "test", "every run has it"
    pooled = compare_one(tmp_path / "whole", records, scores[0.001])
    one = next(each for each in found.configurations if each.label == "lr=0.001")
    assert one.summaries["auroc"].estimate.value == pytest.approx(pooled)
    assert one.summaries["auroc"].num_runs == 3
    assert found.tests[0].difference.num_images == 120
    assert any("3 folds, their 120 predictions are pooled" in text for text in found.notes)


def compare_one(path: Path, records: pd.DataFrame, scores: np.ndarray) -> float:
    write_run(path, records, scores)
    return float(read_metrics(RunDirectory(path).metrics_path)["val"]["auroc"]["value"])


def test_records_are_matched_by_content_though_order_and_folder_differ(tmp_path: Path) -> None:
    records = draw_records(80, images_per_patient=2)
    scores = draw_scores(records, 2.0, seed=0)
    shuffled = np.random.default_rng(0).permutation(len(records))
    moved = records.iloc[shuffled].reset_index(drop=True)
    moved["image"] = [f"elsewhere/{number}.png" for number in range(len(moved))]
    moved["source"], moved["group"] = "copy", "copy/" + moved["patient"]
    write_run(tmp_path / "0", records, scores)
    write_run(tmp_path / "1", moved, scores[shuffled], settings={"optimizer.lr": 0.1, "data.root": "elsewhere"})
    found = compare(tmp_path)
    assert found.matching.startswith("All 2 runs scored the same 160 images of 80 patients")
    assert found.tests[0].difference.value == 0
    assert found.keys == ["optimizer.lr"], "where the files lie is no setting"


def test_the_same_radiographs_in_another_folder_are_one_configuration_and_others_are_not(tmp_path: Path) -> None:
    records, others = draw_records(60), draw_records(60, seed=1)
    write_run(tmp_path / "0", records, draw_scores(records, 2.0, seed=0), settings={"data.root": "here"})
    write_run(tmp_path / "1", records, draw_scores(records, 2.0, seed=1), settings={"data.root": "there", "seed": 1})
    assert len(compare(tmp_path).configurations) == 1
    write_run(tmp_path / "2", others, draw_scores(others, 2.0, seed=2), settings={"data.root": "there", "seed": 2})
    found = compare(tmp_path)
    assert sorted(len(one.runs) for one in found.configurations) == [1, 2]
    assert {test.verdict for test in found.tests} == {"not tested: they share no image"}
    assert any("the runs scored different images" in text for text in found.warnings)


def test_equal_names_are_not_equal_images(tmp_path: Path) -> None:
    records = draw_records(60)
    others = draw_records(60).assign(sha256=draw_records(60, seed=1)["sha256"])
    write_run(tmp_path / "0", records, draw_scores(records, 2.0, seed=0))
    write_run(tmp_path / "1", others, draw_scores(others, 2.0, seed=1), settings={"optimizer.lr": 0.1})
    assert {test.difference.reason for test in compare(tmp_path).tests} == {"they share no image"}


def test_duplicate_files_are_told_apart(tmp_path: Path) -> None:
    records = draw_records(60)
    records.loc[1, ["sha256", "label"]] = [records.loc[0, "sha256"], records.loc[0, "label"]]
    for number in range(2):
        write_run(
            tmp_path / str(number),
            records.iloc[:: 1 - 2 * number].reset_index(drop=True),
            draw_scores(records, 2.0, seed=number)[:: 1 - 2 * number],
            settings={"optimizer.lr": 0.1 * (number + 1)},
        )
    assert compare(tmp_path).matching.startswith("All 2 runs scored the same 60 images")


def test_labels_that_disagree_are_refused(tmp_path: Path) -> None:
    records = draw_records(60)
    relabelled = records.copy()
    relabelled.loc[[5, 6], "label"] = [
        "covid" if label == "other" else "other" for label in records.loc[[5, 6], "label"]
    ]
    write_run(tmp_path / "0", records, draw_scores(records, 2.0, seed=0))
    write_run(tmp_path / "1", relabelled, draw_scores(records, 2.0, seed=1), settings={"optimizer.lr": 0.1})
    found = compare(tmp_path)
    assert found.tests[0].verdict == "not tested: the labels of 2 of 60 images disagree"


def test_a_collection_is_matched_by_source_and_name(tmp_path: Path) -> None:
    records, outside = draw_records(40), draw_records(50, source="hospital", seed=3)
    for number in range(2):
        run = write_run(
            tmp_path / str(number),
            records,
            draw_scores(records, 2.0, seed=number),
            settings={"optimizer.lr": 0.1 * (number + 1)},
        )
        write_run(run, outside, draw_scores(outside, 1.5, seed=number), split="hospital")
    found = compare(tmp_path, split="hospital")
    assert found.matching == "All 2 runs scored the same 50 images of 50 patients, matched by source and file name."
    assert not any("hash" in text for text in found.warnings)


def test_runs_that_came_to_nothing_are_listed_with_the_reason(tmp_path: Path) -> None:
    records = draw_records(40)
    write_run(tmp_path / "0", records, draw_scores(records, 2.0, seed=0))
    end_run(tmp_path / "1", "diverged", "the loss is not finite in epoch 3", settings={"optimizer.lr": 10.0})
    end_run(tmp_path / "2", "failed", "model.name=resnet51: timm knows no such network")
    end_run(tmp_path / "3", "running")
    end_run(tmp_path / "4", "finished")
    (tmp_path / "multirun.yaml").write_text("hydra: {}\n")
    (tmp_path / "5").mkdir()
    write_run(tmp_path / "6", records, draw_scores(records, 2.0, seed=0), settings={"seed": 1})
    (tmp_path / "6" / "metrics.json").write_text("[]")
    found = compare(tmp_path)
    assert {run.name: reason for run, reason in found.excluded} == {
        "1": "the loss is not finite in epoch 3",
        "2": "model.name=resnet51: timm knows no such network",
        "3": "still running, or was killed",
        "4": "no predictions of val",
        "5": "refused before it began: it has no status.json",
        "6": f"{tmp_path / '6' / 'metrics.json'} is not a table of metrics: move it away, and evaluate again",
    }
    assert [run.run.name for run in found.runs] == ["0"]
    assert any(text.startswith("6 runs of 7 not compared") for text in found.warnings)
    assert found.keys == ["optimizer.lr"], "also what a failed run had otherwise"


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    end_run(tmp_path / "0", "failed", "no")
    found = compare(tmp_path)
    assert (found.configurations, conclude(found)) == ([], "No run can be compared on val.")


def test_damaged_predictions_are_no_silent_loss(tmp_path: Path) -> None:
    records = draw_records(40)
    for number in range(4):
        write_run(tmp_path / str(number), records, draw_scores(records, 2.0, seed=number), settings={"seed": number})

    def edit(number: int, change: object) -> None:
        path = tmp_path / str(number) / "predictions" / "val.csv"
        table = pd.read_csv(path, dtype=str, na_filter=False)
        change(table)  # type: ignore[operator]
        table.to_csv(path, index=False)

    edit(0, lambda table: table.drop(columns="label", inplace=True))
    edit(1, lambda table: table.__setitem__("prob_covid", ["inf", *table["prob_covid"][1:]]))
    edit(2, lambda table: table.__setitem__("label", ["flu", *table["label"][1:]]))
    assert {run.name: reason for run, reason in compare(tmp_path).excluded} == {
        "0": "predictions/val.csv has no column label",
        "1": "predictions/val.csv has a probability that is not finite",
        "2": "predictions/val.csv has the label 'flu', which is no class of the network",
    }


def test_the_default_split_is_test_only_where_all_runs_have_it(tmp_path: Path) -> None:
    records, held_out = draw_records(40), draw_records(40, seed=5)
    for number in range(2):
        write_run(
            tmp_path / str(number),
            records,
            draw_scores(records, 2.0, seed=number),
            settings={"optimizer.lr": 0.1 * (number + 1)},
        )
    write_run(tmp_path / "0", held_out, draw_scores(held_out, 2.0, seed=0), split="test")
    found = compare(tmp_path)
    assert found.split == "val"
    assert "only 1 of 2 runs have been evaluated on the test split" in found.notes[0]
    asked = compare(tmp_path, split="test")
    assert [(run.name, reason) for run, reason in asked.excluded] == [("1", "no predictions of test; it has val")]


def test_limits_of_metrics_json_are_taken_and_missing_ones_made(tmp_path: Path) -> None:
    records = draw_records(60)
    scores = draw_scores(records, 2.0, seed=0)
    write_run(tmp_path / "0", records, scores)
    write_run(tmp_path / "1", records, draw_scores(records, 2.0, seed=1), settings={"optimizer.lr": 0.1})
    without = tmp_path / "1" / "metrics.json"
    entry = read_metrics(without)["val"]
    bare = {name: {"value": given["value"], "n": 60} for name, given in entry.items() if name in NAMES}
    merge_metrics(without, "val", entry | bare)
    runs = {run.run.name: run.metrics["auroc"] for run in compare(tmp_path).runs}
    assert runs["0"].method == "drawn"
    assert runs["1"].low is not None
    assert runs["1"].method is not None
    assert runs["1"].method.startswith("patient bootstrap")
    assert runs["1"].low < runs["1"].value < runs["1"].high  # type: ignore[operator]


def test_metrics_of_another_day_are_not_believed(tmp_path: Path) -> None:
    records = draw_records(60)
    path = write_run(tmp_path / "0", records, draw_scores(records, 2.0, seed=0))
    right = read_metrics(path / "metrics.json")["val"]["auroc"]["value"]
    write_run(
        path,
        records,
        draw_scores(records, 2.0, seed=0),
        entry={"auroc": {"value": 0.99, "n": 60, "low": 0.98, "high": 1.0}},
    )
    found = compare(tmp_path)
    assert found.runs[0].metrics["auroc"].value == pytest.approx(right)
    assert "AUROC is 0.990 in metrics.json" in found.warnings[0]


def test_what_an_evaluation_warned_of_is_repeated(tmp_path: Path) -> None:
    records = draw_records(40)
    write_run(tmp_path / "0", records, draw_scores(records, 2.0, seed=0), entry={"warnings": ["LEAK: patients"]})
    assert "0: LEAK: patients" in compare(tmp_path).warnings


def test_many_configurations_stand_against_the_best_which_is_said_to_be_picked(tmp_path: Path) -> None:
    records = draw_records(60)
    for number in range(12):
        write_run(
            tmp_path / str(number),
            records,
            draw_scores(records, 1.5, seed=number),
            settings={"optimizer.lr": 0.001 * (number + 1)},
        )
    found = compare(tmp_path)
    assert len(found.tests) == 2 * 11
    assert {test.first.number for test in found.tests} == {1}
    assert "corrected for all 66 pairs" in found.family
    assert any("picked as the best by looking" in text for text in found.warnings)
    smallest = min((test for test in found.tests if test.metric == "auroc"), key=lambda test: test.difference.p or 1)
    assert smallest.difference.p is not None
    assert smallest.corrected == pytest.approx(min(1, 66 * smallest.difference.p))

    chosen = compare(tmp_path, reference="7")
    assert {test.second.runs[0].run.name for test in chosen.tests} == {"7"}
    assert "corrected for 11" in chosen.family
    with pytest.raises(ConfigurationError, match="--reference 77"):
        compare(tmp_path, reference="77")


def test_better_is_lower_where_the_metric_is_a_loss(tmp_path: Path) -> None:
    records = draw_records(150)
    write_run(tmp_path / "0", records, draw_scores(records, 0.5, seed=1), settings={"optimizer.lr": 0.1})
    write_run(tmp_path / "1", records, draw_scores(records, 3.5, seed=2), settings={"optimizer.lr": 0.001})
    found = compare(tmp_path, metric="brier")
    assert found.configurations[0].label == "lr=0.001"
    assert found.tests[0].difference.value < 0  # type: ignore[operator]
    assert found.tests[0].verdict == "1 is better"


def test_what_a_run_cost(tmp_path: Path) -> None:
    records = draw_records(40)
    path = write_run(tmp_path / "0", records, draw_scores(records, 2.0, seed=0), epochs=4)
    run = find_runs([path])[0]
    assert (run.epochs, run.seconds) == (4, 10.0)
    # Resumed: the clock of the second part begins anew.
    (path / "history.csv").write_text("epoch,step,seconds\n0,1,5.0\n1,2,9.0\n2,3,4.0\n3,4,8.0\n")
    assert find_runs([path])[0].seconds == 17.0


def test_an_interrupted_run_is_not_its_configuration(tmp_path: Path) -> None:
    records = draw_records(40)
    for number in range(2):
        write_run(tmp_path / str(number), records, draw_scores(records, 2.0, seed=number), settings={"seed": number})
    RunDirectory(tmp_path / "1").write_status("interrupted", reason="exit status 130", exit_status=130)
    found = compare(tmp_path)
    assert {one.label for one in found.configurations} == {"0", "interrupted"}


def test_results_without_a_run_are_compared_too(tmp_path: Path) -> None:
    records = draw_records(40)
    write_run(tmp_path / "run", records, draw_scores(records, 2.0, seed=0))
    write_run(tmp_path / "averaged", records, draw_scores(records, 2.0, seed=1))
    for name in ("status.json", "config.yaml", "split.csv", "history.csv"):
        (tmp_path / "averaged" / name).unlink()
    found = compare(tmp_path)
    assert {one.label for one in found.configurations} == {"averaged", "run"}
    assert found.tests[0].difference.num_images == 40
    assert any("no hash of every image in split.csv of averaged" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("outputs/demp", ["demp: there is no such folder", "did you mean", "demo?"]),
        ("outputs/demo/0/status.json", ["is a file"]),
        ("outputs/empty", ["holds no run"]),
        ("split=val", ["did you mean --split val?"]),
    ],
)
def test_a_wrong_path_is_answered_with_the_way_out(
    given: str, named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    end_run(tmp_path / "outputs" / "demo" / "0", "failed", "no")
    (tmp_path / "outputs" / "empty").mkdir()
    with pytest.raises(ConfigurationError) as raised:
        find_runs([given])
    assert all(word in str(raised.value) for word in named), str(raised.value)


def test_an_unknown_metric_or_split_is_answered_with_the_nearest(tmp_path: Path) -> None:
    records = draw_records(40)
    write_run(tmp_path / "0", records, draw_scores(records, 2.0, seed=0))
    with pytest.raises(ConfigurationError, match="did you mean auroc"):
        compare(tmp_path, metric="aurok")
    with pytest.raises(ConfigurationError, match="did you mean val"):
        compare(tmp_path, split="vall")


def test_runs_are_found_at_any_depth_once_and_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        end_run(tmp_path / "sweep" / "deep" / str(number), "failed", json.dumps("no"))
    end_run(tmp_path / "single", "failed", "no")
    names = [run.name for run in find_runs([tmp_path, tmp_path / "sweep", tmp_path / "single"])]
    assert names == ["single", "sweep/deep/2", "sweep/deep/9", "sweep/deep/10"]


def test_repeats_that_agree_in_every_resample_keep_limits_with_a_width(tmp_path: Path) -> None:
    records = draw_records(40)
    never = np.tile(np.array([[0.1, 0.9]], dtype=np.float32), (40, 1))
    for seed in range(2):
        write_run(tmp_path / str(seed), records, never, settings={"seed": seed})
    found = compare(tmp_path).configurations[0].summaries["specificity"].estimate
    assert found.value == 1
    assert found.low is not None
    assert found.low < 1
    assert found.method == "mean of the limits of the runs"
