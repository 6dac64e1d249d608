"""Small in-memory batches of the contract's shape, and a module that a CPU trains in seconds."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cxr.training.module import CXRModule
from cxr.training.trainer import silence_wrong_advice

Loader = DataLoader[dict[str, Tensor]]


class Shades(Dataset[dict[str, Tensor]]):
    """Grey noise; the images of the second class are brighter by ``contrast`` grey levels."""

    def __init__(self, labels: list[int], *, size: int = 32, contrast: float = 60.0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.tensor(labels)
        noise = torch.randint(40, 140, (len(labels), 1, size, size), generator=generator)
        self.images = (noise + contrast * (self.labels == 1).view(-1, 1, 1, 1)).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        return {"image": self.images[item], "label": self.labels[item], "index": torch.tensor(item)}


@pytest.fixture
def loader() -> Callable[..., Loader]:
    def make(labels: list[int], *, batch_size: int = 8, shuffle: bool = False, **options: Any) -> Loader:
        generator = torch.Generator().manual_seed(1)
        return DataLoader(Shades(labels, **options), batch_size=batch_size, shuffle=shuffle, generator=generator)

    return make


@pytest.fixture
def make_module() -> Callable[..., CXRModule]:
    def make(**options: Any) -> CXRModule:
        torch.manual_seed(options.pop("seed", 0))
        settings = {
            "backbone": "test_resnet",
            "class_names": ["covid", "other"],
            "positive": "covid",
            "image_size": 32,
            "pretrained": False,
        }
        return CXRModule(**{**settings, **options})

    return make


@pytest.fixture(autouse=True, scope="session")
def _quiet_and_frugal() -> None:
    silence_wrong_advice()
    # Threads that wait for each other on a machine with other work make networks as small as these ten times slower.
    torch.set_num_threads(1)


class Hub:
    """A model hub on the loopback interface that offers files, and counts what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.broken = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self.wfile.write(self._answer())

            def _answer(self) -> bytes:
                hub.requests.append(f"{self.command} {self.path}")
                content = hub.files.get(self.path)
                if content is None or hub.broken:
                    self.send_response(503 if hub.broken else 404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return b""
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                return content

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def offer(self, repository: str, tensors: dict[str, Tensor]) -> None:
        self.files[f"/{repository}/resolve/main/model.safetensors"] = safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in tensors.items()}
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that timm fetches from, with an empty cache."""
    made = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    made.close()
