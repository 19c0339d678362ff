"""Volumes of a frame are those of the ledger that it was posted to."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa

from backfill_pipeline.ledger.figures import CurrencyTotal, DayVolume
from backfill_pipeline.money import AMOUNT_TYPE
from backfill_pipeline.schemas.frames import VALIDATED_SCHEMA
from backfill_pipeline.stages.volumes import merged, totals, volumes

LARGEST = Decimal("99999999999999999999.999999999999999999")


def frame(*entries: tuple[datetime, str, Decimal]) -> pa.Table:
    times, currencies, amounts = zip(*entries, strict=True) if entries else ((), (), ())
    return pa.table(
        {
            "timestamp_utc": pa.array(times, VALIDATED_SCHEMA.field("timestamp_utc").type),
            "currency_code": pa.array(currencies, pa.string()),
            "amount": pa.array(amounts, AMOUNT_TYPE),
        }
    )


def at(year: int, month: int, day: int, *time: int) -> datetime:
    return datetime(year, month, day, *time, tzinfo=UTC)


def test_days_are_those_of_utc_also_before_1970() -> None:
    found = volumes(
        frame(
            (at(1970, 1, 1), "USD", Decimal("0.1")),
            (at(1969, 12, 31, 23, 59, 59, 999_999), "USD", Decimal("0.2")),
            (at(1969, 12, 31), "EUR", Decimal(3)),
            (at(1970, 1, 1, 23, 59, 59, 999_999), "USD", Decimal("0.2")),
        )
    )
    assert found == [
        DayVolume(date(1969, 12, 31), "EUR", 1, Decimal(3)),
        DayVolume(date(1969, 12, 31), "USD", 1, Decimal("0.2")),
        DayVolume(date(1970, 1, 1), "USD", 2, Decimal("0.3")),
    ]


def test_sums_have_more_digits_than_amounts() -> None:
    days = volumes(frame(*[(at(2024, 1, 1), "USD", LARGEST)] * 11))
    assert [str(one.amount) for one in days] == ["1099999999999999999999.999999999999999989"]
    assert [str(one.amount) for one in merged([*days, *days])] == [
        "2199999999999999999999.999999999999999978"
    ]
    assert [str(one.amount) for one in totals([*days, *days])] == [
        "2199999999999999999999.999999999999999978"
    ]


def test_partitions_come_to_what_they_are_together() -> None:
    entries: Sequence[tuple[datetime, str, Decimal]] = [
        (at(2024, 1, 1 + n % 3), "USD" if n % 2 else "EUR", Decimal(n)) for n in range(1, 20)
    ]
    parts = [*volumes(frame(*entries[:7])), *volumes(frame(*entries[7:])), *volumes(frame())]
    assert merged(parts) == volumes(frame(*entries))
    assert totals(parts) == [
        CurrencyTotal("EUR", 9, Decimal(sum(range(2, 20, 2)))),
        CurrencyTotal("USD", 10, Decimal(sum(range(1, 20, 2)))),
    ]
