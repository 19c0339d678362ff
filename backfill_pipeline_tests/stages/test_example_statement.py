"""The bank statement in data/examples: a single-sided export with type codes becomes a ledger whose balances are right.

Right is what this module computes from the file by itself, and what the file states after each booking.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from backfill_pipeline_tests.stages.world import CHECKOUT, World

EXAMPLE = CHECKOUT / "data" / "examples" / "statement"
OPENINGS = {
    "CZ-576": "12500.00", "CZ-1787": "0", "CZ-3818": "48230.40",
    "CASH": "500000.00", "CLEARING-AB": "250000.00", "CLEARING-OTHER": "750000.00",
}  # fmt: skip
ASSETS = ("CASH", "CLEARING-AB", "CLEARING-OTHER", "INTEREST-PAID")


def bookings() -> Iterator[dict[str, str]]:
    """The lines of the file but for the last, which is cut off."""
    lines = (EXAMPLE / "statement.csv").read_bytes().decode().split("\r\n")
    return csv.DictReader(lines[:-1], delimiter=";")


def other_side(booking: dict[str, str]) -> str:
    by_symbol = {"UROK": "INTEREST-PAID", "SLUZBY": "FEES", "SANKC. UROK": "PENALTY-INTEREST"}
    by_kind = {"VKLAD": "CASH", "VYBER": "CASH", "VYBER KARTOU": "CARDS"}
    clearing = "CLEARING-AB" if booking["banka"] == "AB" else "CLEARING-OTHER"
    return by_symbol.get(booking["symbol"]) or by_kind.get(booking["operace"]) or clearing


def balances() -> dict[str, Decimal]:
    """What every account must hold in the end, on its normal side."""
    found = {account: Decimal(opening) for account, opening in OPENINGS.items()}
    for booking in bookings():
        amount = Decimal(booking["castka"].replace(",", "."))
        paid_in = booking["typ"] == "PRIJEM"
        customer, other = f"CZ-{booking['ucet']}", other_side(booking)
        found[customer] += amount if paid_in else -amount
        raised = paid_in == (other in ASSETS)  # money in debits the other side, and a debit raises an asset
        found[other] = found.get(other, Decimal(0)) + (amount if raised else -amount)
    return found


def test_the_file_is_what_it_is_meant_to_be() -> None:
    raw = (EXAMPLE / "statement.csv").read_bytes()
    lines = raw.split(b"\r\n")
    assert len(lines) > 300
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert not lines[-1].endswith(b'"')
    assert b';"";"";""' in raw
    assert {booking["operace"] for booking in bookings()} == {
        "", "VKLAD", "VYBER", "VYBER KARTOU", "PREVOD Z UCTU", "PREVOD NA UCET",
    }  # fmt: skip


def test_everything_but_the_line_that_was_cut_off_is_posted(world: World) -> None:
    path = EXAMPLE / "statement.yaml"
    world.post(path)
    count = sum(1 for _ in bookings())
    report = world.reconcile(path)
    assert report.matches
    assert (report.read, report.posted, report.rejected, report.filtered) == (count + 1, count, 1, 0)
    assert world.rejects() == [(count + 1, "extract", "quote_unterminated", None)]
    actual = world.query("SELECT id, balance FROM bank_accounts WHERE id NOT LIKE 'OPENING-%'")
    assert {account: balance for account, balance in actual} == balances()
    kinds = {
        kind: count
        for kind, count in world.query("SELECT transaction_type, count(*) FROM ledger_entries GROUP BY 1")
    }
    assert kinds["BANK_FEE"] == sum(booking["symbol"] == "SLUZBY" for booking in bookings())
    assert set(kinds) == {"BANK_FEE", "CARD_PAYMENT", "CASH", "INTEREST", "TRANSFER", "OPENING_BALANCE"}
    stated = report.stated
    assert stated is not None
    assert (stated.compared, stated.differing, stated.accounts, stated.agrees) == (count, 0, 3, True)


def test_the_line_in_full_would_state_a_balance_and_agree(world: World) -> None:
    """Told from the file before it: the balance after the last booking, and one crown less than the bank says."""
    path = copied(world.folder)
    export = path.with_name("statement.csv")
    whole, _, cut = export.read_bytes().decode().rpartition("\r\n")
    held = [booking for booking in bookings() if booking["ucet"] == "1787"][-1]["zustatek"]
    left = Decimal(held.replace(",", ".")) - 500
    line = f'"999999";"1787";960624;"VYDAJ";"VYBER";501,00;{left:.2f};"";"";""'.replace(".", ",")
    assert cut.split(";")[1] == '"1787"'
    export.write_bytes(f"{whole}\r\n{line}\r\n".encode())
    world.post(path)
    stated = world.reconcile(path).stated
    assert stated is not None
    (step,) = stated.steps
    assert (stated.differing, step.line, step.difference) == (1, len(whole.split("\r\n")) + 1, Decimal(1))


@pytest.mark.parametrize(
    ("rule", "symbol"), [("fee for keeping the account", "SLUZBY"), ("penalty interest", "SANKC. UROK")]
)
def test_a_mapping_that_turns_a_booking_round_drifts_from_the_first_such_line_on(
    world: World, rule: str, symbol: str
) -> None:
    """It reconciles with itself, as every mapping does. Only the bank's own balances know better."""
    path = copied(world.folder)
    definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    (sides,) = [one["set"] for one in definition["rules"] if one["name"] == rule]
    sides["debit_account_id"], sides["credit_account_id"] = (
        sides["credit_account_id"],
        sides["debit_account_id"],
    )
    path.write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    world.post(path)
    report = world.reconcile(path)
    assert report.matches
    stated = report.stated
    assert stated is not None
    turned = [line for line, booking in enumerate(bookings(), 2) if booking["symbol"] == symbol]
    assert [step.line for step in stated.steps] == turned[:20]
    assert stated.step_count == len(turned)
    fee = Decimal(next(one for one in bookings() if one["symbol"] == symbol)["castka"].replace(",", "."))
    assert stated.steps[0].difference == -2 * fee
    assert "look at the amount and the accounts of this one" in stated.steps[0].why


def copied(folder: Path) -> Path:
    shutil.copytree(EXAMPLE, folder / "example")
    return folder / "example" / "statement.yaml"
