"""`backfill rejects list|export|replay`.

Belongs here: printing and writing reject rows, and what a replay came to.
Does not: how a row became a reject, how it is sent again (`stages/replay.py`).
"""

from __future__ import annotations

import sys
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from backfill_pipeline.cli.banks import refuse_whole_banks
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks, state
from backfill_pipeline.cli.person import person
from backfill_pipeline.cli.session import Session, named_source, open_session
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import day_source_id
from backfill_pipeline.errors import SourceChangedError, SourceFileError, UsageError
from backfill_pipeline.ledger import rejects, replays
from backfill_pipeline.ledger.banks import bank_days
from backfill_pipeline.ledger.rejects import Reject
from backfill_pipeline.stages.reconcile import ReconciliationReport, reconcile
from backfill_pipeline.stages.reject_export import latest_cells, no_cells, source_cells, write_export
from backfill_pipeline.stages.replay import ReplayReport, replay_rejects
from backfill_pipeline.stages.work import open_work
from backfill_pipeline.wording import counted

# Characters of a raw record in the list; the export has it whole.
_RAW_SHOWN = 200


def list_rejects(name: str, code: str | None, limit: int, *, as_json: bool) -> None:
    """Prints rejects in source order, with what became of those that were sent again."""
    definition = named_source(name)
    if definition.scb is not None and definition.api is None:
        _list_rejected_days(definition, as_json=as_json)
        return
    with open_session() as session:
        registration = session.registration(definition.id)
        found = rejects.list_rejects(session.connection, registration.id, limit=limit, code=code)
        counts = rejects.count_by_code(session.connection, registration.id)
        repaired = rejects.count_repaired(session.connection, registration.id)
    if as_json:
        print_json(
            {
                "source_id": registration.source_id,
                "by_code": counts,
                "repaired": repaired,
                "rejects": [asdict(one) for one in found],
            }
        )
        return
    if not found:
        console.print("no rejects")
        return
    for one in found:
        _print_reject(one)
    total = sum(counts.values()) + repaired if code is None else counts.get(code, 0)
    if total > len(found):
        all_of_them = "all that are not repaired" if repaired else "all"
        remarks.print(
            f"{len(found)} of {counted(total, 'reject')}; --limit shows more, backfill rejects export writes"
            f" {all_of_them}"
        )


def _list_rejected_days(definition: SourceDefinition, *, as_json: bool) -> None:
    """Of a bank, whose days have rejects each on their own: which days, and why."""
    with open_session() as session:
        if not bank_days.bank_days(session.connection, definition.id).days:
            raise UsageError(
                f"no day of {definition.id} was fetched here yet: start with backfill sync run {definition.id}"
            )
        days = bank_days.rejects_by_day(session.connection, definition.id)
        codes = bank_days.rejects_by_code(session.connection, definition.id)
    if as_json:
        by_day = {day.isoformat(): count for day, count in days.items()}
        print_json({"source_id": definition.id, "by_code": codes, "by_day": by_day})
        return
    if not days:
        console.print("no rejects")
        return
    console.print(", ".join(f"{code} {count:,}" for code, count in codes.items()))
    for day, count in days.items():
        console.print(f"{day_source_id(definition.id, day)}  {count:,}")
    remarks.print(f"their rows: backfill rejects list {day_source_id(definition.id, next(iter(days)))}")


def export_rejects(name: str, out: Path | None) -> None:
    """Writes the open rejects of a source's current revision as CSV, to be repaired and replayed."""
    definition = named_source(name)
    refuse_whole_banks(definition, "rejects export")
    with open_session() as session:
        registration = session.registration(definition.id)
        states = replays.reject_states(session.connection, registration.id, open_only=True)
        cells = _cells(session, definition, states)
        repaired = rejects.count_repaired(session.connection, registration.id)
    try:
        target: AbstractContextManager[BinaryIO] = (
            nullcontext(sys.stdout.buffer) if out is None else out.open("wb")
        )
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written ({error.strerror}): name another file with --out"
        ) from None
    with target as file:
        write_export(file, registration, states, cells)
    if out is not None:
        before = f", {repaired:,} were repaired before" if repaired else ""
        many = "reject" if states.num_rows == 1 else "rejects"
        remarks.print(f"{states.num_rows:,} {many} written to {out}{before}")


def _cells(session: Session, definition: SourceDefinition, states: pa.Table) -> pa.Table:
    """The source's own columns of these rejects; empty, and said so, when the source is not what it was."""
    try:
        return latest_cells(states, source_cells(open_work(definition, session.places), states))
    except (SourceChangedError, SourceFileError) as error:
        remarks.print("the source's columns are left empty: ", end="")
        remarks.print(str(error), markup=False)
        header = session.registration(definition.id).header
        return latest_cells(states, no_cells(header, states.num_rows))


def replay(name: str, file: Path, *, as_json: bool) -> ExitCode:
    """Sends repaired rows again and reconciles the source.

    Returns:
        Clean when every row of the file is settled now, rejects when some are not, and a break as always.
    """
    definition = named_source(name)
    refuse_whole_banks(definition, "rejects replay")
    with open_session() as session:
        session.registration(definition.id)
        report = replay_rejects(
            definition,
            session.places,
            file,
            run_id=str(uuid.uuid4()),
            replayed_by=person(),
            log=lambda message: remarks.print(message, markup=False),
        )
        reconciled = reconcile(open_work(definition, session.places))
    if as_json:
        print_json(_as_json(report, reconciled))
    else:
        _print_replay(report, reconciled)
    if not reconciled.matches:
        return ExitCode.RECONCILIATION_BREAK
    left = report.unchanged + report.counts.rejected + report.counts.conflicts
    return ExitCode.REJECTS_OR_REFUSED if left else ExitCode.CLEAN


def _as_json(report: ReplayReport, reconciled: ReconciliationReport) -> dict[str, object]:
    return {
        "source_id": report.source_id,
        "revision": report.revision,
        "rows": report.rows,
        "unchanged": report.unchanged,
        "already_replayed": report.already_replayed,
        **asdict(report.counts),
        "refused": [asdict(one) for one in report.refused],
        "reconciliation": reconciled.verdict,
    }


def _print_replay(report: ReplayReport, reconciled: ReconciliationReport) -> None:
    counts = report.counts
    console.print(
        f"[bold]{report.source_id}[/bold]  sent {counts.read:,} = posted {counts.posted:,}"
        f" + duplicates {counts.duplicates:,} + conflicts {counts.conflicts:,} + rejected {counts.rejected:,}"
        f" + filtered {counts.filtered:,}"
    )
    if not counts.read:
        console.print("  nothing new: no row of the file was repaired since it was exported or replayed")
    if report.already_replayed:
        console.print(f"  replayed before {report.already_replayed:,}  (left as they are)")
    if report.unchanged:
        console.print(f"  not repaired    {report.unchanged:,}  (they stay rejected)")
    console.print(f"  reconciliation  {state(reconciled.verdict)}")
    for one in report.refused:
        _print_reject(one)


def _print_reject(one: Reject) -> None:
    where = f"{one.partition_key}  row {one.source_row}, line {one.source_line}"
    console.print(f"[bold]{where}[/bold]  {one.code}  ", end="")
    console.print(one.reason, markup=False, soft_wrap=True)
    if one.replays and one.replayed_at is not None:
        times = f" ({one.replays} times)" if one.replays > 1 else ""
        ended = "refused again" if one.state == "open" else one.state
        console.print(
            f"    sent again{times}, {ended}: batch {one.replay_batch_id}, {one.replayed_at:%Y-%m-%d %H:%M:%S} UTC, ",
            end="",
        )
        console.print(str(one.replayed_by), markup=False)
    console.print("    " + one.raw.replace("\n", "⏎")[:_RAW_SHOWN], markup=False, style="dim", soft_wrap=True)
