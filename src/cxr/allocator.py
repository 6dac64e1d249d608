"""How is freed memory kept for the next step, instead of being handed back to the kernel and faulted in again?

glibc serves every large activation with ``mmap`` and returns it with ``munmap``, so that each training step on a CPU
touches all of its pages for the first time once more. Keeping them in the heap removes nearly all of these page faults
(`benchmarks/allocator.py` measures how many, and what it costs in resident memory).
"""

from __future__ import annotations

import ctypes
import platform

# The names in glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_NEVER_TRIM_BYTES = 2**31 - 1
_TOP_PAD_BYTES = 256 * 2**20


def tune_allocator() -> bool:
    """Tell glibc to keep freed memory; call it before torch is imported.

    Returns:
        True if all settings were taken; False where the C library is not glibc (musl, macOS, Windows), which stays as
        it was.
    """
    if platform.system() != "Linux":
        return False
    libc = ctypes.CDLL(None)
    # musl has a mallopt of its own in some builds, with other meanings; only glibc says its version.
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    taken = True
    for name, value in (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _NEVER_TRIM_BYTES),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
    ):
        taken = libc.mallopt(name, value) == 1 and taken
    return taken
