"""What a definition states about numbers and times holds up to the ledger, and the reconciliation agrees with it."""

from backfill_pipeline_tests.stages.world import World

HEADER = ("ref", "debit", "credit", "value", "other", "currency", "day", "clock")
FIELDS: dict[str, object] = {
    "ledger_id": {"constant": "MASTER"},
    "debit_account_id": "debit",
    "credit_account_id": "credit",
    "currency_code": {"column": "currency", "default": "USD"},
    "transaction_type": {"constant": "TRANSFER"},
    "reference_id": "ref",
    "timestamp_utc": {
        "columns": ["day", "clock"], "format": "%d.%m.%y %H:%M", "pivot": "1970", "timezone": "Europe/Berlin",
        "ambiguous": "later", "allow_24": "true",
    },
}  # fmt: skip


def posted(world: World, amount: dict[str, object], *cells: tuple[str, str]) -> list[tuple[object, ...]]:
    """Amounts and times as the ledger writes them, after a run that reconciles."""
    rows = [
        (f"R{number}", "A", "B", value, other, "", "27.10.24", "02:30" if number % 2 else "24:00")
        for number, (value, other) in enumerate(cells)
    ]
    path = world.write(
        "bank", rows, header=HEADER, fields={**FIELDS, "amount": amount}, metadata=None, max_error_rate="1"
    )
    world.post(path)
    report = world.reconcile(path)
    assert report.matches
    assert report.read == len(cells) == report.posted + report.rejected + report.filtered
    return world.query(
        "SELECT reference_id, amount::text, to_char(timestamp_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')"
        " FROM ledger_entries WHERE transaction_type <> 'OPENING_BALANCE' ORDER BY 1"
    )


def test_minor_units_have_the_decimals_of_their_currency(world: World) -> None:
    assert posted(world, {"column": "value", "minor_units": "true"}, ("12345", ""), ("100", ""), ("1.5", "")) == [
        ("R0", "123.45", "2024-10-27 23:00"), ("R1", "1.00", "2024-10-27 01:30"),
    ]  # fmt: skip


def test_fractions_have_the_decimals_of_their_denominator(world: World) -> None:
    amount: dict[str, object] = {"numerator": "value", "denominator": "other", "absolute": "true"}
    assert posted(world, amount, ("-1050", "100"), ("3", "2"), ("1", "3")) == [
        ("R0", "10.50", "2024-10-27 23:00"), ("R1", "1.5", "2024-10-27 01:30"),
    ]  # fmt: skip


def test_in_and_out_and_zeros_that_are_left_out(world: World) -> None:
    amount: dict[str, object] = {
        "in": "value", "out": "other", "absolute": "true", "zero": "filter", "decimal_mark": ",", "symbols": "€",
    }  # fmt: skip
    cells = [("", "€ 12,50"), ("7,1 €", ""), ("0,00", ""), ("1", "1")]
    assert posted(world, amount, *cells) == [
        ("R0", "12.50", "2024-10-27 23:00"), ("R1", "7.1", "2024-10-27 01:30"),
    ]  # fmt: skip
    assert [code for _, _, code, _ in world.rejects()] == ["amount_in_and_out"]
    assert world.value("SELECT sum(filtered) FROM backfill_partitions") == 1
