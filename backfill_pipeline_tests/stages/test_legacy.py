"""The example of a schema migration: a legacy table becomes entries of the new schema, by the ordinary way."""

from __future__ import annotations

import pytest

from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline_tests.sources.databases import variable
from backfill_pipeline_tests.stages.world import CHECKOUT, World

FOLDER = CHECKOUT / "data" / "examples" / "legacy"
LEGACY = (FOLDER / "legacy.sql").read_text(encoding="utf-8")

# By the legacy table alone, with none of the product's code.
BALANCES = """
    SELECT account, sum(amount) FROM (
        SELECT debit_account_id AS account, CASE debit_account_id WHEN 1000 THEN amount ELSE -amount END AS amount
        FROM ledger_entries_legacy WHERE id % 10 = 0
        UNION ALL
        SELECT credit_account_id, CASE credit_account_id WHEN 1000 THEN -amount ELSE amount END
        FROM ledger_entries_legacy WHERE id % 10 = 0
    ) AS leg GROUP BY account
"""


@pytest.fixture
def migrated(world: World, ledger_url: str) -> World:
    """A ledger in whose database there is a legacy table as well, posted."""
    world.query(LEGACY)
    with variable(ledger_url):
        world.post(FOLDER / "legacy.yaml")
        report = world.reconcile(FOLDER / "legacy.yaml")
    assert report.matches, report
    counts = (report.read, report.posted, report.duplicates, report.conflicts, report.rejected)
    assert counts == (2004, 2000, 1, 1, 2)
    return world


def test_balances_are_those_of_the_legacy_table(migrated: World) -> None:
    expected = {f"ACC-{account}": total for account, total in migrated.query(BALANCES)}
    assert dict(migrated.query("SELECT id, balance FROM bank_accounts")) == expected


def test_constraints_can_be_applied_afterwards(migrated: World) -> None:
    with connect(migrated.url) as connection:
        assert constraints.apply(connection).offending == 0
        assert constraints.balance_constraints_in_force(connection)


def test_what_is_not_posted_is_said(migrated: World) -> None:
    assert migrated.rejects() == [
        (902, "post", "conflict", "reference_id"),
        (1203, "transform", "time_missing", "timestamp_utc"),
        (1504, "validate", "amount_not_positive", "amount"),
    ]
