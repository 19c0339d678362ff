"""Opening balances become ordinary entries that raise each account to exactly its balance."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.schemas.frames import VALIDATED_SCHEMA

Define = Callable[..., SourceDefinition]
SECTION = """
accounts:
  file: accounts.csv
  fields: {id: id, currency_code: currency, normal_side: {column: side, default: debit}, opening_balance: balance}
  opening: {ledger_id: MASTER, as_of: 2018-12-31T23:59:59Z}
"""


def write(tmp_path: Path, *lines: str) -> None:
    (tmp_path / "accounts.csv").write_text("\n".join(["id,currency,side,balance", *lines]) + "\n")


def test_without_a_section_there_are_no_accounts(define: Define) -> None:
    assert read_accounts(define()) is None


def test_opening_entries_move_each_account_by_its_balance_in_its_own_direction(
    define: Define, tmp_path: Path
) -> None:
    write(
        tmp_path,
        "d1,USD,,10.50",
        "d2,USD,Debit,-3",
        "c1,JPY,CREDIT,100",
        "c2,USD,credit,-0.01",
        "e,USD,,",
        "z,USD,,0.00",
    )
    book = read_accounts(define(SECTION))
    assert book is not None
    assert book.opening_entries.schema == VALIDATED_SCHEMA
    sides = {
        row["id"]: row["normal_side"] for row in book.accounts.to_pylist() + book.equity_accounts.to_pylist()
    }
    balances = dict.fromkeys(sides, Decimal(0))
    for entry in book.opening_entries.to_pylist():
        assert entry["amount"] > 0
        assert entry["timestamp_utc"] == datetime(2018, 12, 31, 23, 59, 59, tzinfo=UTC)
        assert entry["transaction_type"] == "OPENING_BALANCE"
        for account, side in ((entry["debit_account_id"], "debit"), (entry["credit_account_id"], "credit")):
            balances[account] += entry["amount"] if sides[account] == side else -entry["amount"]
    assert balances == {
        "d1": Decimal("10.5"), "d2": -3, "c1": 100, "c2": Decimal("-0.01"), "e": 0, "z": 0,
        "OPENING-BALANCE-EQUITY-USD": Decimal("7.51"), "OPENING-BALANCE-EQUITY-JPY": -100,
    }  # fmt: skip
    assert book.opening_entries["reference_id"].to_pylist() == [
        "OPENING-d1",
        "OPENING-d2",
        "OPENING-c1",
        "OPENING-c2",
    ]
    assert book.opening_entries["source_row"].to_pylist() == [1, 2, 3, 4]
    assert book.opening_entries["amount_scale"].to_pylist() == [2, 0, 0, 2]
    assert book.accounts["opening_balance"].to_pylist()[4] is None
    assert book.accounts["asset_type"].to_pylist() == ["fiat"] * 6


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a,USD,,1.001"], ['line 2: opening_balance "1.001" has more decimals than its currency']),
        (["a,BTC,,1"], ['line 2: currency_code "BTC" is not in ISO 4217']),
        (["a,USD,,1", "b,USD,,1", "a,USD,,2"], ['line 4: id "a" is given more than once']),
        (["a,USD,left,1"], ['normal_side "left" is neither debit nor credit']),
        (["a,USD,,1e3"], ['opening_balance "1e3" is not a plain decimal number']),
        ([",USD,,1"], ["line 2: id is missing"]),
        (["a,,,1"], ["line 2: currency_code is missing"]),
        (["OPENING-BALANCE-EQUITY-USD,USD,,1"], ["is an equity account"]),
        ([f"{'x' * 250},USD,,1"], ["too long for the reference"]),
        ([f"a{n},USD,,x" for n in range(9)], ["line 2:", "line 3:", "line 4:", "and 6 more lines"]),
        (["a,USD"], ["line 2", "2 fields"]),
    ],
)
def test_a_wrong_accounts_file_is_one_sentence_with_lines_and_values(
    define: Define, tmp_path: Path, lines: list[str], words: list[str]
) -> None:
    write(tmp_path, *lines)
    with pytest.raises(SourceFileError) as caught:
        read_accounts(define(SECTION))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'accounts.csv'}: ")
    assert "\n" not in text
    for part in words:
        assert part in text


def test_a_missing_accounts_file_and_a_missing_column_are_named(define: Define, tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match=r"accounts\.csv: there is no such file"):
        read_accounts(define(SECTION))
    (tmp_path / "accounts.csv").write_text("id,currency\n1,USD\n")
    with pytest.raises(SourceFileError, match=r"no column 'side', which accounts\.fields\.normal_side reads"):
        read_accounts(define(SECTION))


def test_an_accounts_file_without_rows_is_no_error(define: Define, tmp_path: Path) -> None:
    write(tmp_path)
    book = read_accounts(define(SECTION))
    assert book is not None
    assert book.accounts.num_rows == book.opening_entries.num_rows == book.equity_accounts.num_rows == 0
