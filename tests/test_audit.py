"""Does the audit find what was planted, and does training refuse it?  With the programs as processes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pandas as pd
import pytest
from tests.programs import Ended, run

from cxr.sources import phantom

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [
    "data=class_folders",
    "data.root=pictures",
    "paths.data=.",
    "data.split.kind=predefined",
    "data.sources.class_folders.patient=none",
]
TINY = [
    "data.image_size=32",
    "model.name=test_resnet",
    "model.pretrained=false",
    "trainer.gpus=0",
    "trainer.max_epochs=1",
    "logger=none",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn radiographs in class folders, and in the test folder a part of one that is trained on."""
    folder = tmp_path_factory.mktemp("leaking")
    drawn = phantom.read("phantom", cache_dir=folder, num_patients=48, images_per_patient=1, size=192, progress=False)
    counts: dict[str, int] = {}
    for record in drawn.records.itertuples():
        label = "covid" if record.finding == "COVID-19" else "other"
        counts[label] = counts.get(label, -1) + 1
        split = ("train", "train", "val", "test")[counts[label] % 4]
        target = folder / "pictures" / split / label / f"{counts[label]:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), cv2.imread(str(record.path), cv2.IMREAD_GRAYSCALE))
    whole = cv2.imread(str(folder / "pictures/train/other/000.png"), cv2.IMREAD_GRAYSCALE)
    assert whole is not None
    part = cv2.convertScaleAbs(whole[20:180, 15:175], alpha=0.9, beta=12)
    cv2.imwrite(str(folder / "pictures/test/covid/planted.jpg"), part, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return folder


@pytest.fixture(scope="module")
def audited(folder: Path) -> tuple[Path, Ended]:
    done = run("-m", "cxr.audit", *FOLDERS, "thumbnails=true", cwd=folder)
    (written,) = (folder / "outputs" / "audit" / "class_folders").iterdir()
    return written, done


def test_a_planted_leak_ends_with_status_3_and_is_named(
    audited: tuple[Path, Ended],
) -> None:
    written, done = audited
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "planted.jpg" in done.stderr
    leaks = pd.read_csv(written / "leaks.csv")
    assert len(leaks) == 1
    (leak,) = leaks.to_dict("records")
    assert {leak["image_a"], leak["image_b"]} == {"test/covid/planted.jpg", "train/other/000.png"}
    assert (leak["kind"], leak["label_differs"]) == ("crop", True)
    content = json.loads((written / "audit.json").read_text(encoding="utf-8"))
    assert content["leaks"] == {"crop": 1}
    assert content["same_pictures"]["crop"] == 1
    (joined,) = content["joined"]
    assert len(joined["patients"]) == 2
    assert joined["because"][0]["kind"] == "crop"


def test_the_page_shows_the_pair_and_needs_nothing_else(
    audited: tuple[Path, Ended],
) -> None:
    page = (audited[0] / "audit.html").read_text(encoding="utf-8")
    assert "LEAK across the predefined split" in page
    assert "planted.jpg" in page
    assert page.count("data:image/png;base64,") == 1  # the pair, side by side
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_training_refuses_the_leak_before_it_fits(folder: Path) -> None:
    done = run("train.py", "name=refused", *FOLDERS, *TINY, cwd=folder)
    assert done.returncode == 3, done.stderr
    assert "audit.on_leak=warn" in done.stderr
    (refused,) = (folder / "outputs" / "refused").iterdir()
    assert not list((refused / "checkpoints").iterdir())
    assert len(pd.read_csv(refused / "leaks.csv")) == 1


def test_with_a_warning_it_trains_and_the_report_says_so_first(folder: Path) -> None:
    done = run("train.py", "name=warned", *FOLDERS, *TINY, "audit.on_leak=warn", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "LEAK" in done.stdout
    (warned,) = (folder / "outputs" / "warned").iterdir()
    scored = run("evaluate.py", f"run={warned}", "saliency=0", "trainer.gpus=0", cwd=folder)
    assert scored.returncode == 0, scored.stderr
    page = (warned / "report.html").read_text(encoding="utf-8")
    assert "LEAK" in page
    assert page.index("LEAK") < page.index("What was found")


def test_a_split_by_patient_keeps_the_pair_together(folder: Path) -> None:
    done = run("-m", "cxr.audit", *FOLDERS, "data.split.kind=holdout", "paths.output=honest", cwd=folder)
    assert done.returncode == 0, done.stderr
    (written,) = (folder / "honest" / "audit" / "class_folders").iterdir()
    split = pd.read_csv(written / "split.csv").set_index("image")
    assert split.loc["test/covid/planted.jpg", "group"] == split.loc["train/other/000.png", "group"]
    assert split.loc["test/covid/planted.jpg", "split"] == split.loc["train/other/000.png", "split"]
    assert pd.read_csv(written / "leaks.csv").empty


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    done = run("-m", "cxr.audit", "model=resnet50", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    done = run("-m", "cxr.audit", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "data.look_for_copies" in done.stdout
