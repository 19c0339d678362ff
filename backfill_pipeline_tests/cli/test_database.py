"""The command with a database as its source: killed while the table moves on, and looked at before anything runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill_pipeline_tests.cli.command import Backfill, batches, wait_until
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.sources.databases import VARIABLE, execute, variable

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROWS = 6_000
YAML = f"""\
id: legacy
type: database
database: {{url_env: {VARIABLE}, table: entries, key: id}}
fields:
  ledger_id: {{constant: MASTER}}
  debit_account_id: debit
  credit_account_id: credit
  amount: amount
  currency_code: {{constant: EUR}}
  transaction_type: {{constant: TRANSFER}}
  reference_id: {{template: "E-{{id}}"}}
  timestamp_utc: booked
unknown_accounts: create
partition_rows: 2000
config: {{batch_size: 40, max_retries: 0}}
""".replace("timestamp_utc: booked", "timestamp_utc: {column: booked}")


@pytest.fixture
def legacy(server: Server) -> Iterator[str]:
    with server.empty_database() as url, variable(url):
        execute(
            url,
            "CREATE TABLE entries AS SELECT i AS id, 'A' || i % 7 AS debit, 'B' || i % 5 AS credit, i * 0.01 AS amount,"
            f" timestamptz '2024-01-01' + i * interval '1 minute' AS booked FROM generate_series(1, {ROWS}) i",
        )
        yield url


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "legacy.yaml"
    path.write_text(YAML, encoding="utf-8")
    return path


@pytest.mark.slow
def test_killed_while_the_table_moves_on__what_was_registered_is_posted(
    backfill: Backfill, legacy: str, source: Path
) -> None:
    assert backfill.url is not None
    with backfill.started("run", source) as process:
        wait_until(lambda: batches(backfill.url or "") >= 30 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 30 <= batches(backfill.url) < ROWS // 40
    execute(
        legacy,
        "DELETE FROM entries WHERE id = 5999",
        "UPDATE entries SET amount = 77 WHERE id = 5998",
        f"INSERT INTO entries SELECT {ROWS + 1}, 'A1', 'B1', 1, now() - interval '1 day'",
    )

    resumed = backfill("resume", "legacy", "--json")
    assert resumed.json["reconciliation"] == "match", resumed
    shown = backfill("status", "--json").json["sources"]
    assert isinstance(shown, list)
    assert (shown[0]["revision"], shown[0]["rows"]) == (1, ROWS)

    again = backfill("run", source, "--json").json
    assert again["reconciliation"] == "match"
    counts = {name: again[name] for name in ("read", "posted", "duplicates", "conflicts", "rejected")}
    assert counts == {"read": ROWS, "posted": 1, "duplicates": ROWS - 2, "conflicts": 1, "rejected": 0}


@pytest.mark.slow
def test_a_look_at_a_database_before_anything_runs(backfill: Backfill, legacy: str, source: Path) -> None:
    checked = backfill("sources", "check", source, "--json")
    assert checked.code == 0, checked
    assert checked.json["problems"] == []
    rows = backfill("sources", "preview", source, "--rows", "2", "--json").json["rows"]
    assert isinstance(rows, list)
    assert [row["after"]["reference_id"] for row in rows] == ["E-1", "E-2"]
    with variable(""):
        for command in ("run", "plan"):
            unset = backfill(command, source)
            assert (unset.code, unset.stdout) == (2, ""), unset
            assert (
                f"backfill: table entries of the database {VARIABLE}: the environment variable"
                in unset.stderr
            )
    with variable("postgresql://somebody:hunter2@127.0.0.1:1/d"):
        for command in (("run", source), ("sources", "check", source), ("sources", "preview", source)):
            failed = backfill(*command)
            assert failed.code == 1, failed
            assert (
                "PostgreSQL database d on 127.0.0.1:1, table entries: cannot be read right now"
                in failed.stderr
            )
            assert "hunter2" not in failed.stdout + failed.stderr
            assert "somebody" not in failed.stdout + failed.stderr
