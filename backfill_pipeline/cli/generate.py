"""`backfill generate`.

Belongs here: the command's text.
Does not: making data (`local/generate.py`).
"""

from __future__ import annotations

import time
from pathlib import Path

from backfill_pipeline.cli.output import console
from backfill_pipeline.local.generate import References, generate


def generate_export(
    entries: int,
    accounts: int,
    out: Path,
    seed: int,
    dirty: float,
    name: str,
    *,
    skew: float,
    references: References,
) -> None:
    """Writes a made-up export and says where."""
    started = time.monotonic()
    generate(entries, accounts, seed, dirty, out, name=name, skew=skew, references=references)
    console.print(
        f"{entries:,} entries between {accounts:,} accounts in {out}, {time.monotonic() - started:.1f} s;"
        f" now: backfill run {out / name}.yaml",
        soft_wrap=True,
    )
