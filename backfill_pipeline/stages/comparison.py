"""Two sides of the same entries held against each other: what the source says, and what the ledger has.

Belongs here: bringing both sides into the same order, and telling every field that differs.
Does not: reading either side, counts, the report (`reconcile.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger.read_back import LEDGER_SCHEMA

COMPARED_FIELDS: Final = tuple(name for name in LEDGER_SCHEMA.names if name != "source_row")
"""Every field of an entry that the source states; source_row ties the two sides together."""

BREAK_SAMPLE: Final = 100
"""Breaks of one kind that are told one by one; the others are counted."""


@dataclass(frozen=True, slots=True)
class EntryBreak:
    """An entry that is not what the source says.

    Attributes:
        kind: missing (not in the ledger), different (a field differs), unexpected (posted, but not in the source),
            counts (the equation or a counter does not hold).
    """

    partition_key: str
    kind: str
    source_row: int | None
    reference_id: str | None
    field: str | None = None
    expected: str | None = None
    actual: str | None = None


@dataclass(frozen=True, slots=True)
class Alignment:
    """Entries of both sides, paired by source_row.

    Attributes:
        expected: VALIDATED_SCHEMA, the entries that the ledger has.
        actual: LEDGER_SCHEMA, row for row the same entries as the ledger has them.
        absent: VALIDATED_SCHEMA, the expected entries that were not read back.
        unexpected: LEDGER_SCHEMA, entries read back whose source_row nobody expects.
    """

    expected: pa.Table
    actual: pa.Table
    absent: pa.Table
    unexpected: pa.Table


def align(expected: pa.Table, actual: pa.Table) -> Alignment:
    """Pairs the two sides. No row is lost: each is paired, absent or unexpected, or read back a second time.

    Args:
        expected: VALIDATED_SCHEMA, in source order.
        actual: LEDGER_SCHEMA, in any order.
    """
    wanted = expected.column("source_row")
    if not wanted.equals(actual.column("source_row")):
        actual = actual.sort_by("source_row")
    rows = actual.column("source_row")
    if wanted.equals(rows):  # the usual: the ledger has the same rows, each once
        return Alignment(expected, actual, expected.slice(0, 0), actual.slice(0, 0))
    places = pc.index_in(wanted, rows.combine_chunks())  # null where the ledger lacks the row
    found = pc.is_valid(places)
    known = pc.is_in(rows, wanted.combine_chunks())
    return Alignment(
        expected=expected.filter(found),
        actual=actual.take(pc.drop_null(places)),
        absent=expected.filter(pc.invert(found)),
        unexpected=actual.filter(pc.invert(known)),
    )


def unexpected_breaks(key: str, unexpected: pa.Table) -> Iterator[tuple[EntryBreak, int]]:
    """Entries that no row of the source accounts for: some by name, the others as a number."""
    return _listed(key, "unexpected", unexpected)


def missing_breaks(key: str, missing: pa.Table) -> Iterator[tuple[EntryBreak, int]]:
    """Rows of the source that have no entry, likewise."""
    return _listed(key, "missing", missing)


def different_breaks(key: str, aligned: Alignment) -> Iterator[tuple[EntryBreak, int]]:
    """Compares every field of every pair.

    Args:
        key: the partition, for the report.
        aligned: `expected` and `actual` of which are held against each other, row for row.

    Returns:
        Per differing field, some breaks with their values, each counting 1, and one that counts for all the others.
    """
    expected = aligned.expected
    for name, positions, ours, theirs in differing_fields(aligned):
        shown = positions.slice(0, BREAK_SAMPLE)
        shown_columns = (
            expected.column("source_row").take(shown).to_pylist(),
            expected.column("reference_id").take(shown).to_pylist(),
            shown_values(ours.take(shown)),
            shown_values(theirs.take(shown)),
        )
        for source_row, reference_id, left, right in zip(*shown_columns, strict=True):
            yield EntryBreak(key, "different", source_row, reference_id, name, left, right), 1
        if len(positions) > len(shown):
            yield EntryBreak(key, "different", None, None, name), len(positions) - len(shown)


def differing_fields(
    aligned: Alignment,
) -> Iterator[tuple[str, pa.Array, pa.ChunkedArray, pa.ChunkedArray]]:
    """Fields in which pairs differ: the name, the positions of these pairs, and both whole columns (expected, actual).

    A field in which none differs is left out.
    """
    for name in COMPARED_FIELDS:
        ours = aligned.expected.column(name).cast(LEDGER_SCHEMA.field(name).type)
        theirs = aligned.actual.column(name)
        if ours.equals(theirs):  # the whole column at once, null equal to null
            continue
        positions = differing_positions(ours, theirs)
        if name == "metadata":
            positions = _differing_as_json(ours, theirs, positions)
        if len(positions):
            yield name, positions, ours, theirs


def differing_positions(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> pa.Array:
    """Positions at which two columns differ, where null equals null and nothing else."""
    unequal = pc.fill_null(pc.not_equal(ours, theirs), False)
    different = pc.or_(unequal, pc.xor(pc.is_null(ours), pc.is_null(theirs)))
    return pc.indices_nonzero(different)


def _listed(key: str, kind: str, entries: pa.Table) -> Iterator[tuple[EntryBreak, int]]:
    shown = entries.slice(0, BREAK_SAMPLE)
    for row in shown.select(["source_row", "reference_id"]).to_pylist():
        yield EntryBreak(key, kind, row["source_row"], row["reference_id"]), 1
    if entries.num_rows > shown.num_rows:
        yield EntryBreak(key, kind, None, None), entries.num_rows - shown.num_rows


def _differing_as_json(ours: pa.ChunkedArray, theirs: pa.ChunkedArray, positions: pa.Array) -> pa.Array:
    """A jsonb column has a text form of its own: texts that differ are compared as the objects they mean."""
    pairs = zip(ours.take(positions).to_pylist(), theirs.take(positions).to_pylist(), strict=True)
    really = [left is None or right is None or json.loads(left) != json.loads(right) for left, right in pairs]
    return positions.filter(pa.array(really, pa.bool_()))


def shown_values(values: pa.ChunkedArray) -> list[str]:
    """Values for people."""
    try:
        return [str(value) for value in values.to_pylist()]
    except (OverflowError, ValueError):  # a time that Python cannot hold, before the year 1 or after 9999
        return [str(value) for value in pc.cast(values, pa.string()).to_pylist()]
