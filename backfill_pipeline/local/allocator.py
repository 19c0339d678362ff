"""The C library's memory allocator, told to give large blocks back.

Belongs here: two settings of glibc, for processes that work on partitions.
Does not: Arrow's own memory pool, which `stages/prepare.py` empties.

Left alone, glibc keeps freed blocks of up to 32 MiB for the next time, in an arena per thread. Buffers of a partition
have a dozen sizes, so the kept ones rarely fit: the peak of a run grew with the number of its partitions (measured:
597 MiB at five million entries against 510 at one; 486 against 499 with these settings, in the same time).
"""

from __future__ import annotations

import ctypes
import sys

# <malloc.h>
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_LARGE_BYTES = 1 << 20
_ARENAS = 2


def give_large_blocks_back() -> bool:
    """Blocks from 1 MiB on go back to the system when they are freed; False where there is no glibc to tell."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES) and mallopt(_M_ARENA_MAX, _ARENAS))
