"""Opening balances are read by the same rule as amounts, sign and minor units included."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.mapping.accounts import read_accounts

Define = Callable[..., SourceDefinition]


def balances(define: Define, tmp_path: Path, rule: str, *lines: str) -> list[tuple[Decimal, int]]:
    (tmp_path / "accounts.csv").write_text(
        "id;currency;balance;other\n" + "".join(f"{one}\n" for one in lines)
    )
    fields = f"{{id: id, currency_code: currency, opening_balance: {rule}}}"
    opening = "{ledger_id: MASTER, as_of: 2023-12-31T23:59:59Z}"
    book = read_accounts(
        define(
            f"accounts: {{file: accounts.csv, csv: {{delimiter: ';'}}, fields: {fields}, opening: {opening}}}\n"
        )
    )
    assert book is not None
    columns = (book.accounts[name].to_pylist() for name in ("opening_balance", "opening_scale"))
    return list(zip(*columns, strict=True))


def test_minor_units_and_a_sign_in_a_column(define: Define, tmp_path: Path) -> None:
    rule = "{column: balance, minor_units: true, sign: {column: other, negative: D, positive: C}}"
    assert balances(define, tmp_path, rule, "A;EUR;12345;D", "B;JPY;7;C") == [
        (Decimal("-123.45"), 2), (Decimal(7), 0),
    ]  # fmt: skip


def test_a_wrong_sign_stops_the_source_and_names_the_line(define: Define, tmp_path: Path) -> None:
    rule = "{column: balance, sign: {column: other, negative: D, positive: C}}"
    with pytest.raises(SourceFileError, match=r'line 3: .*column other "X" is none of the stated "D", "C"'):
        balances(define, tmp_path, rule, "A;EUR;1.00;D", "B;EUR;1.00;X")
