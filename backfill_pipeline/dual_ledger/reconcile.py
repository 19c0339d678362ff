"""Both ledgers held against each other for one day: control totals, then entry by entry, then what the bank was told.

Belongs here: what is compared with what, and what counts as a break. No tolerance anywhere.
Does not: getting what the bank serves (`served_day.py`), entries that we sent (`sent_entries.py`), reading the ledger
(`ledger/banks/dual_reconciliation.py`), the report (`dual_report.py`), repairing anything.

What should be here is made from the bank's own words, by the definition's mapping and nothing that a stage left behind.
It is compared piece by piece, so memory does not grow with the day.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import day_definition, day_window, scb_of
from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.dual_ledger.control_totals import NO_ENTRIES, ControlTotals
from backfill_pipeline.dual_ledger.dual_report import SAMPLE, DualBreak, DualReport
from backfill_pipeline.dual_ledger.sent_entries import compare_sent
from backfill_pipeline.dual_ledger.served_day import served_day
from backfill_pipeline.ledger.banks import dual_reconciliation
from backfill_pipeline.ledger.banks.dual_reconciliation import DayOfLedger, DaySnapshot, OutboxState
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.mapping.rows import trim
from backfill_pipeline.mapping.transform import Mapping, compile_mapping
from backfill_pipeline.money import plain_text
from backfill_pipeline.schemas.extracted import to_arrow
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA, FAILURES_SCHEMA, VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline.schemas.row_errors import combined
from backfill_pipeline.stages.comparison import Alignment, align, differing_fields, shown_values
from backfill_pipeline.stages.work import Places

_STATES: Final = {"DEAD": "dead", "FAILED": "failed", "PENDING": "not told yet", "SENT": "not told yet"}
_TAKEN_BACK: Final = ("CANCELLED", "COMPENSATED")
_SUM_TYPE: Final = pa.decimal256(76, 18)


def reconcile_day(
    definition: SourceDefinition,
    places: Places,
    day: date,
    client: BankClient,
    *,
    told: bool = True,
    anew: bool = False,
) -> DualReport:
    """Compares a day of our ledger with the bank's. Changes nothing, on neither side.

    Args:
        definition: of type scb.
        places: the ledger and the folder of captures.
        day: any, fetched before or not.
        client: asks the bank.
        told: whether the bank must know of everything by now, as at the end of a sync. Unless it must, what waits to be
            sent is counted and no break.
        anew: asks the bank for its entries, and for those that it received, even where its totals prove them: a digest
            says nothing of fields that it is not made of, such as types and texts.

    Raises:
        SourceFileError: the bank refuses, or its answers cannot be used; or a file of the definition cannot be read.
        TransientSourceError: the bank does not answer.
        TransientLedgerError: the ledger cannot be read right now.
    """
    started = time.monotonic()
    scope = _scope(definition, day)
    if (
        scope.window_from == scope.window_to
    ):  # a date that the bank's time zone never had: nothing can be booked on it
        return DualReport(definition.id, scope.bank_id, day, NO_ENTRIES, NO_ENTRIES, "capture")
    one_day = day_definition(definition, day)
    with (
        served_day(definition, places, day, client, anew=anew) as served,
        places.connect(one_day.id) as connection,
    ):
        report = DualReport(
            definition.id,
            scope.bank_id,
            day,
            served.stated,
            served.read,
            "fetched" if served.fetched else "capture",
        )
        _add_totals(report, served.read, served.stated)
        compared = _Comparison(one_day, report, connection, compile_mapping(one_day))
        with dual_reconciliation.day_snapshot(connection, scope) as snapshot:
            for records in served.pieces():
                compared.add(records, snapshot)
            snapshot.find_rest()
            _add_left(report, snapshot)
            _add_outbox(report, snapshot, told=told)
            report.untold = compared.alike(snapshot.untold())
            ours, waiting = snapshot.ours(), snapshot.ours_not_acknowledged()
        compared.finish()
    compare_sent(report, definition, client, ours, waiting, anew=anew)
    report.seconds = time.monotonic() - started
    return report


def _scope(definition: SourceDefinition, day: date) -> DayOfLedger:
    section = scb_of(definition)
    ledger_id = definition.dual_ledger_id
    assert ledger_id is not None
    begin, end = day_window(section, day)
    return DayOfLedger(
        ledger_id, section.bank_id, day_definition(definition, day).id, begin, end, section.send_entries
    )


@dataclass(slots=True)
class _Comparison:
    """The bank's entries of a day against ours, piece by piece."""

    definition: SourceDefinition
    report: DualReport
    connection: Connection
    mapping: Mapping
    _absent: list[DualBreak] = field(default_factory=list)
    _absent_count: int = 0
    _unlike: list[pa.Array] = field(default_factory=list)  # references of entries that differ here

    def add(self, records: pa.Table, snapshot: DaySnapshot) -> None:
        """Maps records of the bank (EXTRACTED) anew, and compares every entry of them."""
        frame = self.mapping.transform(records)
        mapped, validation = to_arrow(frame, ENTRY_SCHEMA), validate(frame)
        expected = to_arrow(validation.valid, VALIDATED_SCHEMA)
        failures = to_arrow(validation.failures, FAILURES_SCHEMA)
        references = pa.table(
            {
                "source_row": combined(mapped.column("source_row")),
                "reference_id": _references(records),
                "left_out": combined(mapped.column("filter_reason")),
            }
        )
        # An entry of the bank that was reversed here comes back under another reference.
        expected, references = snapshot.as_current(expected), snapshot.as_current(references)
        report = self.report
        report.served += references.num_rows
        report.filtered += references.num_rows - references.column("left_out").null_count
        report.rejected += failures.num_rows
        actual = snapshot.posted(references)
        report.here += actual.num_rows
        _add_sums(report.served_sums, expected)
        _add_sums(report.here_sums, actual)
        rejected_here = pc.is_in(
            actual.column("source_row"), value_set=combined(failures.column("source_row"))
        )
        aligned = align(expected, actual.filter(pc.invert(rejected_here)))
        self._add_different(aligned)
        self._add_absent(aligned.absent)
        self._add_rejected(failures, references, actual.filter(rejected_here))

    def finish(self) -> None:
        """Tells the entries that are missing here, and says why entries were not posted where the ledger knows it."""
        told = [
            *self._absent,
            *(one for one in self.report.breaks if one.kind == "different" and not one.reason),
        ]
        named = sorted({one.reference for one in told if one.reference})
        why = dual_reconciliation.refusals(self.connection, self.definition.id, named) if named else {}

        def explained(one: DualBreak) -> DualBreak:
            if one.reason or one.kind not in ("missing here", "different"):
                return one
            unknown = ("not posted",) if one.kind == "missing here" else ()
            return replace(one, reason=": ".join(why.get(one.reference or "", unknown)) or None).cleaned()

        self.report.breaks = [explained(one) for one in self.report.breaks]
        self.report.add_sampled([explained(one) for one in self._absent], "missing here", self._absent_count)

    def alike(self, references: list[str]) -> list[str]:
        """Those of them whose entries here are what the bank serves, to the last field."""
        unlike = set().union(*(one.to_pylist() for one in self._unlike)) if references else set()
        return [one for one in references if one not in unlike]

    def _add_different(self, aligned: Alignment) -> None:
        differing = np.zeros(aligned.expected.num_rows, dtype=bool)
        references = aligned.expected.column("reference_id")
        for name, positions, theirs, ours in differing_fields(aligned):
            differing[positions.to_numpy()] = True
            shown = positions.slice(0, SAMPLE)
            values = zip(
                references.take(shown).to_pylist(),
                _shown(ours.take(shown)),
                _shown(theirs.take(shown)),
                strict=True,
            )
            found = [DualBreak("different", one, name, here, there) for one, here, there in values]
            self.report.add_sampled(found, "different", len(positions))
        self.report.equal += int(len(differing) - differing.sum())
        self._unlike.append(combined(references.filter(pa.array(differing))))

    def _add_absent(self, absent: pa.Table) -> None:
        self._absent_count += absent.num_rows
        for reference, amount, currency in _entries(absent, SAMPLE - len(self._absent)):
            self._absent.append(DualBreak("missing here", reference, there=f"{amount} {currency}"))

    def _add_rejected(self, failures: pa.Table, references: pa.Table, here: pa.Table) -> None:
        """Entries that cannot be posted as the bank has them. Where one is here, it is not what the bank has."""
        is_here = pc.is_in(failures.column("source_row"), value_set=combined(here.column("source_row")))
        self._unlike.append(combined(here.column("reference_id")))
        for kind, why, rows in (
            ("missing here", "", failures.filter(pc.invert(is_here))),
            (
                "different",
                "; it is here as a person repaired it, or as it once was",
                failures.filter(is_here),
            ),
        ):
            shown = rows.slice(0, SAMPLE)
            at = pc.index_in(
                combined(shown.column("source_row")), value_set=combined(references.column("source_row"))
            )
            named = references.column("reference_id").take(at).to_pylist()
            found = [
                DualBreak(
                    kind, reference or None, row["field"], reason=f"{row['code']}: {row['reason']}{why}"
                )
                for reference, row in zip(named, shown.to_pylist(), strict=True)
            ]
            self.report.add_sampled(found, kind, rows.num_rows)


def _add_totals(report: DualReport, read: ControlTotals, stated: ControlTotals) -> None:
    """What the bank states and serves, however often it is asked, are not the same."""
    if read.count != stated.count:
        report.add(DualBreak("totals", None, "count", f"{read.count}", f"{stated.count}"))
    for currency in sorted({*read.sums, *stated.sums}):
        ours, theirs = (one.sums.get(currency, Decimal(0)) for one in (read, stated))
        if ours != theirs:
            report.add(DualBreak("totals", None, f"sum of {currency}", f"{ours:f}", f"{theirs:f}"))
    if not report.break_count and read.differences(stated):
        report.add(DualBreak("totals", None, "digest", read.digest, stated.digest))


def _add_left(report: DualReport, snapshot: DaySnapshot) -> None:
    """Entries here that the bank does not serve."""
    count = snapshot.left_count()
    if not count:
        return
    report.here += count
    for currency, amount in snapshot.left_sums().items():
        report.here_sums[currency] = report.here_sums.get(currency, Decimal(0)) + amount
    found = [
        DualBreak(
            "missing there",
            one.reference_id,
            reason=None
            if one.left_out is None
            else f"the bank has it, but the definition leaves it out: {one.left_out}",
        )
        for one in snapshot.left_entries(SAMPLE)
    ]
    report.add_sampled(found, "missing there", count)


def _add_outbox(report: DualReport, snapshot: DaySnapshot, *, told: bool) -> None:
    report.outbox = snapshot.outbox_states()
    for state in report.outbox:
        for kind in _kinds(state):
            if kind == "not told yet" and not told:
                continue
            found = [
                DualBreak(kind, row.reference_id, "outbox", row.status, None, row.last_error)
                for row in snapshot.outbox_rows(state, SAMPLE)
            ]
            report.add_sampled(found, kind, state.count)


def _kinds(state: OutboxState) -> Iterator[str]:
    """What is wrong with rows that stand so."""
    if state.kind is None:
        yield "no outbox row"
        return
    if not state.here and state.status not in _TAKEN_BACK:
        yield "outbox row alone"
    if state.status in _STATES:
        yield _STATES[state.status]


def _entries(table: pa.Table, limit: int) -> Iterator[tuple[str, str, str]]:
    """Reference, amount and currency of the first entries."""
    shown = table.slice(0, max(limit, 0))
    yield from zip(
        shown.column("reference_id").to_pylist(),
        plain_text(combined(shown.column("amount"))).to_pylist(),
        shown.column("currency_code").to_pylist(),
        strict=True,
    )


def _references(records: pa.Table) -> pa.Array:
    """References as the mapping reads them; "" where there is none, or none that a ledger could hold."""
    references = pc.fill_null(trim(combined(records.column("reference"))), "")
    return pc.if_else(pc.match_substring(references, "\0"), "", references)


def _shown(values: pa.ChunkedArray) -> list[str | None]:
    """Values for people: amounts without trailing zeros, times with their Z."""
    if pa.types.is_decimal(values.type):
        texts: list[str | None] = plain_text(combined(values)).to_pylist()
        return texts
    if pa.types.is_timestamp(values.type):
        return [f"{one}Z".replace(" ", "T") for one in shown_values(values)]
    return [None if one is None else str(one) for one in values.to_pylist()]


def _add_sums(sums: dict[str, Decimal], entries: pa.Table) -> None:
    amounts = pa.table(
        {
            "currency": entries.column("currency_code"),
            "amount": pc.cast(entries.column("amount"), _SUM_TYPE),
        }
    )
    totals = amounts.group_by("currency", use_threads=False).aggregate([("amount", "sum")])
    for row in totals.to_pylist():
        sums[row["currency"]] = sums.get(row["currency"], Decimal(0)) + row["amount_sum"]
