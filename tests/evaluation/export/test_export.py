"""Is what leaves a run the same network, does it say all that is needed, and nothing that it must not?"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tests.programs import run

from cxr.errors import ConfigurationError, CxrError, DataError
from cxr.evaluation.calibration.recalibration import log_odds
from cxr.evaluation.calibration.stored import read_calibration
from cxr.evaluation.evaluate import EvaluationResult, evaluate_run
from cxr.evaluation.export.writing import export_run
from cxr.evaluation.scoring.checkpoint import open_run
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer

ROOT = Path(__file__).resolve().parents[3]
PROBABILITIES = ["prob_covid", "prob_other"]
WARD = {"sources": {"ward": {"kind": "phantom", "num_patients": 12, "size": 64, "seed": 5}}}


@dataclass(frozen=True)
class Exported:
    """A run and the folder that the command made of it.

    Attributes:
        run: a copy of the run, with a name of its own.
        folder: what was exported.
        said: what the command printed.
    """

    run: Path
    folder: Path
    said: str

    @property
    def described(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "model.json").read_text(encoding="utf-8"))
        return content


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What python -m cxr.export makes of a run that was never evaluated."""
    place = tmp_path_factory.mktemp("anna_meier_1950")
    trained_run = Path(shutil.copytree(trained, place / "runs" / "demo"))
    done = run("-m", "cxr.export", f"run={trained_run}", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return Exported(trained_run, trained_run / "export", done.stdout)


def score(run: Path, **settings: Any) -> EvaluationResult:
    quick: dict[str, Any] = {"report": False, "shortcuts": False, "num_resamples": 100}
    return evaluate_run(run, gpus=0, progress=False, **{**quick, **settings})


def ask(folder: Path, images: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Logits and probabilities of ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"image": images})
    return logits, probabilities


def without_notes(value: Any) -> Any:
    """Sentences of calibration and thresholds stay behind when a network is exported."""
    if isinstance(value, dict):
        return {key: without_notes(each) for key, each in value.items() if key != "notes"}
    return [without_notes(each) for each in value] if isinstance(value, list) else value


def validation_images(run: Path) -> torch.Tensor:
    data = open_run(run).datamodule(progress=False)
    data.setup("test")
    rows = np.flatnonzero(data.records["split"] == "val")
    return torch.as_tensor(data.predict_dataloader().dataset[rows]["image"])


def test_the_onnx_file_answers_as_pytorch_does_for_any_number_of_images(exported: Exported) -> None:
    images = validation_images(exported.run)
    module = open_run(exported.run).module
    stored = read_calibration(exported.run / "calibration.json")
    assert stored is not None, "what was fitted for the export is kept in the run, as evaluate.py keeps it"
    with torch.no_grad():
        expected = module(images)
    calibrated = stored.calibration.apply(expected.softmax(dim=1).numpy())
    assert len(images) > 5
    for taken in (slice(0, 1), slice(1, 6), slice(0, len(images))):
        logits, probabilities = ask(exported.folder, images[taken].numpy())
        assert np.abs(logits - expected[taken].numpy()).max() <= 1e-4
        assert np.abs(probabilities - calibrated[taken]).max() <= 1e-4
    assert np.ptp(calibrated[:, 0]) > 1e-3, "or the comparison says nothing"


def test_the_description_is_that_of_the_run_and_stands_in_the_onnx_file_too(exported: Exported) -> None:
    described, opened = exported.described, open_run(exported.run)
    stored = read_calibration(exported.run / "calibration.json")
    assert stored is not None
    assert described["backbone"] == "test_resnet"
    assert described["class_names"] == opened.module.class_names
    assert described["positive"] == "covid"
    assert described["preparation"] == {"size": 32, "aspect": "crop"}
    assert described["calibration"] == {"method": "temperature", "temperature": stored.calibration.temperature}
    assert [point["rule"] for point in described["operating_points"]] == [
        "youden", "sensitivity=0.95", "specificity=0.95",
    ]  # fmt: skip
    assert [p["threshold"] for p in described["operating_points"]] == [p.threshold for p in stored.operating_points]
    assert described["fitted_on"]["split"] == "val"
    assert described["fitted_on"]["images"] == len(validation_images(exported.run))
    assert described["training_images"] == dict(opened.training_counts)
    assert described["parity"]["drawn_from"] == "val"
    assert set(described["parity"]["largest_difference"]) == {"model.safetensors", "model.onnx"}
    assert max(described["parity"]["largest_difference"].values()) <= 1e-4
    graph = onnx.load(exported.folder / "model.onnx")
    (entry,) = graph.metadata_props
    assert entry.key == "cxr_model"
    assert json.loads(entry.value) == {key: value for key, value in described.items() if key not in ("files", "parity")}
    for name, largest in described["parity"]["largest_difference"].items():
        assert f"{name} {largest:.1e}" in exported.said
    assert f"temperature {stored.calibration.temperature:.3g}" in exported.said


def test_no_byte_tells_of_patients_files_paths_or_machine(exported: Exported) -> None:
    data = open_run(exported.run).datamodule(progress=False)
    data.setup("test")
    graph = onnx.load(exported.folder / "model.onnx")
    for tensor in graph.graph.initializer:  # weights are noise, in which any short word may occur
        tensor.ClearField("raw_data")
    with safe_open(exported.folder / "model.safetensors", framework="pt") as file:
        names, metadata = list(file.keys()), file.metadata()
    assert set(names) == set(open_run(exported.run).module.network.state_dict())
    assert not metadata
    texts = [(exported.folder / "model.json").read_bytes(), graph.SerializeToString()]
    canaries = {str(value) for column in ("patient", "group", "image") for value in data.records[column].unique()}
    canaries |= {"anna_meier", "site-packages", ".py", str(ROOT), str(Path.home()), os.uname().nodename, "phantom"}
    canaries |= {data.records["sha256"].iloc[0], "checkpoints"}
    assert len(canaries) > 20
    for text in texts:
        assert [canary for canary in canaries if canary.encode() in text] == []
    assert sorted(path.name for path in exported.folder.iterdir()) == [
        "model.json", "model.onnx", "model.safetensors",
    ]  # fmt: skip


def test_an_exported_folder_is_scored_as_its_run_is(exported: Exported, tmp_path: Path) -> None:
    ward = {**WARD, "classes": {"covid": ["COVID-19"], "other": ["rest"]}}
    places = {"data": ward, "cache_dir": tmp_path / "cache"}
    of_run = score(exported.run, **places, output_dir=tmp_path / "of_run")
    folder = Path(shutil.copytree(exported.folder, tmp_path / "elsewhere" / "served"))
    result = score(folder, **places, report=True, saliency=0)
    assert result.output_dir == tmp_path / "elsewhere" / "served_evaluation"
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in exported.folder.iterdir())
    columns = [*PROBABILITIES, "prob_calibrated"]
    assert np.abs(result.predictions[columns] - of_run.predictions[columns]).to_numpy().max() <= 1e-6
    assert result.predictions["label"].tolist() == of_run.predictions["label"].tolist()
    mine, theirs = result.entry or {}, of_run.entry or {}
    for key in ("auroc", "accuracy", "calibration", "operating_points", "majority", "epoch", "parameters"):
        assert without_notes(mine.get(key)) == without_notes(theirs.get(key)), key
    assert mine["operating_points"]
    assert result.report_path is not None
    assert result.report_path.is_file()
    assert any("training images" in note for note in result.notes)
    other = score(folder, **places, operating_points=["fixed=0.5"])
    assert (other.entry or {})["operating_points"] == mine["operating_points"]
    assert any("came with the exported network" in note for note in other.notes)


def test_an_exported_folder_alone_asks_for_data_before_anything_heavy(exported: Exported, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "evaluate.py", f"run={exported.folder}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
    )
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert str(exported.folder) in error
    assert "data=<option>" in error
    assert not re.search(r"\| +torch$", done.stderr, re.M)
    with pytest.raises(ConfigurationError, match="data=<option>"):
        score(exported.folder)
    with pytest.raises(ConfigurationError, match="already"):
        export_run(exported.folder)


def test_the_readme_serves_a_picture_with_onnxruntime_alone(exported: Exported, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "onnxruntime" in block]
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)
    folder = tmp_path / "pictures" / "covid"
    folder.mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "radiograph.png")
    Image.fromarray(pixels).save(tmp_path / "radiograph.png")
    (tmp_path / "export").symlink_to(exported.folder)
    ended = f"{block}\nimport sys\nassert not {{'torch', 'cxr'}} & set(sys.modules)\nprint(probability, called)\n"
    done = subprocess.run([sys.executable, "-c", ended], capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    probability, called = done.stdout.split()
    pictures = {"kind": "class_folders", "root": str(tmp_path / "pictures"), "patient": "none"}
    result = score(exported.run, data={"sources": {"one": pictures}, "classes": None}, output_dir=tmp_path / "scored")
    stored = read_calibration(exported.run / "calibration.json")
    assert stored is not None
    expected = stored.calibration.apply(result.predictions[PROBABILITIES].to_numpy(np.float32))[0, 0]
    assert float(probability) == pytest.approx(expected, abs=1e-4)
    assert called == str(expected >= stored.operating_points[0].threshold)


def test_what_the_run_was_evaluated_with_is_what_is_exported(run: Path) -> None:
    score(run, split="val", calibration="platt", operating_points=["specificity=0.9"], abstain="share=0.2")
    before = (run / "calibration.json").read_bytes()
    result = export_run(run, formats=["safetensors", "onnx"], num_images=4, progress=False)
    described = result.content.description
    assert described.calibration.method == "platt"
    assert [point.rule for point in described.operating_points] == ["specificity=0.9"]
    assert described.operating_points[0].abstain is not None
    assert result.content.parity.images == 4
    images = validation_images(run).numpy()
    _, probabilities = ask(result.folder, images)
    stored = read_calibration(run / "calibration.json")
    assert stored is not None
    with torch.no_grad():
        raw = open_run(run).module(torch.from_numpy(images)).softmax(dim=1).numpy()
    assert np.abs(probabilities - stored.calibration.apply(raw)).max() <= 1e-4

    with pytest.raises(ConfigurationError, match="isotonic"):
        export_run(run, calibration="isotonic", progress=False)
    assert result.folder.is_dir(), "what was there before a refusal stays"
    (result.folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="holds something else"):
        export_run(run, formats=["safetensors"], progress=False)
    (result.folder / "notes.txt").unlink()
    again = export_run(run, formats=["safetensors"], calibration="isotonic", which="last", progress=False)
    assert sorted(path.name for path in again.folder.iterdir()) == ["model.json", "model.safetensors"]
    assert again.content.description.calibration.method == "isotonic"
    assert (run / "calibration.json").read_bytes() == before, "what was asked of one export alone is not the run's"
    assert {path.name for path in run.glob(".export*")} == set()


def test_without_the_data_an_export_is_bare_only_when_asked_for(run: Path, tmp_path: Path) -> None:
    lone = tmp_path / "elsewhere" / "network.ckpt"
    lone.parent.mkdir()
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["datamodule_hyper_parameters"]["sources"] = {"ward": {"kind": "class_folders", "root": "/gone"}}
    torch.save(content, lone)
    with pytest.raises(DataError, match=r"paths\.data=<folder>, or calibration=none and operating_points=\[\]"):
        export_run(lone, formats=["safetensors"], progress=False)
    assert list(lone.parent.iterdir()) == [lone]
    result = export_run(
        lone, formats=["safetensors"], calibration="none", operating_points=[], num_images=3, progress=False
    )
    assert result.folder == lone.parent / "network_export"
    assert result.content.parity.drawn_from == "random"
    assert any("random pixels" in note for note in result.notes)
    scored = score(result.folder, data={**WARD, "classes": {"covid": ["COVID-19"], "other": ["rest"]}})
    assert any("came without any" in note for note in scored.notes)


def test_a_file_that_answers_otherwise_is_not_exported(run: Path) -> None:
    # So steep a calibration makes a different probability of the last digit in which two ways to the log-odds differ.
    score(run, split="val", calibration="platt", operating_points=["fixed=0.5"])
    images = validation_images(run)
    with torch.no_grad():
        logits = open_run(run).module(images)
    odds, slope = log_odds(logits.softmax(dim=1).numpy(), 0), 1e7
    logs = logits.log_softmax(dim=1).numpy()
    content = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    middle = float(odds[np.abs(logs[:, 0] - logs[:, 1] - odds).argmax()])
    content["calibration"] |= {"slopes": [slope, slope], "intercepts": [-slope * middle, slope * middle]}
    (run / "calibration.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CxrError, match=r"model\.onnx gives other answers than PyTorch") as caught:
        export_run(run, progress=False)
    assert "\n" not in str(caught.value)
    assert not (run / "export").exists()
    assert {path.name for path in run.glob(".export*")} == set()


@pytest.mark.real_data
@pytest.mark.skipif("CXR_REAL_DATA" not in os.environ, reason="needs CXR_REAL_DATA")
def test_parity_holds_on_real_radiographs(tmp_path: Path) -> None:
    collection = Path(os.environ["CXR_REAL_DATA"]) / "covid-chestxray-dataset"
    table = pd.read_csv(collection / "metadata.csv")
    there = {path.name for path in (collection / "images").iterdir()}
    table = table[table["view"].isin(["PA", "AP"]) & table["filename"].isin(there)]
    is_covid = table["finding"].str.contains("COVID")
    for name, rows in (("covid", table[is_covid]), ("other", table[~is_covid])):
        (tmp_path / "real" / name).mkdir(parents=True)
        for image in rows["filename"].tolist()[:20]:
            shutil.copy(collection / "images" / image, tmp_path / "real" / name / image)
    data = CXRDataModule(
        {"real": {"kind": "class_folders", "root": str(tmp_path / "real"), "patient": "none"}},
        data_dir=tmp_path,
        cache_dir=tmp_path / "cache",
        image_size=128,
        batch_size=8,
        look_for_copies=False,
        progress=False,
    )
    data.setup()
    torch.manual_seed(0)
    module = CXRModule(
        "resnet10t", class_names=data.class_names, positive="covid", image_size=128, pretrained=False,
        optimizer={"lr": 3e-3},
    )  # fmt: skip
    run = RunDirectory.create(tmp_path / "runs", "real")
    build_trainer(run_dir=run, max_epochs=1, gpus=0, progress=False).fit(module, data)
    result = export_run(run.path, progress=False)
    assert result.content.parity.drawn_from == "val"
    assert result.content.parity.images == int((data.records["split"] == "val").sum())
    images = validation_images(run.path)
    with torch.no_grad():
        expected = open_run(run.path).module(images).numpy()
    logits, _ = ask(result.folder, images.numpy())
    assert np.ptp(expected[:, 0]) > 1e-3
    assert np.abs(logits - expected).max() <= 1e-4
