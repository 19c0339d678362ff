"""A ledger kept with Beancount comes out with the balances that Beancount itself computes, of every commodity."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import pytest
from beancount import loader
from beancount.core import realization

from backfill_pipeline_tests.stages.world import CHECKOUT, World

EXAMPLE = CHECKOUT / "data" / "examples" / "beancount"

_BALANCES = """
    SELECT account_id, metadata ->> 'commodity', sum(CASE side WHEN 'debit' THEN amount ELSE -amount END)
    FROM ledger_entry_legs GROUP BY 1, 2
"""
_ACCOUNTS = "SELECT id, CASE normal_side WHEN 'debit' THEN balance ELSE -balance END FROM bank_accounts"


def balances_of_beancount(path: Path) -> dict[tuple[object, object], Decimal]:
    """Account and commodity → what Beancount says it holds in the end."""
    entries, errors, _ = loader.load_file(str(path))
    assert not errors
    held: dict[tuple[object, object], Decimal] = defaultdict(Decimal)
    root = realization.realize(entries)
    for account in realization.iter_children(root):
        for position in account.balance:
            held[account.account, position.units.currency] += position.units.number
    return {place: number for place, number in held.items() if number}


@pytest.fixture
def example(tmp_path: Path) -> Path:
    folder = tmp_path / "beancount"
    shutil.copytree(EXAMPLE, folder)
    return folder


def test_closing_balances_are_those_of_beancount(world: World, example: Path) -> None:
    path = example / "beancount.yaml"
    world.post(path)
    report = world.reconcile(path)
    assert report.matches
    assert (report.rejected, report.conflicts) == (0, 0)
    assert report.read == report.posted + report.filtered
    found = {(account, commodity): Decimal(str(sum_)) for account, commodity, sum_ in world.query(_BALANCES)}
    held = {place: number for place, number in found.items() if number}
    conversions = {
        place: held.pop(place) for place in list(held) if str(place[0]).startswith("Equity:Conversions:")
    }
    wanted = balances_of_beancount(example / "example.beancount")
    assert held == wanted
    assert {commodity for _, commodity in wanted} >= {"USD", "VACHR", "IRAUSD", "VBMPX", "RGAGX", "GLD"}
    # What was given away and taken in exchanges: with it, every commodity sums to zero.
    totals: dict[object, Decimal] = defaultdict(Decimal)
    for (_, commodity), number in [*held.items(), *conversions.items()]:
        totals[commodity] += number
    assert set(totals.values()) == {Decimal(0)}
    # And the balances that the ledger keeps are those of its entries.
    by_account = {account: Decimal(str(number)) for account, number in world.query(_ACCOUNTS) if number}
    assert by_account == {account: number for (account, _), number in [*held.items(), *conversions.items()]}


def test_money_is_money_and_shares_are_not(world: World, example: Path) -> None:
    world.post(example / "beancount.yaml")
    assert world.query("SELECT DISTINCT currency_code, asset_type FROM ledger_entries ORDER BY 1, 2") == [
        ("USD", "fiat"), ("XXX", "commodity"), ("XXX", "security"),
    ]  # fmt: skip
    mixed = """
        SELECT count(*) FROM ledger_entries e, bank_accounts a
        WHERE a.id IN (e.debit_account_id, e.credit_account_id) AND a.currency_code <> e.currency_code
    """
    assert world.value(mixed) == 0


def test_the_committed_files_are_what_the_exporter_writes(example: Path) -> None:
    written = [example / "postings.csv", example / "accounts.csv"]
    committed = [path.read_bytes() for path in written]
    command = [
        sys.executable,
        str(example / "export.py"),
        str(example / "example.beancount"),
        *map(str, written),
    ]
    subprocess.run(command, check=True)
    assert [path.read_bytes() for path in written] == committed
    with written[1].open(newline="") as file:
        accounts = [row["account"] for row in csv.DictReader(file)]
    assert len(accounts) == len(set(accounts)), "an account of the ledger holds one commodity"
