"""How does a network become a file that ONNX Runtime answers from, without PyTorch and without cxr?

The file takes the grey pixels of prepared radiographs as they are, uint8 (B, 1, H, W) for any B, and gives ``logits``
(B, C) and calibrated ``probabilities`` (B, C); normalisation and calibration are part of the graph. Its metadata hold
the description of the network under ``cxr_model``.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr.errors import ConfigurationError
from cxr.evaluation.calibration.calibration import Calibration
from cxr.evaluation.calibration.recalibration import SMALLEST
from cxr.evaluation.export.description import ModelDescription
from cxr.training.module import CXRModule

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
METADATA_KEY = "cxr_model"
INPUT, OUTPUTS = "image", ("logits", "probabilities")


def require_packages() -> None:
    """Refuse where what an ONNX file is made and tried with is not installed.

    Raises:
        ConfigurationError: naming what is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"formats=onnx: {', '.join(missing)} not installed; uv sync --extra onnx, or give formats=[safetensors]"
        )


def require_calibration(calibration: Calibration) -> None:
    """Refuse a calibration with steps: rounding in another program would carry an image across one.

    Raises:
        ConfigurationError: an isotonic calibration.
    """
    if calibration.method == "isotonic":
        raise ConfigurationError(
            "formats=onnx with calibration=isotonic: its steps make a rounding in the seventh digit a different "
            "probability; give calibration=temperature or platt, or formats=[safetensors]"
        )


def write_onnx(module: CXRModule, description: ModelDescription, path: Path, *, opset: int) -> None:
    """Write the network with all that belongs to it.

    Args:
        module: in evaluation mode, on the CPU.
        description: goes into the file as metadata.
        path: the file.
        opset: version of ONNX's operators.

    Raises:
        ConfigurationError: the exporter of PyTorch cannot follow this network.
    """
    import onnx

    size = description.preparation.size
    # Two images: a size of 1 would be taken for a constant.
    example = torch.zeros(2, 1, size, size, dtype=torch.uint8)
    served = _ServedNetwork(module, description.calibration).eval()
    try:
        with _quiet():
            program = torch.onnx.export(
                served,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
                external_data=False,
                verbose=False,
            )
            assert program is not None
            model: Any = program.model_proto
    except Exception as error:  # the exporter raises whatever the network, its shapes or its operators made of it
        told = " ".join(str(error).split())[:160]
        raise ConfigurationError(
            f"formats=onnx: PyTorch cannot export {description.backbone} with opset={opset} "
            f"({type(error).__name__}: {told}); give formats=[safetensors]"
        ) from error
    versions = [each.version for each in model.opset_import if each.domain == ""]
    if versions != [opset]:  # where it cannot convert a network, the exporter leaves it as it is
        raise ConfigurationError(
            f"opset={opset}: PyTorch exports {description.backbone} with {versions[0]} only; give opset={versions[0]}"
        )
    _forget_origin(model)
    model.producer_name, model.producer_version = "cxr", description.cxr_version
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(description.to_dict(), ensure_ascii=False, allow_nan=False)
    try:
        onnx.save_model(model, str(path))
    except ValueError as error:  # protobuf ends at 2 GiB
        raise ConfigurationError(
            f"formats=onnx: {description.backbone} does not go into one file ({' '.join(str(error).split())[:160]}); "
            "give formats=[safetensors]"
        ) from error


def run_onnx(path: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What ONNX Runtime answers from a file on a CPU: the first image alone, the others together.

    Args:
        path: the file.
        images: (N, 1, H, W), N at least 1.

    Returns:
        Logits (N, C) and calibrated probabilities (N, C).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = [images[:1], *([images[1:]] if len(images) > 1 else [])]
    answers = [session.run(list(OUTPUTS), {INPUT: batch}) for batch in batches]
    logits, probabilities = (np.concatenate([answer[place] for answer in answers]) for place in range(2))
    return logits, probabilities


class _ServedNetwork(nn.Module):
    """From grey pixels to logits and calibrated probabilities.

    Args:
        module: with its normalisation.
        calibration: 'none', 'temperature' or 'platt'.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, module: CXRModule, calibration: Calibration) -> None:
        super().__init__()
        self.network = module.network
        self.register_buffer("scale", module.pixel_scale.view(1, 3, 1, 1))
        self.register_buffer("offset", module.pixel_offset.view(1, 3, 1, 1))
        self.calibration = calibration

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities (B, C) of images uint8 (B, 1, H, W)."""
        logits: Tensor = self.network(image.to(torch.float32) * self.scale + self.offset)
        return logits, _calibrated(logits, self.calibration)


def _calibrated(logits: Tensor, calibration: Calibration) -> Tensor:
    """What `Calibration.apply` makes of the softmax of logits (B, C)."""
    if calibration.method == "none":
        return logits.softmax(dim=1)
    logs, smallest = logits.log_softmax(dim=1), math.log(SMALLEST)
    if calibration.method == "temperature":
        assert calibration.temperature is not None
        return (logs.clamp(min=smallest) / calibration.temperature).softmax(dim=1)
    num_classes = logits.shape[1]
    rest = torch.stack(
        [logs[:, [other for other in range(num_classes) if other != place]].logsumexp(dim=1)
         for place in range(num_classes)],
        dim=1,
    )  # fmt: skip
    odds = logs.clamp(min=smallest) - rest.clamp(min=smallest)
    against_rest = torch.sigmoid(odds * torch.tensor(calibration.slopes) + torch.tensor(calibration.intercepts))
    total = against_rest.sum(dim=1, keepdim=True)
    against_rest = torch.where(total > 0, against_rest, logs.exp())
    return against_rest / against_rest.sum(dim=1, keepdim=True)


def _forget_origin(model: Any) -> None:
    """Take out what the exporter notes of every node: the lines of source behind it, with their folders."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in (model.graph, *model.functions):
        for owner in (graph, *graph.node, *getattr(graph, "input", ()), *graph.value_info):
            owner.doc_string = ""
            del owner.metadata_props[:]
    for owner in (*model.graph.output, *model.graph.initializer):
        owner.doc_string = ""
        del owner.metadata_props[:]
    model.graph.name = "cxr"


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, nothing that the exporter says of its steps is seen."""
    disabled = logging.root.manager.disable
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
