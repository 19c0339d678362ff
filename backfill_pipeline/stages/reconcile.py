"""Reconciliation: every posted entry against its source, every balance against its legs, tolerance zero.

Belongs here: the comparison and its report.
Does not: reading the ledger (`ledger/reconciliation.py`, `ledger/balances.py`), repairing anything.

Partition by partition, so memory does not grow with the source. The expected side is the validated frame; when its
file is gone, it is made again from the source.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger import balances, reconciliation, rejects, status
from backfill_pipeline.ledger.balances import AccountBreak, CurrencyTotals
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.status import PartitionOutcome
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.stages.prepare import PartitionFrames
from backfill_pipeline.stages.work import SourceWork

# Every field of an entry that the source states; source_row ties the two sides together.
COMPARED_FIELDS = tuple(name for name in reconciliation.LEDGER_SCHEMA.names if name != "source_row")
BREAK_SAMPLE = 100


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


@dataclass(slots=True)
class ReconciliationReport:
    """The outcome. `breaks` and `account_breaks` are samples, the counts are complete.

    Attributes:
        open_partitions: partitions that are not posted yet. They are no break, since nothing claims that they are in
            the ledger, but the verdict is about the others only; the counts leave them out.
    """

    source_id: str
    read: int = 0
    posted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    filtered: int = 0
    entries_compared: int = 0
    opening_entries_compared: int = 0
    open_partitions: int = 0
    seconds: float = 0.0
    break_count: int = 0
    break_kinds: Counter[str] = field(default_factory=Counter)
    breaks: list[EntryBreak] = field(default_factory=list)
    account_break_count: int = 0
    account_breaks: list[AccountBreak] = field(default_factory=list)
    currencies: list[CurrencyTotals] = field(default_factory=list)
    source_totals: dict[str, Decimal] = field(default_factory=dict)

    @property
    def matches(self) -> bool:
        """True only when nothing at all differs."""
        return not (self.break_count or self.account_break_count or self.currency_breaks)

    @property
    def currency_breaks(self) -> list[CurrencyTotals]:
        """Currencies in which debits and credits, or balances and entries, disagree."""
        return [totals for totals in self.currencies if totals.difference or totals.drift]

    @property
    def verdict(self) -> str:
        """Either match or break."""
        return "match" if self.matches else "break"

    def add(self, found: EntryBreak, count: int = 1) -> None:
        """Counts a break (or `count` alike) and keeps it while there is room in the sample."""
        self.break_count += count
        self.break_kinds[found.kind] += count
        if len(self.breaks) < BREAK_SAMPLE:
            self.breaks.append(found)


def reconcile(work: SourceWork) -> ReconciliationReport:
    """Compares everything that is posted of a source with the ledger and records the verdict.

    Raises:
        TransientLedgerError: the ledger cannot be read right now.
    """
    started = time.monotonic()
    report = ReconciliationReport(work.definition.id)
    with work.connect() as connection:
        reconciliation.prepare(connection)
        for outcome in status.partition_outcomes(connection, work.registration.id):
            if outcome.status == "posted":
                _reconcile_partition(connection, work, outcome, report)
            else:
                report.open_partitions += 1
        _reconcile_opening_entries(connection, work, report)
        if not report.open_partitions:
            _reconcile_totals(connection, work, report)
        found = balances.examine(connection)
        report.account_break_count, report.account_breaks = found.break_count, found.breaks
        report.currencies = found.currencies
        report.seconds = time.monotonic() - started
        reconciliation.record(
            connection,
            work.registration.id,
            verdict=report.verdict,
            entries_compared=report.entries_compared + report.opening_entries_compared,
            break_count=report.break_count + report.account_break_count + len(report.currency_breaks),
            details={
                "open_partitions": report.open_partitions,
                "kinds": dict(report.break_kinds),
                "breaks": [asdict(one) for one in report.breaks],
                "account_breaks": [
                    {**asdict(one), "expected": str(one.expected), "actual": str(one.actual)}
                    for one in report.account_breaks
                ],
            },
        )
    return report


def _reconcile_partition(
    connection: Connection, work: SourceWork, outcome: PartitionOutcome, report: ReconciliationReport
) -> None:
    key = outcome.partition_key
    _add_counts(report, outcome)
    parts = outcome.posted + outcome.duplicates + outcome.conflicts + outcome.rejected + outcome.filtered
    if outcome.read != parts:
        report.add(_count_break(key, "read", outcome.read, parts))
    partition = work.registration.partition(key)
    expected = PartitionFrames(work, key, ()).validated()
    refused = rejects.rows_rejected_while_posting(connection, partition.id)
    if refused:
        refused_rows = pa.array(list(refused), pa.int64())
        expected = expected.filter(pc.invert(pc.is_in(expected.column("source_row"), refused_rows)))
    actual = reconciliation.posted_entries(connection, partition.id)
    if actual.num_rows != outcome.posted:
        report.add(_count_break(key, "posted", outcome.posted, actual.num_rows))
    unexpected = actual.filter(
        pc.invert(pc.is_in(actual.column("source_row"), _flat(expected.column("source_row"))))
    )
    for row in unexpected.slice(0, BREAK_SAMPLE).to_pylist():
        report.add(EntryBreak(key, "unexpected", row["source_row"], row["reference_id"]))
    if unexpected.num_rows > BREAK_SAMPLE:
        report.add(EntryBreak(key, "unexpected", None, None), unexpected.num_rows - BREAK_SAMPLE)
    found = pc.is_in(expected.column("source_row"), _flat(actual.column("source_row")))
    compare_entries(key, expected.filter(found), actual, report)
    report.entries_compared += actual.num_rows
    # What no batch of this partition posted must have been in the ledger before, identical: duplicates.
    elsewhere = expected.filter(pc.invert(found))
    missing = _reconcile_by_reference(connection, key, elsewhere, report) if elsewhere.num_rows else 0
    if elsewhere.num_rows - missing != outcome.duplicates:
        report.add(_count_break(key, "duplicates", outcome.duplicates, elsewhere.num_rows - missing))
    _add_totals(report, expected.filter(found))


def _reconcile_totals(connection: Connection, work: SourceWork, report: ReconciliationReport) -> None:
    """The whole source: every row read, and every reject that was counted kept."""
    if report.read != work.registration.row_count:
        report.add(_count_break("source", "read", work.registration.row_count, report.read))
    kept = sum(rejects.count_by_code(connection, work.registration.id).values())
    if kept != report.rejected + report.conflicts:
        report.add(_count_break("source", "rejects", report.rejected + report.conflicts, kept))


def _reconcile_opening_entries(
    connection: Connection, work: SourceWork, report: ReconciliationReport
) -> None:
    book = read_accounts(work.definition)
    if book is not None and book.opening_entries.num_rows:
        report.opening_entries_compared = book.opening_entries.num_rows
        _reconcile_by_reference(connection, "opening balances", book.opening_entries, report)
    recorded, actual = reconciliation.opening_entry_counts(connection, work.definition.id)
    if actual > recorded:
        report.add(EntryBreak("opening balances", "unexpected", None, None), actual - recorded)


def _reconcile_by_reference(
    connection: Connection, key: str, expected: pa.Table, report: ReconciliationReport
) -> int:
    """Compares entries that others may have posted; returns how many of them are missing."""
    actual = reconciliation.entries_by_reference(connection, expected)
    found = pc.is_in(expected.column("source_row"), _flat(actual.column("source_row")))
    compare_entries(key, expected.filter(found), actual, report)
    missing = expected.filter(pc.invert(found))
    for row in missing.slice(0, BREAK_SAMPLE).select(["source_row", "reference_id"]).to_pylist():
        report.add(EntryBreak(key, "missing", row["source_row"], row["reference_id"]))
    if missing.num_rows > BREAK_SAMPLE:
        report.add(EntryBreak(key, "missing", None, None), missing.num_rows - BREAK_SAMPLE)
    return int(missing.num_rows)


def compare_entries(key: str, expected: pa.Table, actual: pa.Table, report: ReconciliationReport) -> None:
    """Compares every field of every entry; differences go to the report.

    Args:
        key: the partition, for the report.
        expected: VALIDATED_SCHEMA, each source_row of which is in `actual`.
        actual: LEDGER_SCHEMA, in any order.
        report: takes the differences.
    """
    aligned = actual.take(pc.index_in(expected.column("source_row"), _flat(actual.column("source_row"))))
    for name in COMPARED_FIELDS:
        ours, theirs = expected.column(name), aligned.column(name)
        if name == "timestamp_utc":
            ours = pc.cast(pc.local_timestamp(ours), theirs.type)
        different = _differs(ours, theirs)
        if name == "metadata":
            different = _differs_as_json(ours, theirs, different)
        count = pc.sum(different).as_py() or 0
        if not count:
            continue
        rows = pa.table(
            {
                "source_row": expected.column("source_row"),
                "reference_id": expected.column("reference_id"),
                "expected": ours,
                "actual": theirs,
            }
        ).filter(different)
        shown = rows.slice(0, BREAK_SAMPLE).to_pylist()
        for row in shown:
            report.add(
                EntryBreak(
                    key,
                    "different",
                    row["source_row"],
                    row["reference_id"],
                    name,
                    str(row["expected"]),
                    str(row["actual"]),
                )
            )
        if count > len(shown):
            report.add(EntryBreak(key, "different", None, None, name), count - len(shown))


def _differs(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> pa.ChunkedArray:
    """Elementwise inequality where null equals null and nothing else."""
    unequal = pc.fill_null(pc.not_equal(ours, theirs), False)
    return pc.or_(unequal, pc.xor(pc.is_null(ours), pc.is_null(theirs)))


def _differs_as_json(
    ours: pa.ChunkedArray, theirs: pa.ChunkedArray, different: pa.ChunkedArray
) -> pa.ChunkedArray:
    """A jsonb column has a text form of its own: texts that differ are compared as the objects they mean."""
    if not pc.any(different).as_py():
        return different
    positions = pc.indices_nonzero(different)
    pairs = zip(ours.take(positions).to_pylist(), theirs.take(positions).to_pylist(), strict=True)
    really = [left is None or right is None or json.loads(left) != json.loads(right) for left, right in pairs]
    return pc.is_in(
        pa.array(range(len(ours))), positions.filter(pa.array(really, pa.bool_())).cast(pa.int64())
    )


def _add_counts(report: ReconciliationReport, outcome: PartitionOutcome) -> None:
    for name in ("read", "posted", "duplicates", "conflicts", "rejected", "filtered"):
        setattr(report, name, getattr(report, name) + getattr(outcome, name))


def _add_totals(report: ReconciliationReport, entries: pa.Table) -> None:
    totals = pa.table(
        {
            "currency": entries.column("currency_code"),
            "amount": pc.cast(entries.column("amount"), pa.decimal256(60, 18)),
        }
    )
    for row in totals.group_by("currency").aggregate([("amount", "sum")]).to_pylist():
        report.source_totals[row["currency"]] = (
            report.source_totals.get(row["currency"], Decimal(0)) + row["amount_sum"]
        )


def _count_break(key: str, what: str, expected: int, actual: int) -> EntryBreak:
    return EntryBreak(key, "counts", None, None, what, str(expected), str(actual))


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def equation(report: ReconciliationReport) -> str:
    """The count equation in words."""
    parts: Sequence[tuple[str, int]] = (
        ("posted", report.posted),
        ("duplicates", report.duplicates),
        ("conflicts", report.conflicts),
        ("rejected", report.rejected),
        ("filtered", report.filtered),
    )
    return f"read {report.read:,} = " + " + ".join(f"{name} {count:,}" for name, count in parts)


def currency_rows(report: ReconciliationReport) -> list[dict[str, object]]:
    """The totals per currency as rows of a table."""
    return [
        {
            "currency": totals.currency_code,
            "debits": totals.debits,
            "credits": totals.credits,
            "converted": totals.converted,
            "difference": totals.difference,
            "drift": totals.drift,
        }
        for totals in report.currencies
    ]
