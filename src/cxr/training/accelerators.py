"""On what does a run compute, and in which precision?

torch is imported inside the functions that ask it, so that a wrong ``trainer.gpus`` is refused before the heavy
libraries are loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cxr.errors import ConfigurationError

PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed")
# What the kernel calls the instructions that multiply bfloat16: two of x86 and one of Arm.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def translate_gpus(
    gpus: int | None,
    *,
    num_cuda: int,
    has_mps: bool = False,
    strategy: str = "auto",
    num_processes: int | None = None,
) -> dict[str, Any]:
    """Translate ``trainer.gpus`` into Lightning's ``accelerator`` and ``devices``.

    Args:
        gpus: None = one accelerator if there is one, else the CPU; 0 = the CPU; n = exactly n CUDA GPUs; -1 = all of
            them.
        num_cuda: CUDA GPUs that this machine offers.
        has_mps: whether it offers an Apple GPU, which only ``gpus=None`` takes, and never under DDP (gloo and nccl do
            not know it).
        strategy: Lightning's strategy; any that begins with ``ddp`` makes two processes the default on a CPU.
        num_processes: processes on the CPU; None = 2 under DDP and 1 otherwise.

    Raises:
        ConfigurationError: the machine has not that many GPUs, or ``num_processes`` contradicts the rest.
    """
    way_out = "use trainer.gpus=0 to run on the CPU"
    distributed = strategy.startswith("ddp")
    if num_processes is not None and num_processes < 1:
        raise ConfigurationError(f"trainer.num_processes={num_processes}: give at least 1, or null")
    if gpus is not None and gpus < -1:
        raise ConfigurationError(
            f"trainer.gpus={gpus}: give null (one if there is one), 0 (CPU), a number, or -1 (all)"
        )

    if gpus is None:
        num_gpus = min(num_cuda, 1)
    elif gpus == -1:
        if num_cuda == 0:
            raise ConfigurationError(f"trainer.gpus=-1 asks for all CUDA GPUs and this machine has none; {way_out}")
        num_gpus = num_cuda
    else:
        if gpus > num_cuda:
            has = "no CUDA GPU" if num_cuda == 0 else f"only {num_cuda} CUDA GPU{'s' if num_cuda > 1 else ''}"
            apple = ", trainer.gpus=null for the Apple GPU" if has_mps else ""
            raise ConfigurationError(f"trainer.gpus={gpus}: this machine has {has}; {way_out}{apple}")
        num_gpus = gpus

    if num_gpus > 0:
        if num_processes is not None:
            raise ConfigurationError(
                f"trainer.num_processes={num_processes} counts processes on the CPU, and this run takes {num_gpus}"
                " GPU(s); set trainer.num_processes=null, or trainer.gpus=0"
            )
        return {"accelerator": "cuda", "devices": num_gpus}
    if gpus is None and has_mps and not distributed and num_processes is None:
        return {"accelerator": "mps", "devices": 1}
    if num_processes is None:
        num_processes = 2 if distributed else 1
    if num_processes > 1 and not distributed:
        raise ConfigurationError(
            f"trainer.num_processes={num_processes} needs trainer.strategy=ddp, not {strategy}; or set it to 1"
        )
    return {"accelerator": "cpu", "devices": num_processes}


def resolve_devices(gpus: int | None, *, strategy: str = "auto", num_processes: int | None = None) -> dict[str, Any]:
    """Ask torch what this machine has and translate ``trainer.gpus`` for it; see `translate_gpus`."""
    import torch

    return translate_gpus(
        gpus,
        num_cuda=torch.cuda.device_count(),
        has_mps=torch.backends.mps.is_available(),
        strategy=strategy,
        num_processes=num_processes,
    )


def cpu_multiplies_bfloat16(cpuinfo_path: str | Path = "/proc/cpuinfo") -> bool:
    """Whether the CPU has instructions for bfloat16; True where the system does not say (no such file)."""
    try:
        text = Path(cpuinfo_path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return not _BF16_FLAGS.isdisjoint(text.split())


def resolve_precision(precision: str, accelerator: str, *, cpu_has_bf16: bool | None = None) -> str:
    """Turn ``auto`` into the precision that a run really uses, and refuse what would not be what was asked.

    Args:
        precision: one of `PRECISIONS`; ``auto`` is 16-mixed on CUDA and 32-true elsewhere.
        accelerator: ``cuda``, ``mps`` or ``cpu``, as `resolve_devices` gives it.
        cpu_has_bf16: None = look it up.

    Raises:
        ConfigurationError: the name is unknown; 16-mixed on a CPU (Lightning would turn it into bfloat16); bf16-mixed
            on a CPU without instructions for it.
    """
    if precision not in PRECISIONS:
        raise ConfigurationError(f"trainer.precision={precision}: give one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        return "16-mixed" if accelerator == "cuda" else "32-true"
    if accelerator == "cpu" and precision == "16-mixed":
        raise ConfigurationError("trainer.precision=16-mixed needs a GPU; use trainer.precision=32-true on the CPU")
    if accelerator == "cpu" and precision == "bf16-mixed":
        if cpu_has_bf16 is None:
            cpu_has_bf16 = cpu_multiplies_bfloat16()
        if not cpu_has_bf16:
            raise ConfigurationError(
                "trainer.precision=bf16-mixed: this CPU has no instructions for bfloat16 and would be about 15 times"
                " slower; use trainer.precision=32-true"
            )
    return precision
