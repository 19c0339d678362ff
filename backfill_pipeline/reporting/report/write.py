"""Writing a report: one file, whole or not at all.

Belongs here: where the file goes, and what it may replace.
Does not: what it holds.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.reporting.report.facts import read_facts
from backfill_pipeline.reporting.report.outcome import Outcome, judge
from backfill_pipeline.reporting.report.page import GENERATOR, page

SAMPLES: Final = 5
"""Rejected rows of each code that a report shows, when nobody says how many."""

_HEAD_BYTES: Final = 400


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was written."""

    path: Path
    source_id: str
    size_bytes: int
    outcome: Outcome


def write_report(
    connection: Connection,
    definition: SourceDefinition,
    out: Path,
    *,
    samples: int = SAMPLES,
    now: datetime | None = None,
) -> Report:
    """Writes the report of a source, of a bank or of one of its days.

    Args:
        connection: to the ledger, autocommit.
        definition: of it.
        out: the file; a report that is there is replaced.
        samples: rejected rows of each code at most; with 0, the page has none.
        now: the moment that the page states; None is this one.

    Raises:
        UsageError: nothing of the source was ever registered, or the file cannot be written.
        TransientLedgerError: the ledger cannot be read right now.
    """
    refuse_other_files(out)
    facts = read_facts(connection, definition, read_at=now or datetime.now(UTC), samples=samples)
    outcome = judge(facts)
    content = page(facts, outcome, samples=samples).encode()
    _put(out, content)
    return Report(out, definition.id, len(content), outcome)


def refuse_other_files(out: Path) -> None:
    """Says at once that a report cannot be written to a place.

    Raises:
        UsageError: it is a folder, something that nothing can be read from again, or a file that is no report, which
            nobody meant to lose.
    """
    try:
        if out.is_dir():
            raise UsageError(f"{out} is a folder: name a file with --out, such as {out / 'report.html'}")
        if out.parent.exists() and not out.parent.is_dir():
            raise UsageError(f"{out.parent} is a file: name a place in a folder with --out")
        if not out.exists():
            return
    except OSError as error:
        raise UsageError(f"cannot look for {out}: {error.strerror}") from error
    if not out.is_file():
        raise UsageError(f"{out} is a pipe or a device: name a file with --out")
    try:
        with out.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {out}, which is there already: {error.strerror}") from error
    if f'<meta name="generator" content="{GENERATOR}">'.encode() not in head:
        raise UsageError(f"{out} is there already and no report: name another file with --out")


def _put(out: Path, content: bytes) -> None:
    """Under another name first: whoever has the page open never sees half of it."""
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.replace(out)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
