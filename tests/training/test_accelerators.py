from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cxr.errors import ConfigurationError
from cxr.training.accelerators import (
    cpu_multiplies_bfloat16,
    resolve_devices,
    resolve_precision,
    translate_gpus,
)


@pytest.mark.parametrize(
    ("gpus", "num_cuda", "has_mps", "expected"),
    [
        (None, 0, False, ("cpu", 1)),
        (None, 1, False, ("cuda", 1)),
        (None, 8, False, ("cuda", 1)),
        (None, 0, True, ("mps", 1)),
        (0, 8, False, ("cpu", 1)),
        (0, 0, True, ("cpu", 1)),
        (1, 1, False, ("cuda", 1)),
        (3, 4, False, ("cuda", 3)),
        (-1, 4, False, ("cuda", 4)),
    ],
)
def test_gpus_become_accelerator_and_devices(
    gpus: int | None, num_cuda: int, has_mps: bool, expected: tuple[str, int]
) -> None:
    devices = translate_gpus(gpus, num_cuda=num_cuda, has_mps=has_mps)
    assert (devices["accelerator"], devices["devices"]) == expected


@pytest.mark.parametrize(("gpus", "num_cuda"), [(1, 0), (2, 1), (9, 8), (-1, 0)])
def test_gpus_that_are_not_there_are_refused_in_one_line(gpus: int, num_cuda: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        translate_gpus(gpus, num_cuda=num_cuda)
    line = str(caught.value)
    assert f"trainer.gpus={gpus}" in line
    assert "trainer.gpus=0" in line
    assert "\n" not in line
    if num_cuda:
        assert f"only {num_cuda} " in line


def test_less_than_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"trainer.gpus=-2"):
        translate_gpus(-2, num_cuda=4)


def test_ddp_on_a_cpu_takes_two_processes_unless_told_otherwise() -> None:
    assert translate_gpus(0, num_cuda=0, strategy="ddp") == {"accelerator": "cpu", "devices": 2}
    assert translate_gpus(0, num_cuda=0, strategy="ddp", num_processes=3)["devices"] == 3
    assert translate_gpus(None, num_cuda=0, has_mps=True, strategy="ddp")["accelerator"] == "cpu"
    assert translate_gpus(None, num_cuda=2, strategy="ddp") == {"accelerator": "cuda", "devices": 1}


@pytest.mark.parametrize(
    ("gpus", "num_cuda", "strategy", "num_processes"),
    [(1, 1, "ddp", 2), (0, 0, "auto", 2), (0, 0, "ddp", 0)],
)
def test_contradicting_processes_are_refused(gpus: int, num_cuda: int, strategy: str, num_processes: int) -> None:
    with pytest.raises(ConfigurationError, match=r"trainer.num_processes="):
        translate_gpus(gpus, num_cuda=num_cuda, strategy=strategy, num_processes=num_processes)


def test_this_machine_is_asked() -> None:
    assert resolve_devices(0) == {"accelerator": "cpu", "devices": 1}
    with pytest.raises(ConfigurationError):
        resolve_devices(torch.cuda.device_count() + 1)


def test_a_missing_gpu_is_found_before_lightning_and_timm_are_loaded() -> None:
    program = (
        "import sys; from cxr.training.accelerators import resolve_devices\n"
        "assert 'torch' not in sys.modules\n"
        "try: resolve_devices(4096)\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print('pytorch_lightning' in sys.modules, 'timm' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["ConfigurationError", "False", "False"]


@pytest.mark.parametrize(
    ("precision", "accelerator", "expected"),
    [
        ("auto", "cuda", "16-mixed"),
        ("auto", "cpu", "32-true"),
        ("auto", "mps", "32-true"),
        ("bf16-mixed", "cuda", "bf16-mixed"),
        ("32-true", "cuda", "32-true"),
    ],
)
def test_precision_is_resolved(precision: str, accelerator: str, expected: str) -> None:
    assert resolve_precision(precision, accelerator) == expected


def test_half_precision_on_a_cpu_is_refused_not_replaced() -> None:
    with pytest.raises(ConfigurationError, match=r"trainer.precision=16-mixed"):
        resolve_precision("16-mixed", "cpu")


def test_bfloat16_on_a_cpu_needs_its_instructions() -> None:
    with pytest.raises(ConfigurationError, match=r"15 times"):
        resolve_precision("bf16-mixed", "cpu", cpu_has_bf16=False)
    assert resolve_precision("bf16-mixed", "cpu", cpu_has_bf16=True) == "bf16-mixed"


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"trainer.precision=64"):
        resolve_precision("64", "cpu")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu sse avx2 avx512f", False),
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
    ],
)
def test_the_cpu_flags_are_read(tmp_path: Path, line: str, expected: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\n{line}\n", encoding="utf-8")
    assert cpu_multiplies_bfloat16(path) is expected


def test_a_system_that_does_not_say_is_trusted(tmp_path: Path) -> None:
    assert cpu_multiplies_bfloat16(tmp_path / "none") is True
