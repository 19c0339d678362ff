"""`backfill rejects list|export`.

Belongs here: printing and writing reject rows.
Does not: how a row became a reject.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from backfill_pipeline.cli.output import console, print_json, remarks
from backfill_pipeline.cli.session import named_source, open_session
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import rejects
from backfill_pipeline.stages.reject_file import write_rejects

# Characters of a raw record in the list; the export has it whole.
_RAW_SHOWN = 200


def list_rejects(name: str, code: str | None, limit: int, *, as_json: bool) -> None:
    """Prints rejects in source order."""
    definition = named_source(name)
    with open_session() as session:
        registration = session.registration(definition.id)
        found = rejects.list_rejects(session.connection, registration.id, limit=limit, code=code)
        counts = rejects.count_by_code(session.connection, registration.id)
    if as_json:
        print_json(
            {
                "source_id": registration.source_id,
                "by_code": counts,
                "rejects": [asdict(one) for one in found],
            }
        )
        return
    total = sum(counts.values()) if code is None else counts.get(code, 0)
    if not found:
        console.print("no rejects")
        return
    for one in found:
        where = f"{one.partition_key}  row {one.source_row}, line {one.source_line}"
        console.print(f"[bold]{where}[/bold]  {one.code}  ", end="")
        console.print(one.reason, markup=False, soft_wrap=True)
        console.print(
            "    " + one.raw.replace("\n", "⏎")[:_RAW_SHOWN], markup=False, style="dim", soft_wrap=True
        )
    if total > len(found):
        remarks.print(
            f"{len(found)} of {total:,} rejects; --limit shows more, backfill rejects export writes all"
        )


def export_rejects(name: str, out: Path | None) -> None:
    """Writes all rejects of a source's current revision as CSV."""
    definition = named_source(name)
    with open_session() as session:
        registration = session.registration(definition.id)
        found = rejects.list_rejects(session.connection, registration.id)
    try:
        target = nullcontext(sys.stdout) if out is None else out.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written ({error.strerror}): name another file with --out"
        ) from None
    with target as file:
        write_rejects(file, found)
    if out is not None:
        remarks.print(f"{len(found):,} rejects written to {out}")
