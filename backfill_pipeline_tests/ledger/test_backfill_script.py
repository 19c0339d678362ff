"""scripts/backfill_ledger.sql does with psql alone what the pipeline does: the same entries, the same rejects, no loss."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.sources.databases import variable
from backfill_pipeline_tests.stages.world import CHECKOUT, World, assert_same_ledger

SCRIPT = CHECKOUT / "scripts" / "backfill_ledger.sql"
PSQL = shutil.which("psql")
pytestmark = pytest.mark.skipif(PSQL is None, reason="psql is not installed: install postgresql-client")

ACCOUNTS = """
    INSERT INTO bank_accounts (id, currency_code, normal_side)
    VALUES ('A', 'USD', 'debit'), ('B', 'USD', 'credit'), ('C', 'USD', 'credit'), ('J', 'JPY', 'credit')
"""
TABLE = """
    CREATE TABLE ledger_entries_legacy (
        id bigint PRIMARY KEY, ledger_id text, debit_account_id text, credit_account_id text, amount numeric,
        currency_code text, asset_type text, transaction_type text, reference_id text, timestamp_utc timestamptz,
        fx_rate numeric, metadata jsonb)
"""
GOOD = """
    INSERT INTO ledger_entries_legacy
    SELECT 3 * n, 'MASTER', 'A', CASE mod(n, 3) WHEN 0 THEN 'C' ELSE 'B' END, n + 0.50, 'USD', NULL, 'TRANSFER', 'L-' || n,
           timestamptz '2024-01-01Z' + n * interval '1 hour', NULL, CASE WHEN mod(n, 2) = 0 THEN '{"note": "n"}'::jsonb END
    FROM generate_series(1, %s) AS n
"""
# Between the good rows: what each of them comes to is what the pipeline makes of it.
BAD = """
    INSERT INTO ledger_entries_legacy VALUES
    (4, 'MASTER', 'A', 'B', 7, 'USD', 'fiat', 'TRANSFER', 'L-90', '2024-02-01Z', NULL, NULL),
    (5, 'MASTER', 'A', 'B', 8, 'USD', 'fiat', 'TRANSFER', 'L-90', '2024-02-01Z', NULL, NULL),
    (7, 'MASTER', 'A', 'B', 7.00, 'USD', 'fiat', 'TRANSFER', 'L-90', '2024-02-01Z', NULL, NULL),
    (8, NULL, 'A', 'B', 7, 'USD', 'fiat', 'TRANSFER', 'X-1', '2024-02-01Z', NULL, NULL),
    (10, 'MASTER', 'A', 'nobody', 7, 'USD', 'fiat', 'TRANSFER', 'X-2', '2024-02-01Z', NULL, NULL),
    (11, 'MASTER', 'A', 'B', 7, 'USD', 'fiat', 'TRANSFER', 'X-2', '2024-02-01Z', NULL, NULL),
    (13, 'MASTER', 'A', 'nobody', 7, 'USD', 'fiat', 'TRANSFER', 'X-2', '2024-02-01Z', NULL, NULL),
    (14, 'MASTER', ' A ', 'J', 7, 'USD', 'fiat', 'FX', 'X-3', '2024-02-01Z', 162.5, NULL),
    (16, 'MASTER', 'A', 'J', 7, 'USD', 'fiat', 'FX', 'X-4', '2024-02-01Z', NULL, NULL),
    (17, 'MASTER', 'A', 'B', 7, 'JPY', 'fiat', 'FX', 'X-5', '2024-02-01Z', NULL, NULL),
    (19, 'MASTER', 'A', 'B', 'NaN', 'USD', 'fiat', 'TRANSFER', 'X-6', '2024-02-01Z', NULL, NULL),
    (20, 'MASTER', 'A', 'B', 7.001, 'USD', 'fiat', 'TRANSFER', 'X-7', '2024-02-01Z', NULL, NULL),
    (22, 'MASTER', 'A', 'B', -7, 'USD', 'fiat', 'TRANSFER', 'X-8', '2024-02-01Z', NULL, NULL),
    (23, 'MASTER', 'A', 'A', 7, 'USD', 'fiat', 'TRANSFER', 'X-9', '2024-02-01Z', NULL, NULL),
    (25, 'MASTER', 'A', 'B', 7, 'XXY', 'fiat', 'TRANSFER', 'X-10', '2024-02-01Z', NULL, NULL),
    (26, 'MASTER', 'A', 'B', 7, 'USD', 'gold', 'TRANSFER', 'X-11', '2024-02-01Z', NULL, NULL),
    (28, 'MASTER', 'A', 'B', 7, 'USD', 'fiat', 'TRANSFER', 'X-12', NULL, NULL, NULL),
    (29, 'MASTER', 'A', 'B', 7, 'USD', 'fiat', 'TRANSFER', 'X-13', 'infinity', NULL, NULL),
    (31, 'MASTER', 'A', 'B', 7, 'USD', 'fiat', 'TRANSFER', 'X-14', '1850-01-01Z', NULL, NULL),
    (32, 'MASTER', 'A', 'B', 7, 'USD', 'fiat', 'TRANSFER', repeat('x', 256), '2024-02-01Z', NULL, NULL),
    (34, 'MASTER', 'A', 'B', 1e20, 'USD', 'fiat', 'TRANSFER', 'X-15', '2024-02-01Z', NULL, NULL),
    (35, 'MASTER', 'A', 'B', 7, 'USD', 'fiat', 'TRANSFER', 'X-16', '2024-02-01Z', -1, NULL),
    (37, 'MASTER', 'A', 'B', 9, 'USD', 'fiat', 'LIVE', 'LIVE-1', '2024-02-01Z', NULL, NULL),
    (38, 'MASTER', 'A', 'B', 9.5, 'USD', 'fiat', 'LIVE', 'LIVE-2', '2024-02-01Z', NULL, NULL)
"""
LIVE = """
    SELECT post_ledger_entry('MASTER', 'A', 'B', 9, 'USD', 'fiat', 'LIVE', 'LIVE-' || n, NULL, NULL, '2024-02-01Z')
    FROM generate_series(1, 2) AS n
"""
FIELDS = {
    "ledger_id": "ledger_id",
    "debit_account_id": "debit_account_id",
    "credit_account_id": "credit_account_id",
    "amount": "amount",
    "currency_code": "currency_code",
    "asset_type": {"column": "asset_type", "default": "fiat"},
    "transaction_type": "transaction_type",
    "reference_id": "reference_id",
    "timestamp_utc": {"column": "timestamp_utc"},
    "fx_rate": "fx_rate",
}
# As balances are after the entries that are there.
BALANCES = """
    SET session_replication_role = replica;
    UPDATE bank_accounts a SET balance = s.balance, available_balance = s.balance FROM (
        SELECT l.account_id, sum(CASE WHEN l.side = b.normal_side THEN l.amount ELSE -l.amount END) AS balance
        FROM ledger_entry_legs l JOIN bank_accounts b ON b.id = l.account_id GROUP BY 1) AS s
    WHERE a.id = s.account_id
"""
# What the pipeline says of each reject, but for the words of the reason and the text of the row.
REJECTS = """
    SELECT x.source_row, x.source_line, x.byte_offset, x.stage, x.code, x.field
    FROM backfill_rejects x ORDER BY 1
"""


def prepare(url: str, *, rows: int, bad: bool = False) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (ACCOUNTS, TABLE, GOOD % rows, *((BAD, LIVE) if bad else ())):
            connection.execute(statement)


def script(url: str, **variables: object) -> subprocess.CompletedProcess[str]:
    given = {"source": "ledger_entries_legacy", "batch_size": 10, **variables}
    set_to = [part for name, value in given.items() for part in ("-v", f"{name}={value}")]
    assert PSQL is not None
    return subprocess.run(
        [PSQL, "--no-psqlrc", "-d", url, *set_to, "-f", SCRIPT], capture_output=True, text=True, timeout=60
    )


def outcome(world: World) -> tuple[object, ...]:
    return world.query(
        "SELECT read, posted, duplicates, conflicts, rejected, status FROM backfill_partition_outcomes"
    )[0]


def test_entries_and_rejects_are_those_of_the_pipeline(
    server: Server, ledger_url: str, tmp_path: Path
) -> None:
    prepare(ledger_url, rows=100, bad=True)
    done = script(ledger_url)
    assert done.returncode == 3, done.stderr
    ours = World(ledger_url, tmp_path)
    with server.ledger_database() as other:
        prepare(other, rows=100, bad=True)
        theirs = World(other, tmp_path)
        path = theirs.write("legacy", [], type="database", file=None, accounts=(), metadata={"note": "note"},
                            database={"url_env": "LEGACY_DATABASE_URL", "key": "id", "query":
                                      "SELECT *, metadata->>'note' AS note FROM ledger_entries_legacy"},
                            fields=FIELDS, max_error_rate="1", partition_rows=None)  # fmt: skip
        with variable(other):
            theirs.post(path, batch_size="10")
        expected = theirs.snapshot()
        actual = ours.snapshot()
        assert_same_ledger(
            type(actual)(actual.entries, actual.accounts, actual.conversions, ()),
            type(expected)(expected.entries, expected.accounts, expected.conversions, ()),
        )
        assert ours.query(REJECTS) == theirs.query(REJECTS)
        assert outcome(ours) == outcome(theirs)
    # Duplicates and conflicts are told apart, and what is not posted is told last.
    read, posted, duplicates, conflicts, rejected, _ = outcome(ours)
    assert (read, posted, duplicates, conflicts) == (124, 102, 2, 4)
    assert f"{conflicts + rejected} of 124 rows are not posted" in done.stderr.splitlines()[-2]
    assert ours.value("SELECT status FROM ledger_backfill_checkpoints") == "COMPLETED"
    # Again: nothing is posted, and the loss is told again.
    before = ours.snapshot()
    assert script(ledger_url).returncode == 3
    assert ours.snapshot() == before


def test_a_clean_table_ends_with_zero_and_a_second_run_posts_nothing(ledger_url: str, tmp_path: Path) -> None:
    prepare(ledger_url, rows=45)
    done = script(ledger_url)
    assert done.returncode == 0, done.stderr
    world = World(ledger_url, tmp_path)
    assert outcome(world) == (45, 45, 0, 0, 0, "posted")
    assert world.value("SELECT count(*) FROM backfill_batches") == 5
    assert world.value("SELECT count(*) FROM backfill_source_data") == 45
    assert script(ledger_url).returncode == 0
    assert world.value("SELECT count(*) FROM backfill_batches") == 5
    # More rows: a new revision, in which the old ones are duplicates.
    world.query("INSERT INTO ledger_entries_legacy SELECT 1000, ledger_id, debit_account_id, credit_account_id, amount,"
                " currency_code, asset_type, transaction_type, 'L-1000', timestamp_utc FROM ledger_entries_legacy"
                " WHERE id = 3")  # fmt: skip
    assert script(ledger_url).returncode == 0
    assert world.query(
        "SELECT posted, duplicates FROM backfill_partition_outcomes ORDER BY revision DESC LIMIT 1"
    ) == [(1, 45)]


def test_settings_of_whoever_goes_on_change_nothing(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(ledger_url, rows=25)
    world = World(ledger_url, tmp_path)
    world.query("CREATE SCHEMA old; ALTER TABLE ledger_entries_legacy SET SCHEMA old; ALTER TABLE old.ledger_entries_legacy"
                " ADD took interval DEFAULT '1 day 2 hours', ADD mark bytea DEFAULT '\\x01ff', ADD part float8 DEFAULT 0.1")  # fmt: skip
    assert script(ledger_url, source="old.ledger_entries_legacy").returncode == 0
    # A part of it is open again: only the same fingerprint and mapping go on.
    world.query("SET session_replication_role = replica; DELETE FROM ledger_entries WHERE source_row > 20;"
                " DELETE FROM ledger_seals; DELETE FROM backfill_batches WHERE last_row > 20;"
                " UPDATE backfill_registrations SET completed_at = NULL")  # fmt: skip
    world.query(BALANCES)
    with monkeypatch.context() as patch:
        settings = ("search_path=old,public", "intervalstyle=sql_standard", "bytea_output=escape", "extra_float_digits=-15",
                    "default_transaction_isolation=serializable", "timezone=Asia/Tokyo", "datestyle=German")  # fmt: skip
        patch.setenv("PGOPTIONS", " ".join(f"-c {one}" for one in settings))
        done = script(ledger_url, source="ledger_entries_legacy", AUTOCOMMIT="off", batch_size=3)
    assert done.returncode == 0, done.stderr
    assert world.value("SELECT count(*) FROM backfill_registrations") == 1
    assert outcome(world) == (25, 25, 0, 0, 0, "posted")


def test_rows_of_a_closed_period_are_rejects_and_an_empty_table_is_complete(
    ledger_url: str, tmp_path: Path
) -> None:
    prepare(ledger_url, rows=5)
    world = World(ledger_url, tmp_path)
    world.query(
        "INSERT INTO ledger_periods (ledger_id, month, closed_by) VALUES ('MASTER', '2024-01-01', 'anna')"
    )
    assert script(ledger_url).returncode == 3
    assert {code for _, _, code, _ in world.rejects()} == {"period_closed"}
    assert outcome(world) == (5, 0, 0, 0, 5, "posted")
    world.query("CREATE TABLE nothing (LIKE ledger_entries_legacy)")
    assert script(ledger_url, source="nothing", source_id="nothing").returncode == 0


def test_killed_in_the_middle_it_goes_on_behind_the_last_batch(ledger_url: str, tmp_path: Path) -> None:
    prepare(ledger_url, rows=45)
    world = World(ledger_url, tmp_path)
    # The third batch waits for an account until psql is dead.
    with psycopg.connect(ledger_url) as blocker:
        world.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('Z', 'USD')")
        world.query("UPDATE ledger_entries_legacy SET credit_account_id = 'Z' WHERE id = 75")
        blocker.execute("SELECT 1 FROM bank_accounts WHERE id = 'Z' FOR UPDATE")
        assert PSQL is not None
        process = subprocess.Popen(
            [PSQL, "--no-psqlrc", "-d", ledger_url, "-v", "source=ledger_entries_legacy", "-v", "batch_size=10",
             "-f", SCRIPT], stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        assert process.stderr is not None
        assert any("rows 11 to 20" in line for line in process.stderr)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        world.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'psql'"
                    " AND datname = current_database()")  # fmt: skip
    assert world.value("SELECT count(*) FROM ledger_entries") == 20
    assert world.value("SELECT total_processed FROM ledger_backfill_checkpoints") == 20
    done = script(ledger_url)
    assert done.returncode == 0, done.stderr
    assert "rows 21 to 30" in done.stderr
    assert "rows 11 to 20" not in done.stderr
    assert outcome(world) == (45, 45, 0, 0, 0, "posted")
    assert world.value("SELECT total_processed FROM ledger_backfill_checkpoints") == 45


def test_under_balance_constraints_it_refuses_what_an_account_cannot_bear(
    ledger_url: str, tmp_path: Path
) -> None:
    prepare(ledger_url, rows=5)
    world = World(ledger_url, tmp_path)
    world.query(
        "INSERT INTO ledger_entries_legacy SELECT 100, 'MASTER', 'B', 'A', 1000, 'USD', NULL, 'T', 'OUT', '2025-01-01Z'"
    )
    with connect(ledger_url) as connection:
        assert constraints.apply(connection).offending == 0
    done = script(ledger_url)
    assert done.returncode == 3
    assert world.rejects() == [(6, "post", "balance_constraint", "debit_account_id")]
    assert outcome(world) == (6, 5, 0, 0, 1, "posted")


CANNOT = (
    ("SELECT", {"source": ""}, "no table is named"),
    ("SELECT", {"source": "nowhere"}, "there is no table or view nowhere"),
    ("SELECT", {"key": "number"}, "has no column number"),
    ("SELECT", {"key": "amount"}, "does not tell all rows apart: 5 rows, 5 keys, 4 different ones"),
    ("SELECT", {"batch_size": "0"}, "batch_size 0 must be a number"),
    ("SELECT", {"source_id": "Legacy; DROP"}, "must be lower-case letters"),
    ("ALTER TABLE ledger_entries_legacy DROP timestamp_utc", {}, "has no column timestamp_utc"),
    (
        "ALTER TABLE ledger_entries_legacy ALTER amount TYPE float8",
        {},
        "column amount of ledger_entries_legacy is double precision",
    ),
)


def test_what_cannot_be_posted_is_told_in_words_and_nothing_is_posted(ledger_url: str) -> None:
    prepare(ledger_url, rows=5)
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute("UPDATE ledger_entries_legacy SET amount = 1.5 WHERE id = 6")
        for change, variables, said in CANNOT:
            connection.execute(change)
            done = script(ledger_url, **variables)
            assert done.returncode == 3
            assert said in done.stderr
            assert connection.execute("SELECT count(*) FROM ledger_entries").fetchone() == (0,)
