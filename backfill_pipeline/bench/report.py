"""The benchmark's table and the description of the machine.

Belongs here: formatting.
Does not: measuring.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping


def machine() -> str:
    """Cores, memory, system and Python of this machine."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}, embedded PostgreSQL 18"
    )


def markdown(entries: int, accounts: int, medians: Mapping[str, Mapping[str, float]]) -> str:
    """The result as a Markdown table; ratios are to the first contender, by rate."""
    limit = next(iter(medians.values()))
    lines = [
        f"{entries:,} entries between {accounts:,} accounts; {machine()}",
        "",
        "| contender | seconds | entries/s | rate ÷ plain COPY | other |",
        "|---|---:|---:|---:|---|",
    ]
    for name, figures in medians.items():
        rate = figures["entries"] / figures["seconds"]
        extra = {
            key.replace("_", " "): value
            for key, value in figures.items()
            if key not in ("seconds", "entries")
        }
        others = ", ".join(f"{key} {value:,.1f}" for key, value in extra.items())
        ratio = rate / (limit["entries"] / limit["seconds"])
        lines.append(f"| {name} | {figures['seconds']:.2f} | {rate:,.0f} | {ratio:.2f} | {others} |")
    return "\n".join(lines)
