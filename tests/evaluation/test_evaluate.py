from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxr.errors import CheckpointError, ConfigurationError, DataError, DivergedError
from cxr.evaluation.evaluate import EvaluationResult, evaluate_run
from cxr.evaluation.scoring.checkpoint import open_run
from cxr.training.metrics import classification_metrics

Edit = Callable[[Callable[[dict[str, Any]], object]], Path]
PROBABILITIES = ["prob_covid", "prob_other"]


def evaluate(run: Path, **settings: Any) -> EvaluationResult:
    return evaluate_run(run, gpus=0, progress=False, **{"report": False, "num_resamples": 100, **settings})


def looks(folder: Path) -> list[dict[str, str]]:
    with (folder / "looks.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw_folders(root: Path, seed: int = 0, **folders: int) -> dict[str, Any]:
    """Grey noise, so many images in each folder ('.': in the root itself); the settings that read it."""
    generator = np.random.default_rng(seed)
    for folder, number in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for place in range(number):
            pixels = generator.integers(0, 256, (40, 48), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{folder.strip('.')}{place}.png")
    return {"sources": {"hospital": {"kind": "class_folders", "root": str(root), "patient": "none"}}}


def test_the_test_split_is_scored_once_each_and_everything_is_written(run: Path) -> None:
    result = evaluate(run, report=True)

    data = open_run(run).datamodule(progress=False)
    data.setup("test")
    records = data.records[data.records["split"] == "test"]
    table = pd.read_csv(run / "predictions" / "test.csv")
    assert table["image"].tolist() == records["image"].tolist()
    assert table["label"].tolist() == records["label"].tolist()
    module = open_run(run).module
    with torch.no_grad():
        expected = torch.cat([module(batch["image"]).softmax(1) for batch in data.test_dataloader()])
    assert table[PROBABILITIES].to_numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert (table["predicted"] == np.where(table["prob_covid"] >= 0.5, "covid", "other")).all()
    assert set(table["threshold"]) == {0.5}

    entry = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    labels = np.array([["covid", "other"].index(label) for label in table["label"]])
    again = classification_metrics(table[PROBABILITIES].to_numpy(np.float32), labels, ["covid", "other"], "covid")
    for name in ("auroc", "accuracy", "sensitivity", "mcc"):
        assert entry[name]["value"] == again[name]
    assert entry["accuracy"]["baseline"] == pytest.approx((labels == 1).mean())
    assert entry["counts"]["images"] == len(records)
    assert entry["counts"]["patients"] == records["patient"].nunique()
    assert entry["counts"]["positives"] == (labels == 0).sum()
    assert np.sum(entry["confusion_matrix"]["counts"]) == len(records)

    names = {"class_counts", "test_confusion", "test_roc", "test_precision_recall", "test_reliability"}
    assert result.report_path == run / "report.html"
    assert f"{entry['auroc']['value']:.3f}" in result.report_path.read_text(encoding="utf-8")
    assert (run / "model_card.md").is_file()
    assert names <= {path.stem for path in result.figures}
    assert all(path.is_file() and path.parent == run / "figures" for path in result.figures)
    assert [look["split"] for look in looks(run)] == ["test"]
    assert looks(run)[0]["num_images"] == str(len(records))
    assert looks(run)[0]["checkpoint_sha256"] == entry["checkpoint_sha256"]
    assert result.warnings == []

    layers = [layer for layer in module.network.modules() if not list(layer.children())]
    assert entry["parameters"] == sum(weight.numel() for layer in layers for weight in layer.parameters())
    assert f"| parameters | {entry['parameters']:,} |" in (run / "model_card.md").read_text(encoding="utf-8")


def test_the_dependence_of_the_label_is_measured_over_all_splits_of_the_run_too(run: Path, tmp_path: Path) -> None:
    entry = evaluate(run, subgroups=("view", "sex")).entry or {}
    data = open_run(run).datamodule(progress=False)
    data.setup("test")
    for rows, records in (
        (entry["dependence"], data.records[data.records["split"] == "test"]),
        (entry["dependence_of_run"], data.records),
    ):
        assert [row["column"] for row in rows] == ["view", "sex"]
        for row in rows:
            for label, counts in row["classes"].items():
                of_class = records.loc[records["label"] == label, row["column"]].dropna()
                assert {value: n for value, n in counts.items() if n} == of_class.value_counts().to_dict()
    other = evaluate(run, data=draw_folders(tmp_path / "ward", covid=2, other=3) | {"classes": None}).entry or {}
    assert "dependence" in other
    assert "dependence_of_run" not in other, "another collection has no part in the run"


def test_the_interval_of_the_area_is_made_as_asked_and_named(run: Path, tmp_path: Path) -> None:
    ward = draw_folders(tmp_path / "ward", covid=25, other=25) | {"classes": None}
    methods = [
        (evaluate(run, data=ward, **chosen).entry or {})["auroc"]["method"]
        for chosen in ({}, {"auroc_interval": "delong"})
    ]
    assert methods == ["patient bootstrap, 100 resamples, logit scale", "DeLong"]


def test_a_second_look_is_counted_and_other_splits_stay(run: Path, tmp_path: Path) -> None:
    (run / "metrics.json").write_text('{"val": {"auroc": {"value": 0.7}}}', encoding="utf-8")
    ward = draw_folders(tmp_path / "ward", **{".": 2})
    assert [evaluate(run, data=ward, which=which).num_looks for which in ("best", "last")] == [1, 2]
    assert evaluate(run).num_looks == 1
    assert [(look["split"], look["checkpoint"]) for look in looks(run)] == [
        ("hospital", "best.ckpt"),
        ("hospital", "last.ckpt"),
        ("test", "best.ckpt"),
    ]
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert content["val"] == {"auroc": {"value": 0.7}}
    assert content["test"]["looks"] == 1


def test_a_lone_checkpoint_gives_the_same_answers_beside_itself(run: Path, tmp_path: Path) -> None:
    inside = evaluate(run)
    copy = tmp_path / "shelf" / "covid.ckpt"
    copy.parent.mkdir()
    shutil.copy(run / "checkpoints" / "best.ckpt", copy)
    alone = evaluate(copy)
    assert alone.output_dir == tmp_path / "shelf" / "covid_evaluation"
    pd.testing.assert_frame_equal(alone.predictions, inside.predictions)
    assert looks(alone.output_dir)[0]["checkpoint"] == "covid.ckpt"
    assert len(looks(run)) == 1


def test_a_run_whose_cache_is_gone_is_scored_without_another_look_for_copies(run: Path, tmp_path: Path) -> None:
    cache = tmp_path / "empty"
    result = evaluate(run, cache_dir=cache)
    assert list(cache.glob("*.pixels"))  # the pictures of the split are prepared again
    assert not list(cache.glob("same-pictures*"))  # but not compared
    known = evaluate(run, output_dir=tmp_path / "known")
    pd.testing.assert_frame_equal(result.predictions, known.predictions)
    assert result.entry is not None
    assert known.entry is not None
    assert result.entry["auroc"] == known.entry["auroc"]  # also its interval, which hangs on the groups


def test_results_go_where_they_are_told(run: Path, tmp_path: Path) -> None:
    result = evaluate(run, split="val", output_dir=tmp_path / "elsewhere", batch_size=5)
    assert result.metrics_path == tmp_path / "elsewhere" / "metrics.json"
    assert result.metrics_path.is_file()
    assert not (run / "metrics.json").exists()


def test_the_training_split_is_scored_without_augmentation_or_sampling(run: Path) -> None:
    result = evaluate(run, split="train")
    known = open_run(run).training_split
    assert sorted(result.predictions["image"]) == sorted(known.loc[known["split"] == "train", "image"])
    pd.testing.assert_frame_equal(evaluate(run, split="train", batch_size=7).predictions, result.predictions)


def test_the_training_curves_are_drawn_where_the_run_kept_its_history(run: Path, tmp_path: Path) -> None:
    ward = draw_folders(tmp_path / "ward", **{".": 2})
    (run / "history.csv").write_text("epoch,train/loss,val/loss,lr\n0,0.7,0.6,0.001\n1,0.5,,0.0\n", encoding="utf-8")
    curves = run / "figures" / "training_curves.png"
    assert curves in evaluate(run, data=ward, report=True).figures
    (run / "history.csv").unlink()
    without = evaluate(run, data=ward, report=True)
    assert curves not in without.figures
    assert any("no training curves" in note for note in without.notes)


def test_another_collection_is_matched_by_class_name_never_by_position(run: Path, tmp_path: Path) -> None:
    settings = draw_folders(tmp_path / "hospital", other=6, covid=3)
    by_folder = evaluate(run, data={**settings, "classes": None})
    turned = evaluate(
        run, data={**settings, "classes": {"other": ["other"], "covid": ["covid"]}}, data_name="turned", report=True
    )

    for result in (by_folder, turned):
        assert result.entry is not None
        assert result.entry["counts"]["classes"] == {"covid": 3, "other": 6}
        folder = result.predictions["image"].str.split("/").str[0]
        assert (folder == result.predictions["label"]).all()
    pd.testing.assert_frame_equal(by_folder.predictions, turned.predictions)
    assert (run / "predictions" / "hospital.csv").is_file()
    assert (run / "figures" / "turned_roc.png").is_file()
    assert any("9 rows read, 9 kept" in note for note in by_folder.notes)
    assert [look["split"] for look in looks(run)] == ["hospital", "turned"]


def test_the_classes_of_the_training_apply_where_none_are_given(run: Path, tmp_path: Path) -> None:
    settings = draw_folders(tmp_path / "hospital", **{"COVID-19": 2, "Pneumonia": 3})
    entry = evaluate(run, data=settings).entry
    assert entry is not None
    assert entry["counts"]["classes"] == {"covid": 2, "other": 3}


def test_classes_that_do_not_match_are_refused_with_both_lists(run: Path, tmp_path: Path) -> None:
    settings = draw_folders(tmp_path / "hospital", COVID=2, NORMAL=2)
    with pytest.raises(DataError) as caught:
        evaluate(run, data={**settings, "classes": None})
    assert "[COVID, NORMAL]" in str(caught.value)
    assert "[covid, other]" in str(caught.value)
    assert not (run / "looks.csv").exists()


def test_an_absent_class_gives_null_with_a_note_and_no_curve(run: Path, tmp_path: Path) -> None:
    result = evaluate(run, data={**draw_folders(tmp_path / "hospital", other=4), "classes": None}, report=True)
    assert result.entry is not None
    assert result.entry["auroc"]["value"] is None
    assert result.entry["auroc"]["reason"] == "no image of class covid"
    assert result.entry["specificity"]["n"] == 4
    assert "no image of class covid" in result.notes
    assert not any("roc" in path.name for path in result.figures)


def test_unlabelled_images_give_predictions_and_grad_cam_only(run: Path, tmp_path: Path) -> None:
    result = evaluate(run, data=draw_folders(tmp_path / "ward", **{".": 5}), data_name="ward", report=True)
    assert result.entry is None
    assert len(pd.read_csv(run / "predictions" / "ward.csv")) == 5
    assert result.predictions["label"].isna().all()
    assert any("predictions only" in note for note in result.notes)
    assert not (run / "metrics.json").exists()
    called = {name: f"ward_saliency_called_{name}.png" for name in ("positive", "negative")}
    expected = {called["positive" if name == "covid" else "negative"] for name in result.predictions["predicted"]}
    assert {path.name for path in result.figures if path.name.startswith("ward")} == expected
    assert all(path.stat().st_size > 0 for path in result.figures)
    without = evaluate(run, data=draw_folders(tmp_path / "ward", **{".": 5}), data_name="ward", report=True, saliency=0)
    assert not any(path.name.startswith("ward") for path in without.figures)


def test_unlabelled_images_among_labelled_ones_are_predicted_and_not_measured(run: Path, tmp_path: Path) -> None:
    settings = draw_folders(tmp_path / "hospital", **{"COVID-19": 2, "Pneumonia": 3, "todo": 4})
    result = evaluate(run, data=settings)
    assert result.entry is not None
    assert result.entry["counts"]["unlabelled"] == 4
    assert result.entry["accuracy"]["n"] == 5
    assert len(result.predictions) == 9


def test_images_that_were_trained_on_are_said_first(run: Path, tmp_path: Path) -> None:
    settings = draw_folders(tmp_path / "hospital", other=3, covid=2)
    known = open_run(run).datamodule(progress=False)
    known.setup("test")
    train = known.records[known.records["split"] == "train"]
    shutil.copy(train["path"].iloc[0], tmp_path / "hospital" / "covid" / "renamed.png")
    result = evaluate(run, data={**settings, "classes": None})
    assert result.warnings[0].startswith("LEAK: 1 of these 6 images")
    assert result.entry is not None
    assert result.entry["warnings"] == result.warnings


def test_the_baseline_of_another_collection_is_the_majority_of_the_training(
    edit: Edit, run: Path, tmp_path: Path
) -> None:
    data = open_run(run).datamodule(progress=False)
    data.setup("test")
    label = data.records.set_index("image")["label"]
    assert label.value_counts().index[0] == "other"

    def tell(content: dict[str, Any]) -> None:
        split = content["CXRDataModule"]["split"]
        split["label"] = [label[image] for image in split["image"]]

    edit(tell)
    result = evaluate(run, data={**draw_folders(tmp_path / "hospital", covid=5, other=2), "classes": None})
    assert result.entry is not None
    assert result.entry["majority_of"] == "the training split"
    assert result.entry["accuracy"]["baseline"] == pytest.approx(2 / 7)


def test_a_split_that_divides_patients_is_said_first(edit: Edit, run: Path) -> None:
    data = open_run(run).datamodule(progress=False)
    data.setup("test")
    train = data.records[data.records["split"] == "train"]
    torn = train[train["group"].duplicated(keep=False)].iloc[0]

    def tear(content: dict[str, Any]) -> None:
        split = content["CXRDataModule"]["split"]
        split["split"][split["image"].index(torn["image"])] = "test"

    edit(tear)
    result = evaluate(run)
    assert result.warnings[0].startswith("LEAK: patients on more than one side of this split: 1 (")
    assert torn["group"] in result.warnings[0]
    assert result.entry is not None
    assert result.entry["warnings"] == result.warnings


def test_a_network_that_diverged_leaves_no_numbers(edit: Edit, run: Path) -> None:
    # Each weight is a number, and no sum of their products is.
    edit(lambda content: [tensor.fill_(1e38) for tensor in content["state_dict"].values() if tensor.ndim == 4])
    with pytest.raises(DivergedError, match="finite"):
        evaluate(run)
    assert not (run / "metrics.json").exists()


def test_weights_that_are_no_numbers_are_not_scored(edit: Edit, run: Path) -> None:
    edit(lambda content: [tensor.fill_(float("nan")) for tensor in content["state_dict"].values() if tensor.ndim == 4])
    with pytest.raises(CheckpointError, match="not finite"):
        evaluate(run)
    assert not (run / "looks.csv").exists()


def test_a_damaged_table_of_metrics_is_found_before_the_look(run: Path) -> None:
    (run / "metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.json"):
        evaluate(run)
    assert not (run / "looks.csv").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"split": "tset"}, "split=tset"),
        ({"data_name": "hospital"}, "data_name"),
        ({"data": {"sources": {}, "image_size": 64}}, "image_size"),
        ({"data": {"classes": None}}, "sources"),
        ({"data": {"sources": {"a": {}}}, "data_name": "test"}, "data_name"),
        ({"data": {"sources": {"a": {}}}, "data_name": "../out"}, "data_name"),
        ({"data": {"sources": {"a": {}}, "positive": "normal"}}, "data.positive=normal"),
    ],
)
def test_settings_that_contradict_the_checkpoint_are_refused(run: Path, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        evaluate(run, **settings)


def test_more_than_one_device_is_refused(run: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"trainer\.gpus=2"):
        evaluate_run(run, gpus=2)


def test_one_network_is_asked_about_altered_pictures_unless_told_not_to(run: Path) -> None:
    entry = evaluate(run).entry
    assert entry is not None
    found = entry["shortcuts"]
    assert found["auroc"]["value"] == pytest.approx(entry["auroc"]["value"])
    assert (found["images"], found["of"]) == (entry["counts"]["images"], entry["counts"]["images"])
    assert {row["input"] for row in found["rows"]} >= {"without lungs", "lungs only", "border only", "re-encoded"}
    without = evaluate(run, shortcuts=False).entry
    assert without is not None
    assert "shortcuts" not in without
    both = evaluate_run([run, run / "checkpoints" / "last.ckpt"], gpus=0, progress=False, report=False).entry
    assert both is not None
    assert "shortcuts" not in both
