"""Replaying rejects: repaired rows, and no others, through the same pipeline: extract, transform, validate, post.

Belongs here: which rows of a repaired file are sent, their way through the mapping, and what they are now for
reconciliation.
Does not: the form of the file (`reject_export.py`), the batch's transaction (`ledger/replay_posting.py`).

A replay is a batch of the row's partition (docs/decisions/replay-of-rejects.md). It never raises the number of rejects
of a partition, so the limit that the partition kept when it was posted needs no second look.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.fields import GeneratedReferenceRule
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import replay_posting, replays
from backfill_pipeline.ledger.batches import BatchPlan
from backfill_pipeline.ledger.connection import Connection, source_lock
from backfill_pipeline.ledger.parts import Parts
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline.ledger.rejects import Reject
from backfill_pipeline.ledger.replays import ATTEMPT_SCHEMA, ReplayCounts
from backfill_pipeline.schemas.extracted import extracted_schema, to_arrow, to_pandas
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA, FAILURES_SCHEMA, VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.schemas.row_errors import combined
from backfill_pipeline.sources.grouping.transaction_ids import transaction_ids
from backfill_pipeline.stages.config import BackfillConfig, effective_config
from backfill_pipeline.stages.reject_export import RepairedFile, latest_cells, read_repaired, source_cells
from backfill_pipeline.stages.reject_file import refresh_reject_file
from backfill_pipeline.stages.replayed_references import occurrences_of
from backfill_pipeline.stages.replayed_transactions import with_their_transactions
from backfill_pipeline.stages.retry import retrying
from backfill_pipeline.stages.transactions import left_over, parts_of
from backfill_pipeline.stages.work import Log, Places, SourceWork, open_work

_REFUSED_SHOWN = 20
# What stood in the way of these rows is not in them: they are sent as they are, too.
_TRIED_AS_THEY_ARE = pa.array(
    [RejectCode.UNKNOWN_ACCOUNT.value, RejectCode.PERIOD_CLOSED.value, RejectCode.BALANCE_CONSTRAINT.value]
)


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay did. `rows` equals `unchanged` + `already_replayed` + `counts.read`.

    Attributes:
        rows: records of the repaired file.
        unchanged: rows that nobody repaired and that therefore were not sent; they stay rejected.
        already_replayed: rows that an earlier replay settled with the same values; nothing was done to them.
        counts: what became of the rows that were sent.
        refused: the first of those that stay rejected, with the new reason.
    """

    source_id: str
    revision: int
    rows: int
    unchanged: int
    already_replayed: int
    counts: ReplayCounts
    refused: list[Reject] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sent:
    """Rows to send, by source row: how their rejects stand (STATE_SCHEMA), the source's cells and the repaired ones."""

    states: pa.Table
    originals: pa.Table
    cells: pa.Table


def replay_rejects(
    definition: SourceDefinition, places: Places, file: Path, *, run_id: str, replayed_by: str, log: Log
) -> ReplayReport:
    """Sends the repaired rows of a file through the pipeline.

    Args:
        definition: the source.
        places: its ledger and folders.
        file: a repaired export.
        run_id: kept with the batches; a new one for every call.
        replayed_by: who repaired them.
        log: takes messages about retries.

    Raises:
        UsageError: the file is no export of this source's current revision, or a row was replayed before.
        SourceChangedError: source or mapping changed since it was registered.
        SourceBusyError: a run or another replay writes this source.
        LedgerError: the ledger refuses a batch as a whole.
    """
    with source_lock(places.ledger_url, definition.id):
        work = open_work(definition, places)
        repaired = read_repaired(file, work.registration.header)
        with work.connect() as connection:
            states = _states(connection, work, file, repaired)
        sent, already = _to_send(work, file, repaired, states)
        _post(work, sent, run_id, replayed_by, log)
        with work.connect() as connection:
            counts = replays.counts_of_run(connection, run_id)
            for key in pc.unique(sent.states.column("partition_key")).to_pylist():
                refresh_reject_file(connection, work, key)
            refused = replays.refused_by_run(connection, run_id, _REFUSED_SHOWN)
    rows = repaired.rows.num_rows
    return ReplayReport(
        definition.id,
        work.registration.revision,
        rows,
        rows - already - sent.states.num_rows,
        already,
        counts,
        refused,
    )


def replayed_entries(connection: Connection, work: SourceWork, partition_id: int) -> pa.Table:
    """What the repaired rows of a partition should be in the ledger (VALIDATED_SCHEMA, by source row).

    Made again from what was sent, by the same mapping: the ledger's entries are held against it.
    """
    legs = work.definition.transactions is not None
    settled = replays.settled_rows(connection, partition_id, with_all_legs=legs)
    if not settled.num_rows:
        return VALIDATED_SCHEMA.empty_table()
    transformed = _transformed(
        work, settled, _sent_cells(work, settled), combined(settled.column("occurrence"))
    )
    entries = to_arrow(validate(to_pandas(transformed)).valid, VALIDATED_SCHEMA)
    if not legs:
        return entries
    there = pc.is_in(combined(settled.column("state")), value_set=pa.array(["posted", "duplicate"]))
    rows = combined(settled.column("source_row").filter(there))
    return entries.filter(pc.is_in(combined(entries.column("source_row")), value_set=rows))


def repaired_records(connection: Connection, work: SourceWork, partition_id: int) -> pa.Table:
    """The repaired rows of a partition that are in the ledger now, as the source should have had them (EXTRACTED)."""
    settled = replays.settled_rows(connection, partition_id)
    if not settled.num_rows:
        return extracted_schema(work.registration.header).empty_table()
    return _as_extracted(work, settled, _sent_cells(work, settled))


def _sent_cells(work: SourceWork, settled: pa.Table) -> pa.Table:
    """What was sent for each row, as columns of the source."""
    repaired = combined(settled.column("repaired"))
    header = work.registration.header
    return pa.table([pc.list_element(repaired, place) for place in range(len(header))], names=list(header))


def _states(connection: Connection, work: SourceWork, file: Path, repaired: RepairedFile) -> pa.Table:
    """How the rejects of the file's rows stand, row for row, once everything that is being committed is there."""
    registration = work.registration
    rows = repaired.rows
    others = pc.not_equal(rows.column("source"), registration.source_id)
    if (at := _first(others)) is not None:
        raise UsageError(
            f"{_record(file, rows, at)} is a reject of source {rows.column('source')[at].as_py()[:60]}, not of"
            f" {registration.source_id}: replay it there"
        )
    if (at := _first(pc.not_equal(rows.column("revision"), registration.revision))) is not None:
        raise UsageError(
            f"{_record(file, rows, at)} is of revision {rows.column('revision')[at].as_py()} of"
            f" {registration.source_id}, which is at revision {registration.revision} now: export its rejects anew"
            f" (backfill rejects export {registration.source_id} --out FILE) and repair those"
        )
    numbers = rows.column("source_row")
    if (at := _first(pc.equal(numbers.slice(1), numbers.slice(0, max(len(numbers) - 1, 0))))) is not None:
        raise UsageError(
            f"{_record(file, rows, at + 1)} is row {numbers[at].as_py()} once more: keep one of the two"
        )
    wanted = numbers.to_pylist()
    first_look = replays.reject_states(connection, registration.id, rows=wanted)
    replays.await_commits(connection, pc.unique(first_look.column("partition_id")).to_pylist())
    found = replays.reject_states(connection, registration.id, rows=wanted)
    places = pc.index_in(combined(numbers), value_set=combined(found.column("source_row")))
    if (at := _first(pc.is_null(places))) is not None:
        raise UsageError(
            f"{_record(file, rows, at)} is row {numbers[at].as_py()}, which is no reject of {registration.source_id}:"
            " keep the columns that begin with reject. as they were exported"
        )
    states = found.take(places)
    if (at := _first(pc.not_equal(states.column("identity"), rows.column("identity")))) is not None:
        raise UsageError(
            f"{_record(file, rows, at)} is not what was exported as row {numbers[at].as_py()}:"
            " keep the columns that begin with reject. as they were exported"
        )
    for key in pc.unique(states.column("partition_key")).to_pylist():
        if not registration.partition(key).posted:
            raise UsageError(
                f"partition {key} of {registration.source_id} is not posted yet: backfill resume"
                f" {registration.source_id} first, then replay its rejects"
            )
    return states


def _to_send(work: SourceWork, file: Path, repaired: RepairedFile, states: pa.Table) -> tuple[_Sent, int]:
    """The rows that somebody repaired, and how many were settled before.

    A row as it was is sent only when the ledger may have changed its mind: an account was opened, or has the money now.
    Any other would be refused for the same reason again.
    """
    originals = source_cells(work, states)
    as_exported = _equal(repaired.cells, latest_cells(states, originals))
    settled = pc.not_equal(states.column("state"), "open")
    otherwise = pc.and_(settled, pc.invert(pc.or_(as_exported, _equal(repaired.cells, originals))))
    if (at := _first(otherwise)) is not None:
        row = states.slice(at, 1).to_pylist()[0]
        raise UsageError(
            f"{_record(file, repaired.rows, at)} is row {row['source_row']}, which was replayed already with other"
            f" values ({row['state']}): take it out of the file"
        )
    sendable = combined(pc.and_(pc.invert(settled), pc.invert(_blank(repaired.cells))))
    changed = combined(pc.and_(sendable, pc.invert(as_exported)))
    if work.definition.transactions is not None:
        chosen = with_their_transactions(work, file, repaired, states, changed, sendable)
    else:
        retried = pc.is_in(states.column("code"), value_set=_TRIED_AS_THEY_ARE)
        chosen = pc.or_(changed, pc.and_(sendable, combined(retried)))
    sent = _Sent(states.filter(chosen), originals.filter(chosen), repaired.cells.filter(chosen))
    return sent, pc.sum(settled, min_count=0).as_py()


def _post(work: SourceWork, sent: _Sent, run_id: str, replayed_by: str, log: Log) -> None:
    """Partition by partition, batch by batch."""
    config = effective_config(work.definition.config)
    occurrences = occurrences_of(work, sent.states, sent.originals, sent.cells)
    keys = sent.states.column("partition_key")
    for key in pc.unique(keys).to_pylist():
        here = pc.equal(keys, key)
        states, cells = sent.states.filter(here), sent.cells.filter(here)
        numbers = combined(pc.filter(occurrences, combined(here)))
        # A transaction is not cut in two; so the rows of a partition with transactions are one batch.
        batch_size = config.batch_size if work.definition.transactions is None else states.num_rows
        for start in range(0, states.num_rows, batch_size):
            size = min(batch_size, states.num_rows - start)
            attempts, entries, together = _attempts(
                work, states.slice(start, size), cells.slice(start, size), numbers.slice(start, size)
            )
            _post_batch(work, config, key, attempts, entries, together, run_id, replayed_by, log)


def _post_batch(
    work: SourceWork,
    config: BackfillConfig,
    key: str,
    attempts: pa.Table,
    entries: pa.Table,
    together: Parts | None,
    run_id: str,
    replayed_by: str,
    log: Log,
) -> None:
    rows = attempts.column("source_row")
    plan = BatchPlan(
        source_id=work.definition.id,
        source_type=work.registration.source_type,
        partition_id=work.registration.partition(key).id,
        partition_key=key,
        first_row=rows[0].as_py(),
        last_row=rows[-1].as_py(),
        run_id=run_id,
        origin=work.origin,
    )
    policy = PostingPolicy(
        skip_duplicates=config.skip_duplicates,
        create_unknown_accounts=work.definition.unknown_accounts == "create",
        together=together,
    )

    def attempt() -> None:
        with work.connect() as connection:
            replay_posting.post_replay(connection, plan, attempts, entries, policy, replayed_by)

    retrying(config, attempt, log)


def _attempts(
    work: SourceWork, states: pa.Table, cells: pa.Table, occurrences: pa.Array
) -> tuple[pa.Table, pa.Table, Parts | None]:
    """Rows as ATTEMPT_SCHEMA, with the outcome of those that are no entries; the entries (VALIDATED_SCHEMA) and what
    they are parts of.
    """
    transformed = _transformed(work, states, cells, occurrences)
    outcome = validate(to_pandas(transformed))
    valid, failures = to_arrow(outcome.valid, VALIDATED_SCHEMA), to_arrow(outcome.failures, FAILURES_SCHEMA)
    rows = combined(states.column("source_row"))
    failed = pc.index_in(rows, value_set=combined(failures.column("source_row")))
    good = pc.index_in(rows, value_set=combined(valid.column("source_row")))
    filtered = combined(transformed.column("filter_reason"))
    nothing = pa.scalar(None, pa.string())
    left_out = pc.if_else(pc.is_valid(filtered), "filtered", nothing)
    columns = {
        "source_row": rows,
        "raw": states.column("raw"),
        "repaired": _lists(cells),
        "occurrence": occurrences,
        "outcome": pc.if_else(pc.is_valid(failed), "rejected", left_out),
        "stage": failures.column("stage").take(failed),
        "code": failures.column("code").take(failed),
        "field": failures.column("field").take(failed),
        "reason": pc.coalesce(failures.column("reason").take(failed), filtered),
        "ledger_id": valid.column("ledger_id").take(good),
        "reference_id": valid.column("reference_id").take(good),
    }
    attempts = pa.table([columns[name] for name in ATTEMPT_SCHEMA.names], names=ATTEMPT_SCHEMA.names)
    return attempts, valid, _together(work, cells, rows, transformed, valid)


def _together(
    work: SourceWork, cells: pa.Table, rows: pa.Array, transformed: pa.Table, entries: pa.Table
) -> Parts | None:
    """The transactions of entries; `rows` are the source rows of the cells that they were made of."""
    section = work.definition.transactions
    if section is None or not entries.num_rows:
        return None
    ids = transaction_ids(cells, section.id)

    def transactions(asked: pa.Array) -> pa.Array:
        return ids.take(pc.index_in(asked, value_set=rows)).dictionary_encode().indices

    return parts_of(entries, left_over(transformed), transactions, work.registration.id)


def _transformed(work: SourceWork, places: pa.Table, cells: pa.Table, occurrences: pa.Array) -> pa.Table:
    """Repaired rows mapped (ENTRY_SCHEMA), as if the source had said so at the original's place."""
    extracted = _as_extracted(work, places, cells)
    known = pa.table({"source_row": extracted.column(0), "occurrence": occurrences})
    generated = isinstance(work.definition.fields.reference_id, GeneratedReferenceRule)
    frame = work.mapping.transform(to_pandas(extracted), known if generated else None)
    return to_arrow(frame, ENTRY_SCHEMA)


def _as_extracted(work: SourceWork, places: pa.Table, cells: pa.Table) -> pa.Table:
    """Repaired rows as records at their original's place (EXTRACTED)."""
    count = places.num_rows
    return pa.table(
        [
            *(places.column(name) for name in ("source_row", "source_line", "byte_offset")),
            pa.repeat(pa.scalar(0, pa.int64()), count),
            pa.nulls(count, pa.string()),
            pa.nulls(count, pa.string()),
            *cells.columns,
        ],
        schema=extracted_schema(work.registration.header),
    ).combine_chunks()


def _lists(cells: pa.Table) -> pa.Array:
    """Row for row the cells as a list: all columns one after the other, taken in the order of the rows."""
    count, width = cells.num_rows, cells.num_columns
    values = pa.concat_arrays([combined(column) for column in cells.columns])
    by_row = np.arange(count * width).reshape(width, count).T.reshape(-1)
    bounds = pa.array(np.arange(0, count * width + 1, width, dtype=np.int32))
    return pa.ListArray.from_arrays(bounds, values.take(pa.array(by_row)))


def _equal(cells: pa.Table, others: pa.Table) -> pa.Array:
    """Row for row, whether all cells are the same; a CSV cannot tell nothing from an empty text, so nor does this."""
    same = pa.array(np.ones(cells.num_rows, dtype=bool))
    for ours, theirs in zip(cells.columns, others.columns, strict=True):
        same = pc.and_(same, pc.equal(pc.fill_null(combined(ours), ""), pc.fill_null(combined(theirs), "")))
    return same


def _blank(cells: pa.Table) -> pa.Array:
    """Row for row, whether nothing is filled in: as malformed records are exported."""
    blank = pa.array(np.ones(cells.num_rows, dtype=bool))
    for column in cells.columns:
        blank = pc.and_(blank, pc.equal(combined(column), ""))
    return blank


def _first(mask: pa.Array | pa.ChunkedArray) -> int | None:
    """Where a mask is true for the first time."""
    at: int = pc.index(mask, True).as_py()
    return None if at < 0 else at


def _record(file: Path, rows: pa.Table, at: int) -> str:
    return f"{file}: record {rows.column('record')[at].as_py()}"
