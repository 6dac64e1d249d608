"""Does a run take DICOM files from the header to the prediction, and keep to itself whose they are?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pydicom.uid import ImplicitVRLittleEndian
from tests.programs import run
from tests.written_dicom import dicom, jpeg

ROOT = Path(__file__).resolve().parents[1]
CANARY = "Zaunkoenig"
PATIENT = "Amsel"  # a report names the patient of a mistake, whatever the collection
TINY = [
    "name=dicom",
    "data.image_size=32",
    "model.name=test_resnet",
    "model.pretrained=false",
    "trainer.max_epochs=1",
    "trainer.gpus=0",
]


def picture(number: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:40, :40]
    noise = np.random.default_rng(number).normal(0, 20, (40, 40))
    bright = 90 * (number % 2) * np.exp(-((rows - 20) ** 2 + (columns - 12) ** 2) / 60)
    return np.clip(70 + columns + noise + bright, 0, 255).astype(np.uint8)


def header(number: int) -> dict[str, str]:
    """As a careless export would leave it: somebody's name wherever a text can stand."""
    return {
        "PatientID": f"{PATIENT}{number // 2:02d}",
        "PatientName": f"{CANARY}^Anna",
        "PatientBirthDate": "19630321",
        "StudyDate": "20200401",
        "PatientSex": "MF"[number // 2 % 2],
        "ViewPosition": ["PA", "AP", CANARY][number % 3],
        "SeriesDescription": f"{CANARY} bed",
        "ProtocolName": CANARY,
        "AccessionNumber": CANARY,
        "InstitutionName": CANARY,
        "ReferringPhysicianName": CANARY,
        "ImageComments": CANARY,
        "BodyPartExamined": CANARY.upper()[:16],
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run was trained on a challenge, and below it DICOM files that nobody has labelled."""
    folder = tmp_path_factory.mktemp("dicom")
    images = folder / "challenge" / "stage_2_train_images"
    images.mkdir(parents=True)
    rows = ["patientId,x,y,width,height,Target"]
    for number in range(60):
        (images / f"{number:04d}.dcm").write_bytes(jpeg(picture(number), **header(number)))
        rows += [f"{number:04d},1,2,3,4,1"] * 2 if number % 2 else [f"{number:04d},,,,,0"]
    (folder / "challenge" / "stage_2_train_labels.csv").write_text("\n".join(rows) + "\n")
    others = folder / "others" / "1.2.3"
    others.mkdir(parents=True)
    for number in range(100, 108):
        pixels = picture(number).astype(np.uint16) * 16
        window = {"BitsStored": 12, "WindowCenter": 1800, "WindowWidth": 3000}
        (others / f"IM{number}").write_bytes(dicom(pixels, ImplicitVRLittleEndian, **header(number), **window))
    done = run("train.py", "data=rsna_pneumonia", f"data.root={folder / 'challenge'}", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not words_of_headers(done.stdout.encode() + done.stderr.encode())
    return folder


def the_run(folder: Path) -> Path:
    (found,) = (folder / "outputs" / "dicom").iterdir()
    return found


def test_headers_and_table_become_the_manifest_and_patients_stay_on_one_side(trained: Path) -> None:
    split = pd.read_csv(the_run(trained) / "split.csv", dtype=str)
    assert len(split) == 60
    assert split["label"].value_counts().to_dict() == {"pneumonia": 30, "other": 30}
    assert split["patient"].nunique() == 30
    assert (split.groupby("patient")["split"].nunique() == 1).all()
    assert set(split["view"].dropna()) == {"PA", "AP"}
    assert split["age"].astype(float).round().eq(57).all()
    assert set(split["sex"]) == {"M", "F"}


def test_a_folder_without_labels_gives_predictions_and_grad_cam_and_names_nobody(trained: Path) -> None:
    folder = the_run(trained)
    done = run("evaluate.py", f"run={folder}", "data=dicom", f"data.root={trained / 'others'}", cwd=trained)
    assert done.returncode == 0, done.stderr

    predictions = pd.read_csv(folder / "predictions" / "dicom.csv")
    assert predictions["image"].tolist() == [f"1.2.3/IM{number}" for number in range(100, 108)]
    assert predictions[["prob_pneumonia", "prob_other"]].sum(axis=1).to_numpy() == pytest.approx(np.ones(8), abs=1e-5)
    assert predictions["prob_pneumonia"].nunique() == 8, "every picture has pixels of its own"
    assert list((folder / "figures").glob("dicom_saliency_*.png"))
    assert "Grad-CAM" in done.stdout
    assert not words_of_headers(done.stdout.encode() + done.stderr.encode())


def words_of_headers(content: bytes) -> list[bytes]:
    wanted = (CANARY.encode(), PATIENT.encode(), b"19630321", b"20200401")
    return [word for word in wanted if word.lower() in content.lower()]


def test_no_word_of_a_header_is_in_what_is_shared(trained: Path) -> None:
    folder = the_run(trained)
    done = run("evaluate.py", f"run={folder}", "shortcuts=false", "saliency=4", cwd=trained)
    assert done.returncode == 0, done.stderr

    tracked = [path for path in (folder / "tracking").rglob("*") if path.is_file() and path.name != "split_key"]
    assert len([path for path in tracked if path.suffix == ".wandb"]) == 2, "the training and the evaluation"
    for path in (*tracked, folder / "model_card.md", folder / "metrics.json"):
        assert not words_of_headers(path.read_bytes()), path
    assert set(words_of_headers((folder / "report.html").read_bytes())) <= {PATIENT.encode()}
    for path in trained.rglob("outputs/**/*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
    assert words_of_headers((folder / "split.csv").read_bytes()) == [PATIENT.encode()], "what the search would find"


def test_files_that_cannot_be_read_end_a_run_by_their_names_and_reasons_only(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "film").write_bytes(dicom(np.zeros((80, 40), np.uint8), Rows=40, NumberOfFrames=2, **header(1)))
    done = run("evaluate.py", f"run={the_run(trained)}", "data=dicom", f"data.root={tmp_path / 'bad'}",
               f"paths.output={tmp_path}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 3
    assert "film: several frames" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not words_of_headers(done.stderr.encode())


def test_the_source_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    done = run("train.py", "data=dicom", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.root: needs a value"), done.stderr
