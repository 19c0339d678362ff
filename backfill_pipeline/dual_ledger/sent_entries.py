"""Entries that were posted here first, held against what the bank says that it received.

Belongs here: the bank's totals of what it received first, then its list, entry by entry.
Does not: sending (`dispatch.py`), the bank's own entries (`reconcile.py`).

A bank lists what it received as a whole, not by day. So the list is asked for only when totals do not prove the day:
when they differ, or when there is no digest to trust.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb import CONTROL_COLUMNS
from backfill_pipeline.definition.scb_days import day_window, scb_of
from backfill_pipeline.dual_ledger.account_names import AccountNames
from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.dual_ledger.control_totals import ControlTotals, totals_of
from backfill_pipeline.dual_ledger.dual_report import SAMPLE, DualBreak, DualReport
from backfill_pipeline.money import CURRENCY_DECIMALS, plain_text, rescaled
from backfill_pipeline.schemas.frames import TIMESTAMP_TYPE
from backfill_pipeline.schemas.row_errors import combined
from backfill_pipeline.stages.comparison import differing_positions

_COLUMNS: Final = (*CONTROL_COLUMNS, "type")
_ACCOUNTS: Final = ("debit_account_id", "credit_account_id")
_AMOUNT: Final = r"^-?[0-9]{1,20}(\.[0-9]{1,18})?$"


def compare_sent(
    report: DualReport,
    definition: SourceDefinition,
    client: BankClient,
    ours: pa.Table,
    waiting: pa.Array,
    *,
    anew: bool = False,
) -> None:
    """Adds what the bank received for the day to the report.

    Args:
        report: of the day.
        definition: of the bank.
        client: asks it.
        ours: LEDGER_SCHEMA, entries of the day that were posted here first.
        waiting: references of those that the bank is not known to have.
        anew: reads the bank's list, whatever totals say.

    Raises:
        SourceDefinitionError: accounts are made in a way that cannot be read backwards.
        SourceFileError: the bank refuses, or its answers cannot be used.
        TransientSourceError: the bank does not answer.
    """
    report.sent = ours.num_rows
    if not scb_of(
        definition
    ).send_entries:  # what was sent once is in the outbox; nobody claims that both have the same
        return
    stated = client.control_totals(report.day, report.day, of="received")[report.day]
    report.sent_stated = stated
    told = ours.filter(pc.invert(pc.is_in(ours.column("reference_id"), value_set=waiting)))
    if not told.num_rows and not stated.count:
        return
    accounts = AccountNames(definition)
    if stated.digest is not None and not anew and _proves(stated, told, accounts):
        report.sent_equal = told.num_rows
        return
    report.sent_listed = True
    received = _received(client, definition, report, ours)
    _compare(report, ours, waiting, received, accounts)
    _add_totals(report, definition, received, stated)


def _proves(stated: ControlTotals, entries: pa.Table, accounts: AccountNames) -> bool:
    """Whether the bank's totals, with their digest, say that it received these entries and no others."""
    as_sent = _as_sent(entries, accounts)
    return as_sent is not None and not totals_of([as_sent], digest=True).differences(stated)


def _received(
    client: BankClient, definition: SourceDefinition, report: DualReport, ours: pa.Table
) -> pa.Table:
    """What the bank received of the day, and of our entries of the day whatever day it says: each once."""
    begin, end = (pa.scalar(one, TIMESTAMP_TYPE) for one in day_window(scb_of(definition), report.day))
    wanted = combined(ours.column("reference_id"))
    kept = [pa.table({name: pa.array([], pa.string()) for name in _COLUMNS})]
    for page in client.received():
        moments = _moments(page.column("booked_at"))
        inside = pc.fill_null(pc.and_(pc.greater_equal(moments, begin), pc.less(moments, end)), False)
        asked = pc.is_in(page.column("reference"), value_set=wanted)
        kept.append(page.select(_COLUMNS).filter(pc.or_(inside, asked)))
    whole = pa.concat_tables(kept).combine_chunks()
    return whole.group_by(list(_COLUMNS), use_threads=False).aggregate([]) if whole.num_rows else whole


def _compare(
    report: DualReport, ours: pa.Table, waiting: pa.Array, received: pa.Table, accounts: AccountNames
) -> None:
    places = pc.index_in(
        combined(ours.column("reference_id")), value_set=combined(received.column("reference"))
    )
    there = pc.is_valid(places)
    lost = ours.filter(pc.and_not(pc.invert(there), pc.is_in(ours.column("reference_id"), value_set=waiting)))
    report.add_sampled(
        [
            DualBreak("sent missing there", reference, here=f"{amount} {currency}")
            for reference, amount, currency in zip(
                lost.column("reference_id").slice(0, SAMPLE).to_pylist(),
                plain_text(combined(lost.column("amount").slice(0, SAMPLE))).to_pylist(),
                lost.column("currency_code").slice(0, SAMPLE).to_pylist(),
                strict=True,
            )
        ],
        "sent missing there",
        lost.num_rows,
    )
    unknown = received.filter(
        pc.invert(pc.is_in(received.column("reference"), value_set=combined(ours.column("reference_id"))))
    )
    report.add_sampled(
        [
            DualBreak("sent missing here", row["reference"], there=f"{row['amount']} {row['currency']}")
            for row in unknown.slice(0, SAMPLE).to_pylist()
        ],
        "sent missing here",
        unknown.num_rows,
    )
    _compare_fields(report, ours.filter(there), received.take(pc.drop_null(places)), accounts)


def _compare_fields(report: DualReport, ours: pa.Table, theirs: pa.Table, accounts: AccountNames) -> None:
    """Row for row. Our accounts are named as the bank names them; amounts and times are compared by what they mean."""
    moments = pc.cast(ours.column("timestamp_utc"), pa.timestamp("us")).cast(TIMESTAMP_TYPE)
    pairs = {
        "booked_at": (moments, _moments(theirs.column("booked_at"))),
        **{
            column: (_named_there(ours.column(field), accounts), theirs.column(column))
            for column, field in zip(accounts.columns, _ACCOUNTS, strict=True)
        },
        "amount": (_plain(ours.column("amount")), _stripped(theirs.column("amount"))),
        "currency": (ours.column("currency_code"), theirs.column("currency")),
        "type": (ours.column("transaction_type"), theirs.column("type")),
    }
    differing = np.zeros(ours.num_rows, dtype=bool)
    for name, (here, there) in pairs.items():
        positions = differing_positions(
            pa.chunked_array([combined(here)]), pa.chunked_array([combined(there)])
        )
        if not len(positions):
            continue
        differing[positions.to_numpy()] = True
        shown = positions.slice(0, SAMPLE)
        values = zip(
            ours.column("reference_id").take(shown).to_pylist(),
            pc.cast(combined(here).take(shown), pa.string()).to_pylist(),
            theirs.column(name).take(shown).to_pylist(),
            strict=True,
        )
        found = [DualBreak("sent different", *value[:1], name, *value[1:]) for value in values]
        report.add_sampled(found, "sent different", len(positions))
    report.sent_equal = int(len(differing) - differing.sum())


def _add_totals(
    report: DualReport, definition: SourceDefinition, received: pa.Table, stated: ControlTotals
) -> None:
    """The bank's totals of what it received must be those of what it lists."""
    begin, end = (pa.scalar(one, TIMESTAMP_TYPE) for one in day_window(scb_of(definition), report.day))
    moments = _moments(received.column("booked_at"))
    of_day = received.filter(
        pc.fill_null(pc.and_(pc.greater_equal(moments, begin), pc.less(moments, end)), False)
    )
    listed = totals_of([of_day], digest=stated.digest is not None)
    if listed.count != stated.count:
        report.add(
            DualBreak("totals", None, "count of received entries", f"{listed.count}", f"{stated.count}")
        )
    for currency in sorted({*listed.sums, *stated.sums}):
        ours, theirs = (one.sums.get(currency, Decimal(0)) for one in (listed, stated))
        if ours != theirs:
            report.add(DualBreak("totals", None, f"sum of received {currency}", f"{ours:f}", f"{theirs:f}"))
    if not report.break_kinds["totals"] and listed.differences(stated):
        report.add(DualBreak("totals", None, "digest of received entries", listed.digest, stated.digest))


def _as_sent(entries: pa.Table, accounts: AccountNames) -> pa.Table | None:
    """Our entries as the bank writes them; None when accounts cannot be named as the bank names them."""
    columns = {
        "reference": combined(entries.column("reference_id")),
        "booked_at": _times_there(entries.column("timestamp_utc")),
        "amount": _amounts_there(entries),
        "currency": combined(entries.column("currency_code")),
    }
    for column, field in zip(accounts.columns, _ACCOUNTS, strict=True):
        columns[column] = _named_there(entries.column(field), accounts)
        if columns[column].null_count:
            return None
    return pa.table([columns[name] for name in CONTROL_COLUMNS], names=list(CONTROL_COLUMNS))


def _named_there(ids: pa.ChunkedArray, accounts: AccountNames) -> pa.Array:
    """Our accounts as the bank names them; null where there is no such name."""
    ours = pc.unique(ids)
    names = pa.array([_name(one, accounts) for one in ours.to_pylist()], pa.string())
    return names.take(pc.index_in(combined(ids), value_set=ours))


def _name(account: str, accounts: AccountNames) -> str | None:
    try:
        return accounts.of(account)
    except LookupError:
        return None


def _times_there(times: pa.ChunkedArray) -> pa.Array:
    text = pc.strftime(pc.cast(combined(times), pa.timestamp("us")), format="%Y-%m-%dT%H:%M:%S")
    return pc.binary_join_element_wise(
        pc.replace_substring_regex(text, r"\.0*$|(\.[0-9]*[1-9])0+$", r"\1"), "Z", ""
    )


def _amounts_there(entries: pa.Table) -> pa.Array:
    """With all decimals of their currency, and more only where there are more."""
    amounts, currencies = combined(entries.column("amount")), combined(entries.column("currency_code"))
    texts = plain_text(amounts)
    for currency in pc.unique(currencies).to_pylist():
        decimals = CURRENCY_DECIMALS.get(currency)
        if not decimals:
            continue
        of_currency = pc.equal(currencies, currency)
        try:
            written = pc.cast(rescaled(amounts.filter(of_currency), decimals), pa.string())
        except pa.ArrowInvalid:  # finer than the currency; no bank has taken such
            continue
        texts = pc.replace_with_mask(texts, of_currency, written)
    return texts


def _moments(times: pa.ChunkedArray) -> pa.Array:
    """What ISO 8601 with an offset says; null where that cannot be read."""
    texts = combined(times)
    try:
        return pc.cast(texts, TIMESTAMP_TYPE)
    except pa.ArrowInvalid:  # a hostile one among them: one by one, of a page
        return pa.array([_moment(text) for text in texts.to_pylist()], TIMESTAMP_TYPE)


def _moment(text: str) -> int | None:
    try:
        found: int = pc.cast(pa.array([text]), TIMESTAMP_TYPE).cast(pa.int64())[0].as_py()
    except pa.ArrowInvalid:
        return None
    return found


def _plain(amounts: pa.ChunkedArray) -> pa.Array:
    return plain_text(combined(amounts))


def _stripped(texts: pa.ChunkedArray) -> pa.Array:
    """Decimal numbers without trailing zeros; what is none stays as it is."""
    values = combined(texts)
    stripped = pc.replace_substring_regex(values, r"(\.[0-9]*?)0*$", r"\1")
    readable = pc.match_substring_regex(values, _AMOUNT)
    return pc.if_else(readable, pc.utf8_rtrim(stripped, "."), values)
