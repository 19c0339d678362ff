"""Rivals load the rows that they say they load; one that this machine lacks is named, with the remedy."""

from collections.abc import Iterator

import pytest

from backfill_pipeline.bench.figures import BrokenContenderError
from backfill_pipeline.bench.rivals import RIVALS, by_hand, common, unavailable
from backfill_pipeline.bench.workloads import Bench, Workload
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.local.embedded import embedded_server
from backfill_pipeline_tests.postgresql import walkable_directory

ENTRIES = 2000


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with (
        walkable_directory() as home,
        embedded_server(home) as server,
        Bench.prepare(server, home / "workload", Workload("small", ENTRIES, 40)) as bench,
    ):
        yield bench


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_loads_every_row(bench: Bench, name: str) -> None:
    if reason := unavailable().get(name):
        pytest.skip(reason)
    figures = RIVALS[name](bench)
    assert figures["entries"] == ENTRIES
    assert figures["seconds"] > 0


def test_a_rival_that_loses_rows_is_found_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        by_hand,
        "_POST_STAGED",
        f"{by_hand._POST_STAGED} AND false".replace("FROM staged", "FROM staged LIMIT 5"),
    )
    with pytest.raises(BrokenContenderError, match="loaded 5 of 2,000 rows"):
        by_hand.staging_and_upsert(bench)


def test_set_wise_sql_moves_balances_as_the_ledger_s_own_posting_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    differing: list[object] = []

    def compare(connection: Connection, table: str, rows: int, rival: str) -> None:
        # The ledger's triggers add what they make of the same entries; taken together they cancel out.
        connection.execute(
            "UPDATE bank_accounts SET balance = -balance, available_balance = -available_balance"
        )
        connection.execute(
            "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
            " transaction_type, reference_id, timestamp_utc, fx_rate)"
            " SELECT ledger_id, debit_account_id, credit_account_id, amount, currency_code, transaction_type,"
            f" reference_id, timestamp_utc, fx_rate FROM {common.ENTRIES_TABLE}"
        )
        differing.extend(connection.execute("SELECT id FROM bank_accounts WHERE balance <> 0").fetchall())

    monkeypatch.setattr(by_hand, "insist_on_rows", compare)
    by_hand.staging_and_upsert(bench)
    assert differing == []


def test_what_a_machine_lacks_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    missing = unavailable()
    assert set(missing) <= set(RIVALS)
    assert "install" in missing["pgloader"]
