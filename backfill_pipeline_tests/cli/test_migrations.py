"""`backfill db migrate` with a data step: done to the end, told, and carried on where it was left."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_pipeline.cli import database
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import bundled_migrations, migrate, read_migrations

FILES = {
    "9001_doubles.sql": "CREATE TABLE numbers AS SELECT n::bigint, NULL::bigint AS twice FROM generate_series(1, 50) n",
    "9001_doubles.data.sql": "-- over numbers by n, 20 rows a batch\nUPDATE numbers SET twice = 2 * n"
    " WHERE n > $1 AND n <= $2",
    "9001_doubles.finish.sql": "ALTER TABLE numbers ALTER twice SET NOT NULL",
}


def test_data_steps_are_done_and_told(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    migrations = [*bundled_migrations(), *read_migrations(tmp_path)]
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger_url)
    monkeypatch.setenv("BACKFILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(database, "bundled_migrations", lambda: migrations)
    monkeypatch.setattr(database, "migrate", lambda connection: migrate(connection, migrations))

    database.migrate_ledger()
    said = capsys.readouterr().out
    assert "applied 9001 doubles\ndid the data step of 9001 doubles: 50 rows in 3 batches\n" in said
    assert "is up to date now" in said
    with connect(ledger_url) as connection:
        assert connection.execute("SELECT sum(twice), sum(n) FROM numbers").fetchone() == (2550, 1275)

    database.migrate_ledger()
    said = capsys.readouterr().out
    assert "did the data step" not in said
    assert said.strip().endswith("is up to date")
