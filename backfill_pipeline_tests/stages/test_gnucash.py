"""The example of a GnuCash book ends with the balances that GnuCash itself shows."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import psycopg

from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.sources.databases import VARIABLE, variable
from backfill_pipeline_tests.stages.world import CHECKOUT, World

FOLDER = CHECKOUT / "data" / "examples" / "gnucash"
BOOK = FOLDER / "household.gnucash"

# Not the example's query: every account of the tree by its names, whatever the example leaves out.
BALANCES = """
    WITH RECURSIVE tree (guid, path) AS (
        SELECT guid, name FROM accounts WHERE parent_guid = (SELECT root_account_guid FROM books)
        UNION ALL
        SELECT a.guid, path || ':' || a.name FROM accounts a JOIN tree ON tree.guid = a.parent_guid
    )
    SELECT path, sum(quantity_num * 100 / quantity_denom)
    FROM splits JOIN tree ON tree.guid = account_guid GROUP BY path
"""


def test_closing_balances_are_those_of_the_book(world: World) -> None:
    path = FOLDER / "gnucash.yaml"
    before = BOOK.read_bytes()
    world.post(path)
    report = world.reconcile(path)
    assert report.matches, report
    with closing(sqlite3.connect(BOOK)) as book:
        expected = {name: Decimal(cents) / 100 for name, cents in book.execute(BALANCES)}
        splits = book.execute("SELECT count(*) FROM splits").fetchone()[0]
        assert book.execute("SELECT count(*) FROM transactions").fetchone()[0] >= 40
        assert (
            book.execute("SELECT max(n) FROM (SELECT count(*) n FROM splits GROUP BY tx_guid)").fetchone()[0]
            >= 4
        )
    found = {
        str(name): balance if side == "debit" else -balance
        for name, side, balance in world.query("SELECT id, normal_side, balance FROM bank_accounts")
    }
    trading = {name: found.pop(name) for name in list(found) if name.startswith("Trading:")}
    assert found == expected
    # What went into one currency came out of the other, at the rates of the day.
    assert trading == {"Trading:EUR": Decimal("388.80"), "Trading:USD": Decimal("-420.78")}
    assert (report.read, report.rejected, report.conflicts, report.duplicates) == (splits, 0, 0, 0)
    assert (
        world.value("SELECT min(balance) >= 0 FROM bank_accounts") is True
    )  # the balance constraints can be applied
    assert BOOK.read_bytes() == before
    world.post(path)
    assert world.reconcile(path).matches


def test_a_book_that_somebody_goes_on_with_is_posted_as_it_was_registered(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "gnucash"
    shutil.copytree(FOLDER, folder)
    path = folder / "gnucash.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "partition_rows: 40\n", encoding="utf-8")
    first, *others = [report.key for report in world.run(path, selected=["extracted"])]
    assert len(others) >= 3
    world.run(path, keys=[first])
    with closing(sqlite3.connect(folder / BOOK.name)) as book:
        # A price is corrected: the transaction still adds up.
        book.execute(
            "UPDATE splits SET quantity_num = quantity_num * 2, value_num = value_num * 2 WHERE tx_guid ="
            " (SELECT guid FROM transactions WHERE description = 'Car repair')"
        )
        book.commit()
    assert all(report.error is None for report in world.run(path, keys=others))
    car = "SELECT balance FROM bank_accounts WHERE id = 'Expenses:Car'"
    assert world.reconcile(path).matches
    assert world.value(car) == Decimal("689.00")
    world.post(path)  # registers what the book says now
    assert world.value(car) == Decimal("689.00")
    assert world.reconcile(path).conflicts == 1


def test_the_same_book_in_postgresql(world: World, server: Server, tmp_path: Path) -> None:
    kinds = {"BIGINT": "bigint", "INTEGER": "integer", "DATETIME": "timestamp"}
    with (
        server.empty_database() as url,
        psycopg.connect(url) as legacy,
        closing(sqlite3.connect(BOOK)) as book,
    ):
        for table in ("books", "commodities", "accounts", "transactions", "splits"):
            columns = book.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall()
            shape = ", ".join(f"{name} {kinds.get(kind.upper(), 'varchar')}" for name, kind in columns)
            legacy.execute(f"CREATE TABLE {table} ({shape})")
            holes = ", ".join(["%s"] * len(columns))
            legacy.cursor().executemany(
                f"INSERT INTO {table} VALUES ({holes})", book.execute(f"SELECT * FROM {table}").fetchall()
            )
        legacy.commit()
        path = tmp_path / "gnucash.yaml"
        text = (FOLDER / "gnucash.yaml").read_text(encoding="utf-8")
        path.write_text(text.replace("sqlite: household.gnucash", f"url_env: {VARIABLE}"), encoding="utf-8")
        shutil.copy(FOLDER / "accounts.csv", tmp_path)
        with variable(url):
            world.post(path)
            assert world.reconcile(path).matches
    assert world.value("SELECT count(*) FROM ledger_entries") == 107
    assert world.value("SELECT balance FROM bank_accounts WHERE id = 'Trading:EUR'") == Decimal("388.80")
