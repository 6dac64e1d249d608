"""Does anything that tells whose radiographs they are, or whose machine it is, leave it?

Words that stand for a patient, a file, a folder, a note, a host and a user are planted in all such places; then what is
meant to leave the machine is searched for them, byte by byte and within whatever is packed or encoded.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.programs import Ended, run
from tests.wandb_server import WandbServer, serve

pytestmark = pytest.mark.fault
CANARY = "kanarienvogel"
CANARIES = {
    place: f"{CANARY}-{place}"
    for place in ("patient", "file", "folder", "note", "pixel", "host", "user", "home", "work")
}
NUM_PATIENTS = 40
SETTINGS = [
    "data.image_size=32",
    "data.look_for_copies=false",
    "data.max_unreadable=0.1",
    "audit.shortcuts=false",
    "model.name=test_resnet",
    "model.pretrained=false",
    "trainer.gpus=0",
    "trainer.max_epochs=2",
    "logger.log_model=all",
]


@dataclass(frozen=True)
class Clinic:
    """A machine with radiographs.

    Attributes:
        home: the home of its user.
        table: of the radiographs.
        run: of the training.
        said: by the training, the evaluation, the export, the training that crashed, and the sending.
        sent: what a W&B server got.
    """

    home: Path
    table: Path
    run: Path
    crashed: Path
    said: list[Ended]
    sent: WandbServer


def draw_collection(folder: Path) -> Path:
    """Radiographs of noise, brighter where there is a finding, with a canary in every name."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(NUM_PATIENTS):
        for view in ("PA", "AP"):
            label = "COVID-19" if number % 2 else "No Finding"
            pixels = generator.integers(0, 120, (48, 48)) + 60 * (number % 2)
            name = f"{CANARIES['file']}-{number}-{view}.png"
            about = PngInfo()
            about.add_text("Comment", CANARIES["pixel"])
            about.add_text("Description", CANARIES["pixel"], zip=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name, pnginfo=about)
            rows.append(
                {
                    "image": name,
                    "label": label,
                    "patient": f"{CANARIES['patient']}-{number}",
                    "view": view,
                    "sex": "F" if number % 3 else "M",
                    "age": 20 + number,
                    "clinical_notes": f"{CANARIES['note']} seen on the ward",
                }
            )
    (folder / f"{CANARIES['file']}-broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    rows.append({**rows[-1], "image": f"{CANARIES['file']}-broken.png"})
    pd.DataFrame(rows).to_csv(folder / "list.csv", index=False)
    return folder / "list.csv"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    root = tmp_path_factory.mktemp("clinic")
    home = root / CANARIES["home"]
    work = home / CANARIES["work"]
    work.mkdir(parents=True)
    table = draw_collection(root / CANARIES["folder"])
    here = {"cwd": work, "HOME": str(home), "host": CANARIES["host"], "HOSTNAME": CANARIES["host"],
            **dict.fromkeys(("USER", "LOGNAME", "USERNAME"), CANARIES["user"])}  # fmt: skip
    data = ["data=table", f"data.root={table}", "name=clinic"]
    # The split as the collection has it names a patient twice, so that there is a leak to warn of.
    trained = run("train.py", *data, *SETTINGS, "audit.on_leak=warn", "data.split.unit=image", **here)
    assert trained.returncode == 0, trained.said
    (place,) = (work / "outputs" / "clinic").iterdir()
    evaluated = run("evaluate.py", f"run={place}", "trainer.gpus=0", "report.share=true", "num_resamples=100",
                    "saliency=4", "shortcuts=false", **here)  # fmt: skip
    assert evaluated.returncode == 0, evaluated.said
    exported = run("-m", "cxr.export", f"run={place}", "formats=[safetensors]", **here)
    assert exported.returncode == 0, exported.said
    crashed = run("train.py", *data[:2], *SETTINGS, "name=crashed", largest_file=300_000, **here)
    assert crashed.returncode != 0, crashed.said
    (fallen,) = (work / "outputs" / "crashed").iterdir()
    with serve() as server:
        online = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.address}
        sent = run("-m", "cxr.sync", str(work / "outputs"), **{**here, **online})
        assert sent.returncode == 0, sent.said
    return Clinic(home, table, place, fallen, [trained, evaluated, exported, crashed, sent], server)


# --------------------------------------------------------------------------------------------------------- searching


BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def unpacked(content: bytes, depth: int = 4) -> Iterator[bytes]:
    """The bytes, and those of whatever is packed or encoded in them."""
    yield content
    if depth == 0:
        return
    inner: list[bytes] = []
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inner += [name.encode() for name in archive.namelist()]
            inner += [archive.read(name) for name in archive.namelist()]
    elif content[:2] == b"\x1f\x8b":
        inner.append(gzip.decompress(content))
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            inner += [f"{key}: {value}".encode() for key, value in picture.info.items()]
    else:
        for found in BASE64.finditer(content):
            coded = found.group().rstrip(b"=")
            inner.append(base64.b64decode(coded[: len(coded) // 4 * 4]))
    for each in inner:
        yield from unpacked(each, depth - 1)


def found_in(content: bytes) -> list[str]:
    """The canaries in it, in any encoding of text that a program might choose."""
    singing = set()
    for part in unpacked(content):
        lowered = part.lower()
        for place, canary in CANARIES.items():
            if any(canary.encode(code) in lowered for code in ("utf-8", "utf-16-le", "utf-16-be")):
                singing.add(place)
    return sorted(singing)


def searched(*folders: Path, logs: bool = False) -> dict[str, list[str]]:
    """File -> canaries in its content or its name below the folder.

    Args:
        logs: look at what W&B's own process notes for its developers, and at nothing else; it is never sent.
    """
    held = {}
    for folder in folders:
        for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
            if (path.suffix == ".log") != logs:
                continue
            name = path.name if path == folder else str(path.relative_to(folder))
            singing = found_in(name.encode())
            if path.is_symlink():
                singing += found_in(str(path.readlink()).encode())
            elif path.is_file():
                singing += found_in(path.read_bytes())
            if singing:
                held[name] = singing
    return held


HIDDEN = {
    "as it is": CANARIES["patient"].encode(),
    "in capitals": CANARIES["patient"].upper().encode(),
    "in UTF-16": CANARIES["note"].encode("utf-16-le"),
    "in base64": base64.b64encode(f"a report of {CANARIES['file']} and more".encode()),
    "in gzip": gzip.compress(CANARIES["host"].encode() * 3),
}


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_the_search_finds_what_is_hidden(hidden: bytes) -> None:
    assert found_in(hidden)


def test_the_search_finds_what_is_hidden_in_pictures_and_archives(clinic: Clinic) -> None:
    picture = next(clinic.table.parent.glob("*-0-PA.png")).read_bytes()
    assert found_in(picture) == ["pixel"]
    page = b'<img src="data:image/png;base64,' + base64.b64encode(picture) + b'">'
    assert found_in(page) == ["pixel"]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("page.html", page)
    assert found_in(packed.getvalue()) == ["pixel"]
    assert zlib.decompress(zlib.compress(packed.getvalue())) == packed.getvalue()


# ------------------------------------------------------------------------------------------------------ what leaves


def test_the_run_itself_knows_them(clinic: Clinic) -> None:
    """Or the search below would find nothing because there is nothing."""
    assert "patient" in searched(clinic.run / "split.csv")["split.csv"]
    assert "file" in searched(clinic.run / "predictions")["test.csv"]
    assert searched(clinic.run / "dropped.csv")["dropped.csv"] == ["file"]
    assert {"folder", "home"} & set(searched(clinic.run / "config.yaml")["config.yaml"])
    assert "file" in searched(clinic.run / "report.html")["report.html"]
    assert json.loads((clinic.crashed / "status.json").read_text())["status"] == "failed"


LEAVING = ["tracking", "report_shared.html", "model_card.md", "export", "environment.json"]


@pytest.mark.parametrize("place", LEAVING)
def test_no_canary_is_in_what_leaves_the_run(place: str, clinic: Clinic) -> None:
    assert (clinic.run / place).exists()
    assert searched(clinic.run / place) == {}


def test_no_canary_is_in_what_a_crash_leaves_for_wandb(clinic: Clinic) -> None:
    assert list((clinic.crashed / "tracking" / "wandb").rglob("*.wandb"))
    assert searched(clinic.crashed / "tracking") == {}


def test_the_logs_of_wandb_know_where_they_lie_and_no_patient(clinic: Clinic) -> None:
    for run_dir in (clinic.run, clinic.crashed):
        found = searched(run_dir / "tracking", logs=True)
        assert {place for places in found.values() for place in places} <= {"home", "work", "user"}, found


def test_no_canary_is_in_what_wandb_s_own_reader_shows(clinic: Clinic) -> None:
    runs = [*clinic.home.rglob("offline-run-*")]
    runs = [path for path in runs if path.is_dir()]
    assert len(runs) == 3
    for path in runs:
        shown = subprocess.run(
            [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)], capture_output=True, check=True
        )
        assert len(shown.stdout) > 1000
        assert found_in(shown.stdout) == []


def test_no_canary_is_in_what_a_server_is_sent(clinic: Clinic) -> None:
    assert len(clinic.sent.uploads) > 5
    assert [singing for each in clinic.sent.everything if (singing := found_in(each))] == []


def test_a_record_of_the_shared_report_is_found_again_with_the_run_alone(clinic: Clinic) -> None:
    page = (clinic.run / "report_shared.html").read_text()
    names = pd.read_csv(clinic.run / "record_names.csv", dtype=str)
    images = {image for path in (clinic.run / "predictions").iterdir() for image in pd.read_csv(path)["image"]}
    shown = names[[name in page for name in names["record"]]]  # the others stand in W&B's tables
    assert len(shown)
    assert set(shown["image"]) <= images
    assert (clinic.run / "split_key").stat().st_mode & 0o077 == 0
    assert (clinic.run / "split_key").read_text().strip() not in page


def test_the_shared_report_shows_no_radiograph_and_still_says_what_was_found(clinic: Clinic) -> None:
    page, own = ((clinic.run / name).read_text() for name in ("report_shared.html", "report.html"))
    assert "LEAK" in page
    assert page.count("data:image/png") < own.count("data:image/png")
    assert "AUROC" in page
    assert "Grad-CAM panels show radiographs and were left out" in page
