"""Posting inside the database comes to what the ordinary way comes to: entry for entry, reject for reject."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.problems import check_file
from backfill_pipeline.errors import SourceChangedError, SourceDefinitionError
from backfill_pipeline.ledger import constraints, posting, rollback, taken_rows
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.taken_comparison import ProvenRows, entries_as_expected, proven_rows
from backfill_pipeline.mapping.sql import NotInSqlError, compile_sql
from backfill_pipeline.stages import taken_reconciliation
from backfill_pipeline.stages.plan import make_plan
from backfill_pipeline.stages.preview import check_files
from backfill_pipeline.stages.reconcile import ReconciliationReport
from backfill_pipeline.stages.taken_reconciliation import InsideComparison
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.sources.databases import VARIABLE, variable
from backfill_pipeline_tests.stages.world import CHECKOUT, World, assert_same_ledger

TABLE = """
    CREATE TABLE legacy (
        id bigint PRIMARY KEY, ref varchar(300), debit text, credit integer, amount numeric, currency char(3), kind text,
        asset text, at timestamp, rate text, note text, done boolean)
"""
ROWS = """
    INSERT INTO legacy
    SELECT 10 * n, ' R-' || n, 'a', n % 3, n % 90 + 0.50, 'usd', CASE WHEN n % 4 > 0 THEN 'pay' END, NULL,
           timestamp '2024-01-01' + n * interval '1 hour', NULL, CASE n % 5 WHEN 0 THEN 'Grüße "' || n || '"' WHEN 1 THEN '' END,
           n % 2 = 0
    FROM generate_series(1, %(rows)s) AS n
"""
# What no expression serves, what is bad, and what is there twice.
ODD = """
    INSERT INTO legacy VALUES
    (11, 'R-ü', 'a', 1, 5, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (12, 'R-1', 'a', 1, 1.50, 'usd', 'pay', NULL, '2024-01-01 01:00', NULL, '', false),
    (13, 'R-1', 'a', 1, 1.51, 'usd', 'pay', NULL, '2024-01-01 01:00', NULL, '', false),
    (14, NULL, 'a', 1, 5, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (15, 'X-5', NULL, 1, 5, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (16, 'X-6', 'a', 99, 5, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (17, 'X-6', 'a', 1, 5, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (18, 'X-6', 'a', 99, 5, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (19, 'X-9', 'a', 1, 'NaN', 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (21, 'X-11', 'a', 1, -5, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (22, 'X-12', 'a', 1, 5.001, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (23, 'X-13', 'a', 1, 5.0000000000000000000000, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (24, 'X-14', 'a', 1, 5, 'xxy', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (25, 'X-15', 'a', 1, 5, 'usd', 'pay', 'gold', '2024-02-01', NULL, NULL, true),
    (26, 'X-16', 'a', 1, 5, 'usd', 'pay', NULL, NULL, NULL, NULL, true),
    (27, 'X-17', 'a', 1, 5, 'usd', 'pay', NULL, 'infinity', NULL, NULL, true),
    (28, 'X-18', 'a', 1, 5, 'usd', 'pay', NULL, '1850-01-01', NULL, NULL, true),
    (29, 'X-19', 'a', 7, 5, 'usd', 'fx', NULL, '2024-02-01', ' 162.50 ', NULL, true),
    (31, 'X-21', 'a', 7, 5, 'usd', 'fx', NULL, '2024-02-01', NULL, NULL, true),
    (32, 'X-22', 'a', 7, 5, 'usd', 'fx', NULL, '2024-02-01', '1,5', NULL, true),
    (33, 'X-23', 'a', 7, 5, 'usd', 'fx', NULL, '2024-02-01', '+2', NULL, true),
    (34, 'X-24', 'a', 1, 5, 'jpy', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (35, repeat('x', 256), 'a', 1, 5, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (36, 'X-26', 'a', 1, 1e20, 'usd', 'pay', NULL, '2024-02-01', NULL, NULL, true),
    (37, 'LIVE-1', 'a', 1, 9, 'usd', 'live', NULL, '2024-02-01', NULL, NULL, NULL),
    (38, 'LIVE-2', 'a', 1, 9.5, 'usd', 'live', NULL, '2024-02-01', NULL, NULL, NULL),
    (39, E'\\tX-29\\n', 'a', 1, 5, 'usd', 'pay', NULL, '2024-02-01', NULL, '{}', true)
"""
LIVE = """
    INSERT INTO bank_accounts (id, currency_code, normal_side)
    SELECT id, CASE id WHEN 'C-7' THEN 'JPY' ELSE 'USD' END, CASE id WHEN 'A-A' THEN 'debit' ELSE 'credit' END
    FROM unnest('{A-A,C-0,C-1,C-2,C-7}'::text[]) AS id;
    SELECT post_ledger_entry('MASTER', 'A-A', 'C-1', 9, 'USD', 'fiat', 'LIVE', 'LIVE-' || n, NULL, NULL, '2024-02-01Z')
    FROM generate_series(1, 2) AS n
"""
DATABASE = {"url_env": VARIABLE, "table": "legacy", "key": "id"}
FIELDS = {
    "ledger_id": {"constant": "MASTER"},
    "debit_account_id": {"template": "A-{debit}", "case": "upper"},
    "credit_account_id": {"template": "C-{credit}"},
    "amount": "amount",
    "currency_code": {"column": "currency", "case": "upper"},
    "asset_type": {"column": "asset", "default": "fiat"},
    "transaction_type": {"column": "kind", "case": "upper", "default": "TRANSFER"},
    "reference_id": "ref",
    "timestamp_utc": {"column": "at", "timezone": "UTC"},
    "fx_rate": "rate",
}


def prepare(url: str, *, rows: int = 60, odd: bool = True) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute(ROWS.replace("n % ", "n %% "), {"rows": rows})
        connection.execute(LIVE)
        if odd:
            connection.execute(ODD)


def source(world: World, *, in_database: bool = True, **settings: object) -> Path:
    given = {"database": {**DATABASE, **({"in_database": "true"} if in_database else {})}, **settings}
    return world.write(
        "legacy",
        [],
        **{"type": "database", "file": None, "accounts": (), "fields": FIELDS, "metadata": ["note", "done"],
           "max_error_rate": "1", "partition_rows": "20", **given},
    )  # fmt: skip


def paths(world: World) -> set[object]:
    return {path for (path,) in world.query("SELECT path FROM backfill_batches")}


def counts(world: World) -> list[tuple[object, ...]]:
    return world.query(
        "SELECT partition_key, read, posted, duplicates, conflicts, rejected, filtered, status"
        " FROM backfill_partition_outcomes ORDER BY 1"
    )


@pytest.mark.parametrize("under_constraints", [False, True])
@pytest.mark.parametrize("settings", [{}, {"unknown_accounts": "create"}], ids=["", "create"])
def test_it_comes_to_what_the_ordinary_way_comes_to(
    server: Server, tmp_path: Path, under_constraints: bool, settings: dict[str, object]
) -> None:
    with server.ledger_database() as url, server.ledger_database() as other_url:
        inside, ordinary = World(url, tmp_path / "inside"), World(other_url, tmp_path / "ordinary")
        for world in (inside, ordinary):
            world.folder.mkdir()
            prepare(world.url)
            if under_constraints:
                with connect(world.url) as connection:
                    constraints.apply(connection)
            path = source(world, in_database=world is inside, **settings)
            with variable(world.url):
                world.post(
                    path, batch_size="7", parallel_workers="1"
                )  # so that the same batch is the last one
                report = world.reconcile(path)
                assert report.matches, report
        assert_same_ledger(inside.snapshot(), ordinary.snapshot())
        assert counts(inside) == counts(ordinary)
        for statement in (
            "SELECT first_row, last_row, read, posted, duplicates, conflicts, rejected FROM backfill_batches ORDER BY 1",
            "SELECT source_row, ledger_id, reference_id FROM backfill_source_data ORDER BY 1",
            "SELECT total_processed, total_successful, total_failed, status, last_processed_id, last_processed_timestamp"
            " FROM ledger_backfill_checkpoints",
        ):
            assert inside.query(statement) == ordinary.query(statement)
        assert paths(inside) == {"in_database", "staging"}


@pytest.mark.slow
def test_large_tables_come_to_the_same_and_say_what_they_took(server: Server, tmp_path: Path) -> None:
    ledgers, took = [], []
    for name in ("inside", "ordinary"):
        with server.ledger_database() as url, variable(url):
            prepare(url, rows=200_000)
            world = World(url, tmp_path / name)
            world.folder.mkdir()
            path = source(world, in_database=name == "inside", partition_rows=None)
            started = time.monotonic()
            world.post(path)
            posted = time.monotonic()
            assert world.reconcile(path).matches
            took.append(
                f"{name}: posted {posted - started:.1f} s, reconciled {time.monotonic() - posted:.1f} s"
            )
            ledgers.append((world.snapshot(), counts(world)))
    print("; ".join(took))
    assert_same_ledger(ledgers[0][0], ledgers[1][0])
    assert ledgers[0][1] == ledgers[1][1]


# --- interrupted, changed, lost -----------------------------------------------------------------------------------


@pytest.fixture
def clean(ledger_url: str, tmp_path: Path) -> World:
    """A ledger beside a table of 60 plain rows, in three partitions."""
    prepare(ledger_url, odd=False)
    return World(ledger_url, tmp_path)


def test_a_plain_table_goes_straight_into_the_ledger_and_is_posted_once(clean: World) -> None:
    path = source(clean)
    with variable(clean.url):
        clean.post(path)
        assert paths(clean) == {"in_database"}
        before = clean.snapshot()
        clean.post(path)
        assert clean.snapshot() == before
        assert clean.value("SELECT count(*) FROM backfill_registrations") == 1
    assert list(clean.places.captures_dir("legacy").glob("*.arrow")) == []


def test_it_is_kept_between_which_keys_partitions_lie(clean: World) -> None:
    # Columns are called what a statement of ours may call its own.
    clean.query(
        "ALTER TABLE legacy RENAME id TO n; ALTER TABLE legacy ADD digest text; ALTER TABLE legacy DROP CONSTRAINT legacy_pkey;"
        " UPDATE legacy SET digest = n % 7; ALTER TABLE legacy ADD PRIMARY KEY (digest, n)"
    )
    database = {**DATABASE, "key": ["digest", "n"], "in_database": "true"}
    path = source(clean, database=database)
    with variable(clean.url):
        clean.register(path)
        [kept] = clean.places.captures_dir("legacy").glob("*.keys.json")
        in_order = clean.query("SELECT digest, n::text FROM legacy ORDER BY legacy.digest, legacy.n")
        assert json.loads(kept.read_text()) == {str(row + 1): list(in_order[row - 1]) for row in (20, 40, 60)}
        kept.unlink()  # it is looked for then
        clean.post(path, register=False)
        assert clean.reconcile(path).matches
    assert len(clean.references()) == 62


def test_a_connection_that_is_lost_in_a_batch_is_taken_up_by_another(
    clean: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(clean, config={"max_retries": "2", "retry_delay": "1", "parallel_workers": "1"})
    post, lost = taken_rows.put_entries, []

    def lose_it(connection: Connection, *arguments: object) -> None:
        post(connection, *arguments)
        if len(lost) < 2:
            lost.append(connection)
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(posting, "put_entries", lose_it)
    with variable(clean.url):
        clean.post(path, batch_size="7")
        assert len(lost) == 2
        assert clean.reconcile(path).matches
    assert counts(clean) == [(f"{n:04d}", 20, 20, 0, 0, 0, 0, "posted") for n in (1, 2, 3)]


def test_an_empty_table_is_complete_at_once(clean: World) -> None:
    clean.query("DELETE FROM legacy")
    path = source(clean)
    with variable(clean.url):
        clean.post(path)
        assert clean.reconcile(path).matches
    assert clean.value("SELECT completed_at IS NOT NULL FROM backfill_registrations") is True
    assert len(clean.references()) == 2


def test_it_resumes_without_its_home(clean: World) -> None:
    path = source(clean)
    with variable(clean.url):
        clean.post(path, keys=["0001"])
        shutil.rmtree(clean.places.intermediates_dir)
        clean.post(path, register=False)
        assert clean.reconcile(path).matches
    assert len(clean.references()) == 62


def test_a_table_that_changed_since_it_was_registered_is_refused_until_that_is_accepted(clean: World) -> None:
    path = source(clean)
    with variable(clean.url):
        clean.post(path, keys=["0001"])
        clean.query("UPDATE legacy SET amount = amount + 1 WHERE id = 300")
        reports = clean.run(path)
        assert [type(report.error) for report in reports] == [type(None), SourceChangedError, type(None)]
        assert "rows 21 to 40 are not what they were" in str(reports[1].error)
        assert clean.value("SELECT count(*) FROM ledger_entries WHERE reference_id = 'R-30'") == 0
        clean.post(path, accept_changed=True)
        assert clean.reconcile(path).matches
    assert len(clean.references()) == 62


def test_what_is_planned_is_what_happens(server: Server, tmp_path: Path) -> None:
    with server.ledger_database() as url, variable(url):
        prepare(url)
        world = World(url, tmp_path)
        path = source(world)
        with connect(url) as connection:
            planned = make_plan(load_definition(path), connection, world.places)
        world.post(path)
        posted = world.query(
            "SELECT sum(read)::bigint, sum(posted)::bigint, sum(duplicates)::bigint, sum(conflicts)::bigint,"
            " sum(rejected)::bigint FROM backfill_partition_outcomes"
        )[0]
        counts = planned.counts
        assert (counts.read, counts.posted, counts.duplicates, counts.conflicts, counts.rejected) == posted


# --- reconciled inside the database ------------------------------------------------------------------------------------


def without_seconds(report: ReconciliationReport) -> ReconciliationReport:
    return replace(report, seconds=0.0)


def watched(
    monkeypatch: pytest.MonkeyPatch, name: Literal["entries_as_expected", "proven_rows"]
) -> list[ProvenRows | None]:
    """What one of the two comparisons of the database comes to, partition by partition."""
    seen: list[ProvenRows | None] = []
    compare = {"entries_as_expected": entries_as_expected, "proven_rows": proven_rows}[name]

    def watch(*arguments: object, **named: object) -> ProvenRows | None:
        seen.append(compare(*arguments, **named))
        return seen[-1]

    monkeypatch.setattr(taken_reconciliation, name, watch)
    return seen


def shown(found: list[ProvenRows | None]) -> list[tuple[int, list[int]] | None]:
    return [None if one is None else (one.count, list(one.others)) for one in found]


def test_plain_rows_are_compared_by_the_database_and_a_sample_by_the_pipeline(
    clean: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(clean, partition_rows="60")
    monkeypatch.setattr(taken_reconciliation, "_SAMPLE_ROWS", 6)
    by_digest = watched(monkeypatch, "entries_as_expected")
    row_by_row = watched(monkeypatch, "proven_rows")
    with variable(clean.url):
        clean.post(path, batch_size="25")
        clean.query("DELETE FROM backfill_source_references")  # what the ordinary way would write again
        for found in (by_digest, row_by_row):  # later, nothing is taken for granted
            report = clean.reconcile(path)
            assert report.matches
            assert (report.entries_compared, report.posted) == (60, 60)
            assert report.source_totals == {"USD": clean.value("SELECT sum(amount) FROM legacy")}
            assert shown(found) == [(54, [1, 11, 21, 31, 41, 51])]
    assert (len(by_digest), len(row_by_row)) == (1, 1)
    assert clean.value("SELECT count(*) FROM backfill_source_references") == 0


def test_an_entry_that_was_edited_together_with_what_was_expected_of_it_is_found_out_later(
    clean: World,
) -> None:
    path = source(clean)
    with variable(clean.url):
        clean.post(path)
        assert clean.reconcile(path).matches
        clean.query(
            "SET session_replication_role = replica; UPDATE ledger_entries SET amount = 7 WHERE reference_id = 'R-33';"
            " UPDATE backfill_taken_batches x SET digest = sha256(convert_to(d.ledger_id, 'UTF8') || '\\x00' || d.digest)"
            " FROM ledger_batch_digests(ARRAY(SELECT id FROM backfill_batches)) d WHERE d.batch_id = x.batch_id"
        )
        report = clean.reconcile(path)
    assert [(one.source_row, one.field) for one in report.breaks] == [(33, "amount")]


def test_what_is_expected_is_what_the_seals_of_untouched_entries_say(server: Server, tmp_path: Path) -> None:
    with server.ledger_database() as url, variable(url):
        prepare(url)
        world = World(url, tmp_path)
        template = {"template": "L-{credit}"}  # several ledgers in a batch
        world.post(source(world, fields={**FIELDS, "ledger_id": template}), batch_size="7")
        found = world.query(
            "SELECT x.digest = (SELECT sha256(string_agg(convert_to(d.ledger_id, 'UTF8') || '\\x00' || d.digest, ''"
            ' ORDER BY d.ledger_id COLLATE "C")) FROM ledger_batch_digests(ARRAY[b.id]) d)'
            " FROM backfill_taken_batches x JOIN backfill_batches b ON b.id = x.batch_id AND b.posted = b.read"
        )
        assert len(found) > 3
        assert set(found) == {(True,)}
        # Every batch that went straight into the ledger, and no other.
        assert world.query("SELECT batch_id FROM backfill_taken_batches ORDER BY 1") == world.query(
            "SELECT id FROM backfill_batches WHERE path = 'in_database' ORDER BY 1"
        )


def test_a_row_that_was_rejected_keeps_its_partition_from_being_compared_by_digest(
    clean: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean.query("UPDATE legacy SET amount = -1 WHERE id = 330")
    path = source(clean)
    seen = watched(monkeypatch, "entries_as_expected")
    with variable(clean.url):
        clean.post(path)
        assert clean.reconcile(path).matches
    assert [len(seen), seen.count(None)] == [3, 1]


def test_a_reversal_elsewhere_does_not_keep_partitions_from_being_compared_inside(
    clean: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(clean)
    by_digest, row_by_row = watched(monkeypatch, "entries_as_expected"), watched(monkeypatch, "proven_rows")
    with variable(clean.url):
        clean.post(path)
        with connect(clean.url) as connection:
            scope = rollback.RollbackScope("legacy", "0002")
            plan = rollback.plan(connection, scope, mode="reverse")
            rollback.apply(
                connection,
                scope,
                plan_hash=str(plan["plan_hash"]),
                actor="anna",
                reason="a test",
                mode="reverse",
            )
        clean.post(path)
        assert clean.reconcile(path).matches
        # An entry that goes by a reference which was reversed is another one than the source says.
        clean.query(
            "SET session_replication_role = replica;"
            " UPDATE ledger_entries SET reference_id = reference_id || '!' WHERE reference_id = 'R-33';"
            " UPDATE ledger_entries SET reference_id = 'R-33' WHERE reference_id = 'R-33~2'"
        )
        assert clean.reconcile(path).break_count > 0
    assert sorted(shown(by_digest), key=str) == sorted(shown(row_by_row)[1:], key=str)
    assert [len(by_digest), by_digest.count(None)] == [3, 1]


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE ledger_entries SET amount = amount + 0.01 WHERE reference_id = 'R-33'",
        "UPDATE ledger_entries SET metadata = metadata || '{\"done\": \"?\"}' WHERE reference_id = 'R-33'",
        "UPDATE ledger_entries SET fx_rate = 1 WHERE reference_id = 'R-33'",
        "UPDATE ledger_entries SET transaction_type = transaction_type || ' ' WHERE source_row = 33",
        "UPDATE ledger_entries SET reference_id = 'r-33' WHERE reference_id = 'R-33'",
        "UPDATE ledger_entries SET source_row = 34 WHERE reference_id = 'R-33'",
        "UPDATE ledger_entries SET source_row = 99 WHERE reference_id = 'R-33'",
        "UPDATE ledger_entries SET source_row = NULL WHERE reference_id = 'R-33'",
        "UPDATE ledger_entries SET batch_id = NULL WHERE reference_id = 'R-33'",
        "DELETE FROM ledger_entries WHERE source_row BETWEEN 22 AND 38",
        'INSERT INTO ledger_entries SELECT (json_populate_record(e, \'{"id": -1, "reference_id": "X"}\')).*'
        " FROM ledger_entries e WHERE reference_id = 'R-33'",
    ],
)
def test_what_was_touched_is_told_as_the_ordinary_way_tells_it(
    clean: World, monkeypatch: pytest.MonkeyPatch, tampering: str
) -> None:
    path = source(clean)
    with variable(clean.url):
        clean.post(path)
        clean.query(f"SET session_replication_role = replica; {tampering}")
        inside = clean.reconcile(path)
        monkeypatch.setattr(InsideComparison, "compare", lambda *arguments: None)
        ordinary = clean.reconcile(path)
    assert inside.break_count > 0
    assert without_seconds(inside) == without_seconds(ordinary)


def test_a_table_that_was_touched_together_with_its_entry_is_found_out(clean: World) -> None:
    path = source(clean)
    with variable(clean.url):
        clean.post(path)
        clean.query("UPDATE legacy SET amount = 7 WHERE id = 330")
        clean.query(
            "SET session_replication_role = replica; UPDATE ledger_entries SET amount = 7 WHERE reference_id = 'R-33'"
        )
        with pytest.raises(SourceChangedError, match="rows 21 to 40 are not what they were"):
            clean.reconcile(path)


# --- what cannot be posted so ---------------------------------------------------------------------------------------


def test_a_table_of_another_database_is_refused(world: World, server: Server) -> None:
    with server.ledger_database() as other, variable(other):
        prepare(other)
        with pytest.raises(
            SourceDefinitionError, match="is not the table legacy of the ledger's own database"
        ):
            world.register(source(world))
    assert world.query("SELECT * FROM backfill_registrations") == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"rules": [{"when": {"column": "done", "equals": "true"}, "filter": "done"}]},
            "rules says which rows",
        ),
        ({"fields": {**FIELDS, "reference_id": {"generate": "true"}}}, "fields.reference_id is generated"),
        (
            {"fields": {**FIELDS, "reference_id": {"column": "ref", "regex": "R-(.*)"}}},
            "fields.reference_id has regex",
        ),
        (
            {"fields": {**FIELDS, "amount": {"column": "amount", "thousands_mark": ","}}},
            "fields.amount says more",
        ),
        (
            {"fields": {**FIELDS, "timestamp_utc": {"column": "at", "timezone": "Europe/Rome"}}},
            "of another zone than UTC",
        ),
        ({"metadata": ["at"]}, "metadata.at reads the column at of type timestamp as a text"),
    ],
)
def test_a_mapping_without_sql_is_named_with_the_reason(
    tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    types = dict.fromkeys(("ref", "debit", "currency", "kind", "asset", "rate", "note"), "text")
    types |= {"credit": "int4", "amount": "numeric", "at": "timestamp", "done": "bool"}
    definition = load_definition(source(World("", tmp_path), **settings))
    with pytest.raises(NotInSqlError, match=re.escape(said)):
        compile_sql(definition, types, "t")


def test_the_example_of_a_legacy_table_comes_to_the_same(ledger_url: str, tmp_path: Path) -> None:
    folder = CHECKOUT / "data" / "examples" / "legacy"
    world = World(ledger_url, tmp_path)
    world.query((folder / "legacy.sql").read_text(encoding="utf-8"))
    path = tmp_path / "legacy.yaml"
    text = (folder / "legacy.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("  key: id\n", "  key: id\n  in_database: true\n"), encoding="utf-8")
    shutil.copy(folder / "accounts.csv", tmp_path)
    with variable(ledger_url):
        world.post(path)
        report = world.reconcile(path)
    assert report.matches
    found = (report.read, report.posted, report.duplicates, report.conflicts, report.rejected)
    assert found == (2004, 2000, 1, 1, 2)
    assert paths(world) == {"in_database", "staging"}


def test_a_check_of_the_definition_says_so_too(clean: World) -> None:
    with variable(clean.url):
        problems, _ = check_files(check_file(source(clean)), rows=10)
        assert problems == []
        path = source(clean, fields={**FIELDS, "timestamp_utc": {"column": "at", "timezone": "Europe/Rome"}})
        problems, _ = check_files(check_file(path), rows=10)
    assert [problem.key for problem in problems] == ["database.in_database"]
    assert "fields.timestamp_utc is local time of another zone than UTC" in problems[0].text


# --- after a rollback -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_what_was_rolled_back_is_posted_again(clean: World, mode: Literal["delete", "reverse"]) -> None:
    path = source(clean)
    with variable(clean.url):
        clean.post(path)
        before = clean.snapshot()
        with connect(clean.url) as connection:
            scope = rollback.RollbackScope("legacy", "0002")
            plan = rollback.plan(connection, scope, mode=mode)
            rollback.apply(
                connection, scope, plan_hash=str(plan["plan_hash"]), actor="anna", reason="a test", mode=mode
            )
        assert len(clean.references()) == (42 if mode == "delete" else 82)
        clean.post(path)
        assert clean.reconcile(path).matches
    after = clean.snapshot()
    assert after.accounts == before.accounts
    if mode == "delete":
        assert after == before
        assert paths(clean) == {"in_database"}
    else:
        assert clean.value("SELECT count(*) FROM ledger_entries WHERE reference_id LIKE 'R-%~2'") == 20
