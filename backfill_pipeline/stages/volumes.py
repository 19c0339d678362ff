"""Volumes of entries that are in memory, so that nobody has to read them from the ledger for that.

Belongs here: what `ledger.figures.daily_volume` says of the ledger, said of a frame.
Does not: showing it.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger.figures import CurrencyTotal, DayVolume
from backfill_pipeline.money import SUM_DIGITS

_SUM_TYPE: Final = pa.decimal256(SUM_DIGITS, 18)


def volumes(entries: pa.Table) -> list[DayVolume]:
    """Entries (VALIDATED_SCHEMA) by day of their event time (UTC) and currency, in order."""
    table = pa.table(
        {
            # The day in UTC, also before 1970; floor_temporal would cost more than all the rest.
            "day": pc.cast(entries.column("timestamp_utc"), pa.date32(), safe=False),
            "currency_code": entries.column("currency_code"),
            "amount": pc.cast(entries.column("amount"), _SUM_TYPE),
        }
    )
    days = table.group_by(["day", "currency_code"]).aggregate([("amount", "count"), ("amount", "sum")])
    return [
        DayVolume(row["day"], row["currency_code"], row["amount_count"], row["amount_sum"])
        for row in days.sort_by([("day", "ascending"), ("currency_code", "ascending")]).to_pylist()
    ]


def merged(days: Iterable[DayVolume]) -> list[DayVolume]:
    """Volumes of several partitions as those of all of them."""
    found: dict[tuple[object, str], DayVolume] = {}
    with localcontext(prec=SUM_DIGITS):
        for one in days:
            key = (one.day, one.currency_code)
            before = found.get(key, DayVolume(one.day, one.currency_code, 0, Decimal(0)))
            entries, amount = before.entries + one.entries, before.amount + one.amount
            found[key] = DayVolume(one.day, one.currency_code, entries, amount)
    return sorted(found.values(), key=lambda one: (one.day, one.currency_code))


def totals(days: Iterable[DayVolume]) -> list[CurrencyTotal]:
    """Volumes of days as totals of currencies."""
    entries: dict[str, int] = {}
    amounts: dict[str, Decimal] = {}
    with localcontext(prec=SUM_DIGITS):
        for one in days:
            entries[one.currency_code] = entries.get(one.currency_code, 0) + one.entries
            amounts[one.currency_code] = amounts.get(one.currency_code, Decimal(0)) + one.amount
    return [CurrencyTotal(code, entries[code], amounts[code]) for code in sorted(entries)]
