"""Live postings beside a backfill: they are measured from outside, and what they post is part of the ledger."""

import math
import time
from collections.abc import Iterator

import psycopg
import pytest

from backfill_pipeline.bench import latency
from backfill_pipeline.bench.figures import BrokenContenderError
from backfill_pipeline.bench.live_client import CALLS_PER_SECOND, CLIENTS
from backfill_pipeline.bench.workloads import Bench, Workload
from backfill_pipeline.definition.models import RunConfig
from backfill_pipeline.local.embedded import embedded_server
from backfill_pipeline.stages.config import ONLINE_BATCH_SIZE, effective_config
from backfill_pipeline_tests.postgresql import walkable_directory

ENTRIES = 20_000


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with (
        walkable_directory() as home,
        embedded_server(home) as server,
        Bench.prepare(server, home / "workload", Workload("small", ENTRIES, 100)) as bench,
    ):
        yield bench


def test_live_postings_beside_an_online_backfill_are_measured_and_stay_in_the_ledger(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    real = latency._insist_on_balance

    def look(work: latency.SourceWork, entries: int) -> None:
        real(work, entries)
        with work.connect() as connection:
            for live in (
                "batch_id IS NULL",
                "batch_id IS NOT NULL AND transaction_type <> 'OPENING_BALANCE'",
            ):
                query = f"SELECT count(*), count(DISTINCT debit_account_id) FROM ledger_entries WHERE {live}"
                seen.extend(connection.execute(query).fetchall())

    monkeypatch.setattr(latency, "_insist_on_balance", look)
    beside = latency.beside_a_backfill(bench, effective_config(RunConfig(online=True)), idle_s=1.0)
    (live, live_accounts), (backfilled, _) = seen
    assert backfilled == ENTRIES
    # Before, between and after the phases calls are made as well, and not counted.
    assert live > len(beside.idle_s) + len(beside.loaded_s)
    assert live_accounts > 10
    pace = CLIENTS * CALLS_PER_SECOND
    # How many there are in a second is up to the machine; that nobody floods the ledger is not.
    assert 0 < len(beside.idle_s) <= 3 * pace
    assert ENTRIES / ONLINE_BATCH_SIZE >= 40
    assert all(value > 0 for value in beside.idle_s + beside.loaded_s)
    assert beside.entries_per_s > 0


def test_live_postings_that_fail_break_the_measurement(bench: Bench) -> None:
    with (
        bench.fresh_ledger() as (_, places),
        latency._live_client(places.ledger_url) as client,
        pytest.raises(BrokenContenderError, match="live postings failed"),
    ):
        client.begin("idle")
        time.sleep(2)
        client.stop()  # no accounts are open, so there is nothing to post between


def test_a_wrong_balance_breaks_the_measurement(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = latency._backfill

    def tamper(work: latency.SourceWork, config: latency.BackfillConfig, limit_s: float = 60) -> float:
        rate = real(work, config, limit_s)
        with psycopg.connect(work.places.ledger_url) as connection:
            connection.execute("UPDATE bank_accounts SET balance = balance + 1 WHERE id = 'BENCH1-0000001'")
        return rate

    monkeypatch.setattr(latency, "_backfill", tamper)
    with pytest.raises(BrokenContenderError, match="wrong balances"):
        latency.beside_a_backfill(bench, effective_config(RunConfig()), idle_s=0.5)


@pytest.mark.slow
def test_what_is_left_when_the_time_is_over_is_posted_unmeasured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = latency._backfill
    limits: list[float] = []

    def hurry(work: latency.SourceWork, config: latency.BackfillConfig, limit_s: float = 0) -> float:
        limits.append(limit_s)
        return real(work, config, limit_s)

    monkeypatch.setattr(latency, "_backfill", hurry)
    beside = latency.beside_a_backfill(bench, effective_config(RunConfig(online=True)), idle_s=2.0)
    assert limits == [0, math.inf]
    assert beside.entries_per_s > 0


@pytest.mark.slow
def test_all_figures_are_given_with_enough_calls_behind_the_idle_ones(bench: Bench) -> None:
    figures = latency.live_latency(bench)
    for phase in ("idle", "default", "online"):
        assert 0 < figures[f"{phase}_p50_ms"] <= figures[f"{phase}_p99_ms"]
    assert figures["idle_calls"] >= latency.SAMPLES_MIN
