"""Large blocks that were freed are not kept."""

import subprocess
import sys

import pytest

# A block is freed first, so that glibc would raise its threshold; then others below it, with one above that stays.
_PROGRAM = """
import sys
from pathlib import Path
from backfill_pipeline.local.allocator import give_large_blocks_back

def resident_mib():
    words = Path("/proc/self/statm").read_text().split()
    return int(words[1]) * 4096 / 2**20

if sys.argv[1] == "told":
    assert give_large_blocks_back()
del (_ := [bytearray(30 << 20)])[0]
before = resident_mib()
blocks = [bytearray(b"x" * (8 << 20)) for _ in range(10)]
kept = bytearray(b"x" * 100_000)
del blocks
print(resident_mib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_what_is_freed_goes_back_although_something_lies_behind_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "told"], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 10
