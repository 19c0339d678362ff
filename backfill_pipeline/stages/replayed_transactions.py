"""Replays of rows that are legs: a repaired row takes the others of its transaction with it.

Belongs here: which rejects of a file are sent, so that whole transactions are.
Does not: sending them (`replay.py`), pairing them (`mapping/legs.py`).

A transaction that is not whole is rejected row by row, so all its rows are rejects, but for those that a rule leaves
out. They are repaired in one file and sent in one batch. Where the ledger itself refused one entry, the others of its
transaction are posted, and nothing is left to be paired with.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import replays
from backfill_pipeline.schemas.rejects import Stage
from backfill_pipeline.schemas.row_errors import combined
from backfill_pipeline.sources.grouping.transaction_ids import shown_ids, transaction_ids
from backfill_pipeline.stages.reject_export import RepairedFile, latest_cells, source_cells
from backfill_pipeline.stages.work import SourceWork


def with_their_transactions(
    work: SourceWork,
    file: Path,
    repaired: RepairedFile,
    states: pa.Table,
    chosen: pa.Array,
    sendable: pa.Array,
) -> pa.Array:
    """Which rows of a file are sent: those that were repaired, and all others of their transactions.

    Args:
        work: the source; its rows are legs.
        file: for messages.
        repaired: what it holds.
        states: how its rows stand, row for row.
        chosen: the rows that were repaired.
        sendable: the rows that may be sent at all.

    Raises:
        UsageError: rows of a transaction are not in the file, or the ledger has entries of it.
    """
    assert work.definition.transactions is not None
    columns = work.definition.transactions.id
    sent = transaction_ids(repaired.cells, columns)
    before = transaction_ids(latest_cells(states, source_cells(work, states)), columns)
    touched = pa.concat_arrays([sent.filter(chosen), before.filter(chosen)])
    touched = pc.unique(touched.filter(pc.fill_null(pc.not_equal(touched, ""), False)))
    mask = pc.and_(sendable, pc.or_(chosen, pc.is_in(sent, value_set=touched)))
    by_the_ledger = pc.and_(mask, combined(pc.equal(states.column("stage"), Stage.POST.value)))
    if (at := pc.index(by_the_ledger, True).as_py()) >= 0:
        raise UsageError(
            f"{file}: record {repaired.rows.column('record')[at].as_py()} is row"
            f" {states.column('source_row')[at].as_py()}, which the ledger refused by itself when its transaction"
            " was posted: mend what its reason says, and run the source again (backfill run"
            f" {work.definition.id})"
        )
    _refuse_lacking(work, file, states, mask, touched)
    return mask


def _refuse_lacking(
    work: SourceWork, file: Path, states: pa.Table, mask: pa.Array, touched: pa.Array
) -> None:
    """Raises UsageError when an open reject of these transactions is not in the file."""
    with work.connect() as connection:
        open_ = replays.reject_states(connection, work.registration.id, open_only=True)
    keys = combined(states.column("partition_key")).filter(mask)
    elsewhere = pc.and_(
        pc.is_in(combined(open_.column("partition_key")), value_set=pc.unique(keys)),
        pc.invert(
            pc.is_in(combined(open_.column("source_row")), value_set=combined(states.column("source_row")))
        ),
    )
    others = open_.filter(elsewhere)
    assert work.definition.transactions is not None
    ids = transaction_ids(latest_cells(others, source_cells(work, others)), work.definition.transactions.id)
    lacking = pc.is_in(ids, value_set=touched)
    if (at := pc.index(lacking, True).as_py()) >= 0:
        raise UsageError(
            f"{file} lacks row {others.column('source_row')[at].as_py()} of transaction"
            f" {shown_ids(ids)[at].as_py()[:60]!r}, of which other rows are repaired: keep all rows of a transaction"
            " in the file"
        )
