"""Reconciliation: every posted entry against its source, every balance against its legs, tolerance zero.

Belongs here: what is held against what, the counts, and the report.
Does not: comparing entry by entry (`comparison.py`), reading the ledger (`ledger/reconciliation.py`,
`ledger/balances.py`), repairing anything.

Partition by partition, so memory does not grow with the source. The expected side is the validated frame; when its
file is gone, it is made again from the source. Rows that were repaired are made again from what was sent. Of a source
that is posted inside the database, the database compares most rows itself (`taken_reconciliation.py`). Three things
go on at a time, each mostly the work of another process or thread: the server reads a partition, this one compares the
one before, and balances are summed.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from decimal import Decimal, localcontext

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger import balances, reconciliation, rejects, seals, status
from backfill_pipeline.ledger.balances import AccountBreak, Balances, CurrencyTotals
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.status import PartitionOutcome
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.money import SUM_DIGITS
from backfill_pipeline.stages.comparison import (
    BREAK_SAMPLE,
    EntryBreak,
    align,
    different_breaks,
    missing_breaks,
    unexpected_breaks,
)
from backfill_pipeline.stages.corrected import CorrectedReferences
from backfill_pipeline.stages.differences import Differences
from backfill_pipeline.stages.prepare import PartitionFrames
from backfill_pipeline.stages.replay import replayed_entries
from backfill_pipeline.stages.stated import StatedReport, compare_stated_balances, stated_details
from backfill_pipeline.stages.taken_reconciliation import ComparedInside, InsideComparison, inside_comparison
from backfill_pipeline.stages.work import SourceWork


@dataclass(slots=True)
class ReconciliationReport:
    """The outcome. `breaks` and `account_breaks` are samples, the counts are complete.

    Attributes:
        open_partitions: partitions that are not posted yet. They are no break, since nothing claims that they are in
            the ledger, but the verdict is about the others only; the counts leave them out.
        corrected: entries that were compared as they stand after applied corrections.
        stated: the balances that the source states, compared; None when it states none. The verdict is not about them.
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
    corrected: int = 0
    open_partitions: int = 0
    seconds: float = 0.0
    break_count: int = 0
    break_kinds: Counter[str] = field(default_factory=Counter)
    breaks: list[EntryBreak] = field(default_factory=list)
    account_break_count: int = 0
    account_breaks: list[AccountBreak] = field(default_factory=list)
    currencies: list[CurrencyTotals] = field(default_factory=list)
    source_totals: dict[str, Decimal] = field(default_factory=dict)
    stated: StatedReport | None = None

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

    def add_all(self, found: Iterable[tuple[EntryBreak, int]]) -> None:
        """Adds breaks with their counts."""
        for one, count in found:
            self.add(one, count)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """What the comparison of one source is made with."""

    connection: Connection
    work: SourceWork
    corrected: CorrectedReferences
    differences: Differences
    report: ReconciliationReport


def reconcile(
    work: SourceWork, *, with_balances: bool = True, differences: Differences | None = None
) -> ReconciliationReport:
    """Compares everything that is posted of a source with the ledger and records the verdict.

    Args:
        work: the source.
        with_balances: whether balances are held against their entries too: those of the whole ledger, which is summed
            for that. False for one of many sources that are reconciled together, whose last one does it for all.
        differences: takes the references that differ, with what the source says of them; None when nobody asks.

    Raises:
        TransientLedgerError: the ledger cannot be read right now.
    """
    started = time.monotonic()
    report = ReconciliationReport(work.definition.id)
    with work.connect() as connection:
        with (
            _examining_balances(work) if with_balances else nullcontext() as examined,
            inside_comparison(work, connection) as inside,
        ):
            reconciliation.prepare(connection)
            # First, so that what is compared now is what later verifications hold the ledger against.
            seals.seal_batches(connection)
            corrected = CorrectedReferences.read(connection)
            comparison = _Comparison(connection, work, corrected, differences or Differences(0), report)
            outcomes = status.partition_outcomes(connection, work.registration.id)
            posted = [outcome for outcome in outcomes if outcome.status == "posted"]
            report.open_partitions = len(outcomes) - len(posted)
            if corrected.any_holds:
                inside = None
            with closing(_read_ahead(work, posted, inside)) as partitions:
                for outcome, actual in partitions:
                    _reconcile_partition(comparison, outcome, actual)
            _reconcile_opening_entries(comparison, posted=bool(posted))
            _report_left_over(comparison)
            if not report.open_partitions:
                _reconcile_totals(connection, work, report)
            if examined is not None:
                found = examined.result()
                report.account_break_count, report.account_breaks = found.break_count, found.breaks
                report.currencies = found.currencies
        report.stated = compare_stated_balances(connection, work, outcomes)
        report.seconds = time.monotonic() - started
        reconciliation.record(
            connection,
            work.registration.id,
            verdict=report.verdict,
            entries_compared=report.entries_compared + report.opening_entries_compared,
            break_count=report.break_count + report.account_break_count + len(report.currency_breaks),
            details={
                "open_partitions": report.open_partitions,
                "corrected": report.corrected,
                "kinds": dict(report.break_kinds),
                "breaks": [asdict(one) for one in report.breaks],
                "account_breaks": [
                    {**asdict(one), "expected": str(one.expected), "actual": str(one.actual)}
                    for one in report.account_breaks
                ],
                **({} if report.stated is None else {"stated_balances": stated_details(report.stated)}),
            },
        )
    return report


@contextmanager
def _examining_balances(work: SourceWork) -> Iterator[Future[Balances]]:
    """Sums the balances of the whole ledger meanwhile, on a connection of its own and in one snapshot of its own.

    Entries need not be read in that snapshot: those of a batch never change, so they are the same at any moment, and
    what live postings add belongs to no batch.
    """
    with work.connect() as connection, ThreadPoolExecutor(1, thread_name_prefix="balances") as thread:
        try:
            yield thread.submit(balances.examine, connection)
        except BaseException:
            connection.cancel()  # nobody waits for its outcome any more
            raise


def _read_ahead(
    work: SourceWork, outcomes: Sequence[PartitionOutcome], inside: InsideComparison | None
) -> Generator[tuple[PartitionOutcome, pa.Table | ComparedInside]]:
    """Yields each partition with its entries in the ledger; the next one's are read while this one's are compared.

    Where the database compares, it does so for two partitions at a time: there is little else to do meanwhile.
    """
    readers = 1 if inside is None else 2
    with ExitStack() as stack:
        idle = deque(stack.enter_context(work.connect()) for _ in range(readers))
        threads = stack.enter_context(ThreadPoolExecutor(readers, thread_name_prefix="read"))

        def read(outcome: PartitionOutcome) -> pa.Table | ComparedInside:
            connection = idle.popleft()  # as many as threads
            try:
                if inside is not None and (compared := inside.compare(connection, outcome.partition_key)):
                    return compared
                partition = work.registration.partition(outcome.partition_key)
                return reconciliation.posted_entries(
                    connection, partition.id, size_bytes=partition.plan.byte_length
                )
            finally:
                idle.append(connection)

        ahead = deque(threads.submit(read, outcome) for outcome in outcomes[:readers])
        for number, outcome in enumerate(outcomes, readers):
            actual = ahead.popleft().result()
            ahead.extend(threads.submit(read, following) for following in outcomes[number : number + 1])
            yield outcome, actual


def _reconcile_partition(
    comparison: _Comparison, outcome: PartitionOutcome, side: pa.Table | ComparedInside
) -> None:
    connection, work, report = comparison.connection, comparison.work, comparison.report
    key = outcome.partition_key
    _add_counts(report, outcome)
    parts = outcome.posted + outcome.duplicates + outcome.conflicts + outcome.rejected + outcome.filtered
    if outcome.read != parts:
        report.add(_count_break(key, "read", outcome.read, parts))
    partition = work.registration.partition(key)
    proven = 0
    if isinstance(side, ComparedInside):
        expected, actual, proven = side.expected, side.proven.entries, side.proven.count
        _add_to_totals(report, side.proven.totals)
    else:
        expected, actual = PartitionFrames(work, key, ()).validated(), side
    refused = rejects.rows_rejected_while_posting(connection, partition.id)
    if refused:
        refused_rows = pa.array(list(refused), pa.int64())
        expected = expected.filter(pc.invert(pc.is_in(expected.column("source_row"), refused_rows)))
    replayed = replayed_entries(connection, work, partition.id)
    if replayed.num_rows:
        expected = pa.concat_tables([expected, replayed]).sort_by("source_row")
    expected = reconciliation.as_current(connection, expected)
    actual, corrected = comparison.corrected.put_in(actual)
    restored = comparison.corrected.restored(
        actual,
        source_id=work.definition.id,
        partition_key=key,
        lacking=outcome.posted - proven - actual.num_rows,
    )
    actual = pa.concat_tables([actual, restored]) if restored.num_rows else actual
    report.corrected += corrected + restored.num_rows
    if proven + actual.num_rows != outcome.posted:
        report.add(_count_break(key, "posted", outcome.posted, proven + actual.num_rows))
    aligned = align(expected, actual)
    report.add_all(unexpected_breaks(key, aligned.unexpected))
    report.add_all(different_breaks(key, aligned))
    comparison.differences.add_unwanted(key, aligned.unexpected)
    comparison.differences.add_pairs(key, aligned)
    report.entries_compared += proven + actual.num_rows
    # What no batch of this partition posted must have been in the ledger before, identical: duplicates.
    elsewhere = aligned.absent
    missing = _reconcile_by_reference(comparison, key, elsewhere) if elsewhere.num_rows else 0
    if elsewhere.num_rows - missing != outcome.duplicates:
        report.add(_count_break(key, "duplicates", outcome.duplicates, elsewhere.num_rows - missing))
    _add_totals(report, aligned.expected)


def _reconcile_totals(connection: Connection, work: SourceWork, report: ReconciliationReport) -> None:
    """The whole source: every row read, and every reject that was counted kept."""
    if report.read != work.registration.row_count:
        report.add(_count_break("source", "read", work.registration.row_count, report.read))
    kept = sum(rejects.count_by_code(connection, work.registration.id).values())
    if kept != report.rejected + report.conflicts:
        report.add(_count_break("source", "rejects", report.rejected + report.conflicts, kept))


def _reconcile_opening_entries(comparison: _Comparison, *, posted: bool) -> None:
    connection, work, report = comparison.connection, comparison.work, comparison.report
    book = read_accounts(work.definition)
    recorded, actual = reconciliation.opening_entry_counts(connection, work.definition.id)
    # After the whole source was rolled back, nothing claims that they are in the ledger: the next run posts them first.
    claimed = bool(posted or recorded or actual)
    if book is not None and book.opening_entries.num_rows and claimed:
        report.opening_entries_compared = book.opening_entries.num_rows
        expected = reconciliation.as_current(connection, book.opening_entries)
        _reconcile_by_reference(comparison, "opening balances", expected)
    if actual > recorded:
        report.add(EntryBreak("opening balances", "unexpected", None, None), actual - recorded)


def _report_left_over(comparison: _Comparison) -> None:
    """Corrections of what was taken back or posted again since: their entries are too many now."""
    for row in comparison.corrected.left_over_of(comparison.work.definition.id).to_pylist():
        key = row["partition_key"] or "source"
        comparison.report.add(
            EntryBreak(key, "left over", row["source_row"], row["reference_id"], "correction")
        )
        comparison.differences.add_left_over(key, row)


def _reconcile_by_reference(comparison: _Comparison, key: str, expected: pa.Table) -> int:
    """Compares entries that others may have posted; returns how many of them are missing."""
    report = comparison.report
    actual = reconciliation.entries_by_reference(comparison.connection, expected, size_bytes=expected.nbytes)
    actual, corrected = comparison.corrected.put_in(actual)
    report.corrected += corrected
    aligned = align(expected, actual)
    comparison.differences.add_pairs(key, aligned)
    comparison.differences.add_wanted(key, aligned.absent)
    report.add_all(different_breaks(key, aligned))
    report.add_all(missing_breaks(key, aligned.absent))
    return int(aligned.absent.num_rows)


def _add_counts(report: ReconciliationReport, outcome: PartitionOutcome) -> None:
    for name in ("read", "posted", "duplicates", "conflicts", "rejected", "filtered"):
        setattr(report, name, getattr(report, name) + getattr(outcome, name))


def _add_totals(report: ReconciliationReport, entries: pa.Table) -> None:
    totals = pa.table(
        {
            "currency": entries.column("currency_code"),
            "amount": pc.cast(entries.column("amount"), pa.decimal256(SUM_DIGITS, 18)),
        }
    )
    sums = totals.group_by("currency").aggregate([("amount", "sum")]).to_pylist()
    _add_to_totals(report, {row["currency"]: row["amount_sum"] for row in sums})


def _add_to_totals(report: ReconciliationReport, totals: Mapping[str, Decimal]) -> None:
    with localcontext(prec=SUM_DIGITS):
        for currency, amount in totals.items():
            report.source_totals[currency] = report.source_totals.get(currency, Decimal(0)) + amount


def _count_break(key: str, what: str, expected: int, actual: int) -> EntryBreak:
    return EntryBreak(key, "counts", None, None, what, str(expected), str(actual))


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


def corrected_text(report: ReconciliationReport) -> str:
    """How many entries were compared as corrections left them; empty without any."""
    if not report.corrected:
        return ""
    return f"{report.corrected:,} of them as corrected"


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
