"""`backfill metrics`: printed once, or served until it is stopped; the ledger is looked at and never touched."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from dataclasses import replace

import httpx
import psycopg
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.stages.world import World, entries

NOWHERE = "postgresql://reader:geheim@127.0.0.1:1/ledger"


def values(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for one in text_string_to_metric_families(text)
        for sample in one.samples
        if sample.labels.get("outcome", "posted") == "posted"
    }


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"metrics  (http://127\.0\.0\.1:\d+/metrics)   \(Ctrl-C stops\)\n", line)
    assert found, line
    return found[1]


def test_prints_the_ledger_and_migrates_none(backfill: Backfill, world: World) -> None:
    before = backfill("metrics")
    assert (before.code, values(before.stdout)["backfill_up"]) == (1, 0)
    assert "backfill db migrate" in before.sentence
    assert backfill.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    assert backfill("db", "migrate").code == 0
    world.post(world.write("bank", entries(5)))
    after = backfill("metrics")
    assert (after.code, after.stderr) == (0, "")
    found = values(after.stdout)
    assert (found["backfill_up"], found["backfill_rows"]) == (1, 5)


def test_a_ledger_that_is_away_is_said_and_no_password(backfill: Backfill) -> None:
    outcome = replace(backfill, url=NOWHERE)("metrics")
    assert outcome.code == 1
    assert values(outcome.stdout)["backfill_up"] == 0
    assert "cannot connect" in outcome.sentence
    assert "geheim" not in outcome.stdout + outcome.stderr


def test_serves_until_it_is_stopped(backfill: Backfill) -> None:
    assert backfill("db", "migrate").code == 0
    with backfill.started("metrics", "--serve", 0) as process:
        address = address_of(process)
        assert values(httpx.get(address).text)["backfill_up"] == 1
        process.send_signal(signal.SIGTERM)
        _, remarks = process.communicate(timeout=60)
    assert (process.returncode, remarks) == (0, "stopping\n")


def test_serves_also_while_the_ledger_is_away_and_says_so_once(backfill: Backfill) -> None:
    with replace(backfill, url=NOWHERE).started("metrics", "--serve", 0) as process:
        address = address_of(process)
        first, second = httpx.get(address), httpx.get(address)
        assert (first.status_code, values(first.text)["backfill_up"]) == (200, 0)
        assert values(second.text)["backfill_up"] == 0
        process.send_signal(signal.SIGINT)
        _, remarks = process.communicate(timeout=60)
    assert process.returncode == 0
    assert remarks.count("cannot connect") == 1
    assert "geheim" not in remarks


def test_a_port_that_is_taken_is_a_matter_of_usage(backfill: Backfill) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = backfill("metrics", "--serve", taken.getsockname()[1])
    assert outcome.code == 2
    assert "--serve PORT" in outcome.sentence


def test_on_an_embedded_server_it_keeps_that_up_while_it_serves(embedded: Backfill) -> None:
    assert embedded("db", "migrate").code == 0
    with embedded.started("metrics", "--serve", 0) as process:
        address = address_of(process)
        assert values(httpx.get(address).text)["backfill_up"] == 1
        url = embedded("db", "url").stdout.strip()
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backfill metrics'"
            ).fetchone()
        assert row == (0,)  # no connection is kept between two looks
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert embedded("db", "stop").code == 0
