"""Every row of a database is read once, in the order of its key, as one snapshot has it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import Connection

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.database import stream as database_stream
from backfill_pipeline.sources.database.connect import find_target, snapshot
from backfill_pipeline.sources.database.stream import Plan, make_plan, page_statement
from backfill_pipeline_tests.mariadb import MariaDb
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.sources.databases import collected, execute, read, sqlite_file, stream, variable


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a page, so that every page but the first begins behind a key."""
    for name in ("PAGE_ROWS_FIRST", "PAGE_ROWS_MAX", "PAGE_ROWS_MIN"):
        monkeypatch.setattr(database_stream, name, 3)


pytestmark = pytest.mark.usefixtures("small_pages")


# --- keys -------------------------------------------------------------------------------------------------------

TEXTS = [
    "a",
    "B",
    "b2",
    "Y",
    "ä",
    "Ä1",
    "z",
    "é",
    "-",
    "_",
    "10",
    "9",
    "a b",
    "ab",
    "😀",
    "ß",
    "ss1",
    "ñ",
    "İ",
    "\\'%",
]
PAIRS = [(day, number) for day in ("2024-01-01", "2024-01-02") for number in range(1, 8)]


@pytest.fixture
def legacy_icu(postgresql_15: Server) -> Iterator[str]:
    """As `legacy`, on a server with linguistic collations, which the embedded one is built without."""
    with postgresql_15.empty_database() as url, variable(url):
        yield url


@pytest.mark.own_server
@pytest.mark.parametrize("collation", ["C", "default", "und-x-icu", "en-US-x-icu", "de-x-icu"])
def test_text_keys_of_postgresql_in_any_collation(legacy_icu: str, collation: str) -> None:
    legacy = legacy_icu
    execute(legacy, f'CREATE TABLE t (k text COLLATE "{collation}" PRIMARY KEY)')
    with psycopg.connect(legacy) as connection:
        connection.cursor().executemany("INSERT INTO t VALUES (%s)", [(text,) for text in TEXTS])
        expected = [text for (text,) in connection.execute("SELECT k FROM t ORDER BY k")]
    found = read(table="t", key="k")
    assert found.column("k") == expected
    assert found.page_sizes[:2] == [3, 3]


@pytest.mark.own_server
def test_a_case_insensitive_collation_of_postgresql(legacy_icu: str) -> None:
    execute(
        legacy_icu,
        "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE TABLE t (k text COLLATE ci PRIMARY KEY, other text COLLATE ci)",
        "INSERT INTO t SELECT 'k' || i, CASE WHEN i % 2 = 0 THEN 'x' || i ELSE 'X' || (i + 1) END"
        " FROM generate_series(1, 10) i",
    )
    assert len(read(table="t", key="k").rows) == 10
    with pytest.raises(
        SourceFileError, match=r"the key other is not unique: '[xX]\d+' is there more than once"
    ):
        read(table="t", key="other")


@pytest.mark.parametrize(
    "collation", ["utf8mb4_general_ci", "utf8mb4_unicode_ci", "utf8mb4_bin", "utf8mb4_nopad_bin"]
)
def test_text_keys_of_mariadb_in_any_collation(mariadb: MariaDb, legacy_mariadb: str, collation: str) -> None:
    # Those whose members are equal to none of the others under any of the collations.
    texts = [text for text in TEXTS if text not in ("ä", "Ä1", "é", "ñ", "ß", "İ", "-", "_", "😀")]
    mariadb.execute(
        f"CREATE TABLE t (k VARCHAR(50) COLLATE {collation} PRIMARY KEY)", database=legacy_mariadb
    )
    for text in texts:
        mariadb.execute("INSERT INTO t VALUES (%s)", text, database=legacy_mariadb)
    with mariadb.connect(legacy_mariadb) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT k FROM t ORDER BY k")
        expected = [row[0] for row in cursor.fetchall()]
    assert len(expected) == len(texts)
    assert read(table="t", key="k").column("k") == expected
    assert read(query="SELECT k FROM t", key="k").column("k") == expected


def test_what_mariadb_takes_for_equal_is_no_key(mariadb: MariaDb, legacy_mariadb: str) -> None:
    """'a' and 'A' on both sides of the border of a page: without the check, one of them would be lost."""
    mariadb.execute(
        "CREATE TABLE t (k VARCHAR(9) COLLATE utf8mb4_general_ci, s VARCHAR(9) COLLATE utf8mb4_bin)",
        database=legacy_mariadb,
    )
    mariadb.execute(
        "INSERT INTO t VALUES ('0', '0'), ('1', '1'), ('a', 'a'), ('A', 'a '), ('b', 'b')",
        database=legacy_mariadb,
    )
    with pytest.raises(SourceFileError, match="the key k is not unique: '[aA]' is there more than once"):
        read(table="t", key="k")
    with pytest.raises(SourceFileError, match="the key s is not unique: 'a ?' is there more than once"):
        read(table="t", key="s")  # a space at the end counts for nothing


def test_long_texts_that_differ_only_at_their_ends(mariadb: MariaDb, legacy_mariadb: str) -> None:
    """MariaDB sorts by the first 1,024 bytes unless it is told otherwise."""
    mariadb.execute("CREATE TABLE t (k TEXT)", database=legacy_mariadb)
    for number in (5, 3, 8, 1, 9, 2, 7, 4, 6):
        mariadb.execute(
            "INSERT INTO t VALUES (CONCAT(REPEAT('x', 3000), %s))", number, database=legacy_mariadb
        )
    assert [text[-1] for text in read(table="t", key="k").column("k")] == list("123456789")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("BIGINT UNSIGNED", [str(18446744073709551615 - number) for number in range(10)]),
        ("DECIMAL(30,10)", [f"12345678901234567890.123456789{number}" for number in range(10)]),
        ("DATETIME(6)", [f"2024-01-01 00:00:00.00000{number}" for number in range(10)]),
        ("DATE", [f"2024-01-0{number}" for number in range(1, 10)]),
        ("BINARY(2)", [bytes([200 + number, 92 + number]) for number in range(10)]),
        ("UUID", [f"6ec1a2b0-0000-4000-8000-00000000000{number}" for number in range(10)]),
        ("INT(5) ZEROFILL", [str(number) for number in range(10)]),
    ],
)
def test_keys_of_every_type_in_mariadb(
    mariadb: MariaDb, legacy_mariadb: str, kind: str, values: Sequence[object]
) -> None:
    mariadb.execute(f"CREATE TABLE t (k {kind} PRIMARY KEY)", database=legacy_mariadb)
    for value in values:
        mariadb.execute("INSERT INTO t VALUES (%s)", value, database=legacy_mariadb)
    assert len(read(table="t", key="k").rows) == len(values)


@pytest.mark.parametrize("kind", ["ENUM('z','m','a')", "DOUBLE", "FLOAT", "BIT(3)"])
def test_types_of_mariadb_that_are_ordered_and_compared_differently_are_no_keys(
    mariadb: MariaDb, legacy_mariadb: str, kind: str
) -> None:
    mariadb.execute(f"CREATE TABLE t (k {kind} PRIMARY KEY)", database=legacy_mariadb)
    with pytest.raises(SourceFileError, match="column 'k' is [a-z]+, which cannot be the key"):
        read(table="t", key="k")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("bigint", [str(9223372036854775807 - number) for number in range(10)]),
        ("numeric", [f"12345678901234567890.12345678901234567890{number}" for number in range(10)]),
        ("timestamptz", [f"2024-01-01 00:00:00.00000{number}+05:30" for number in range(9)] + ["infinity"]),
        ("date", [f"2024-01-0{number}" for number in range(1, 10)] + ["-infinity"]),
        ("uuid", [f"6ec1a2b0-0000-4000-8000-00000000000{number}" for number in range(10)]),
        ("bytea", [rf"\x{number:02x}5c" for number in range(10)]),
        ("char(5)", [f"{'ab'[number % 2]}{number}" for number in range(10)]),
        ("inet", [f"10.0.0.{number}" for number in range(10)]),
    ],
)
def test_keys_of_every_type_in_postgresql(legacy: str, kind: str, values: list[str]) -> None:
    execute(legacy, f"CREATE TABLE t (k {kind} PRIMARY KEY)")
    with psycopg.connect(legacy) as connection:
        connection.cursor().executemany(f"INSERT INTO t VALUES (%s::{kind})", [(value,) for value in values])
    assert len(read(table="t", key="k").rows) == len(values)


def test_an_enum_of_postgresql_is_ordered_as_it_was_made(legacy: str) -> None:
    execute(
        legacy,
        "CREATE TYPE level AS ENUM ('z', 'a', 'm', 'b', 'y')",
        "CREATE TABLE t AS SELECT unnest(enum_range(null::level)) AS k",
    )
    assert read(table="t", key="k").column("k") == ["z", "a", "m", "b", "y"]


def test_keys_of_several_columns(legacy: str, mariadb: MariaDb, tmp_path: Path) -> None:
    rows = ", ".join(f"('{day}', {number})" for day, number in reversed(PAIRS))
    statements = ("CREATE TABLE t (day date, n int, PRIMARY KEY (day, n))", f"INSERT INTO t VALUES {rows}")
    expected = [{"day": day, "n": str(number)} for day, number in PAIRS]
    execute(legacy, *statements)
    assert read(table="t", key=["day", "n"]).rows == expected
    assert (
        read(sqlite=sqlite_file(tmp_path / "a.db", *statements), table="t", key=["day", "n"]).rows == expected
    )
    with mariadb.database() as name, variable(mariadb.url(name)):
        for statement in statements:
            mariadb.execute(statement, database=name)
        assert read(table="t", key=["day", "n"]).rows == expected


def test_keys_of_any_type_in_sqlite(tmp_path: Path) -> None:
    file = sqlite_file(
        tmp_path / "a.db",
        "CREATE TABLE t (k)",
        "INSERT INTO t VALUES ('b'), (2), (x'01'), (1.5), ('a'), (10), (x'00'), (-1), ('B'), (9223372036854775807)",
    )
    assert read(sqlite=file, table="t", key="k").column("k") == [
        "-1", "1.5", "2", "10", "9223372036854775807", "B", "a", "b", "00", "01",
    ]  # fmt: skip


# --- keys that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("place", range(8))
def test_a_repeated_key_is_told_wherever_it_lies(tmp_path: Path, place: int, count: int) -> None:
    keys = sorted([*range(count), min(place, count - 1)])
    file = sqlite_file(
        tmp_path / "a.db", "CREATE TABLE t (k, v)", *(f"INSERT INTO t VALUES ({key}, 1)" for key in keys)
    )
    with pytest.raises(
        SourceFileError, match=rf"the key k is not unique: {min(place, count - 1)} is there more"
    ):
        read(sqlite=file, table="t", key="k")


def test_a_null_in_the_key_is_told_wherever_it_lies(legacy: str, mariadb: MariaDb, tmp_path: Path) -> None:
    statements = ("CREATE TABLE t (k int)", "INSERT INTO t VALUES (1), (2), (3), (4), (5), (6), (NULL)")
    execute(legacy, *statements)
    with pytest.raises(
        SourceFileError, match="has 7 rows, of which 6 were read: the key is empty .NULL. in 1 row"
    ):
        read(table="t", key="k")  # behind all others, where no page comes
    with pytest.raises(SourceFileError, match="the key is empty in record 1 .column 'k' is NULL"):
        read(sqlite=sqlite_file(tmp_path / "a.db", *statements), table="t", key="k")
    with mariadb.database() as name, variable(mariadb.url(name)):
        for statement in statements:
            mariadb.execute(statement, database=name)
        with pytest.raises(SourceFileError, match="the key is empty in record 1"):
            read(table="t", key="k")


def test_rows_that_one_column_does_not_tell_apart_may_have_a_key_of_two(
    mariadb: MariaDb, legacy_mariadb: str
) -> None:
    mariadb.execute("CREATE TABLE t (k INT, v INT)", database=legacy_mariadb)
    mariadb.execute("INSERT INTO t VALUES (1, 1), (2, 1), (3, 1), (3, 2), (4, 1)", database=legacy_mariadb)
    with pytest.raises(SourceFileError, match="the key k is not unique: '?3'? is there more than once"):
        read(table="t", key="k")
    assert len(read(table="t", key=["k", "v"]).rows) == 5


def test_an_index_that_lies_is_found_out(tmp_path: Path) -> None:
    """As after an upgrade of the system's collations: the index is in another order than texts are compared in."""
    file = sqlite_file(
        tmp_path / "a.db",
        "CREATE TABLE t (k TEXT PRIMARY KEY COLLATE NOCASE)",
        *(f"INSERT INTO t VALUES ('{text}')" for text in "aBcDeFg"),
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, ' COLLATE NOCASE', '') WHERE name = 't'",
    )
    with pytest.raises(
        SourceFileError, match=r"has 7 rows, of which \d were read: the order of the key is not the one"
    ):
        read(sqlite=file, table="t", key="k")


def test_a_table_without_rows_tells_its_columns(legacy: str) -> None:
    execute(legacy, "CREATE TABLE t (a int, b text)")
    pieces = list(stream(table="t", key="a").records())
    assert [piece.fields.column_names for piece in pieces] == [["a", "b"]]
    assert pieces[0].fields.num_rows == 0


@pytest.mark.parametrize("count", range(10))
def test_any_number_of_rows(tmp_path: Path, count: int) -> None:
    file = sqlite_file(
        tmp_path / "a.db",
        "CREATE TABLE t (k)",
        *(f"INSERT INTO t VALUES ({number})" for number in range(count)),
    )
    assert read(sqlite=file, table="t", key="k").column("k") == [str(number) for number in range(count)]


# --- what is read -----------------------------------------------------------------------------------------------


def test_columns_where_and_queries(legacy: str) -> None:
    execute(
        legacy, "CREATE TABLE t AS SELECT i AS id, i * 2 AS a, 'x' || i AS b FROM generate_series(1, 9) i"
    )
    assert read(table="t", key="id", columns=["b"], where="a % 3 = 0 -- all of them").rows == [
        {"b": "x3"}, {"b": "x6"}, {"b": "x9"},
    ]  # fmt: skip
    query = "WITH big AS (SELECT * FROM t WHERE id > 5) SELECT id::text || ':k' AS k, '100%' AS p FROM big -- and no more"
    assert read(query=query, key="k").column("k") == ["6:k", "7:k", "8:k", "9:k"]


def test_views_and_schemas(legacy: str) -> None:
    execute(
        legacy,
        "CREATE SCHEMA s",
        "CREATE TABLE s.t AS SELECT i AS id FROM generate_series(1, 7) i",
        "CREATE VIEW s.v AS SELECT id, -id AS minus FROM s.t",
        "CREATE MATERIALIZED VIEW s.m AS TABLE s.v",
        "CREATE TABLE s.p (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE s.p1 PARTITION OF s.p DEFAULT",
        "INSERT INTO s.p TABLE s.t",
    )
    for name in ("s.m", "s.p"):
        assert len(read(table=name, key="id").rows) == 7
    assert read(table="s.v", key="id").column("minus") == ["-1", "-2", "-3", "-4", "-5", "-6", "-7"]


@pytest.mark.parametrize(
    ("statement", "keys", "message"),
    [
        (
            "CREATE TABLE t (id int)",
            {"key": "nosuch"},
            "has no column 'nosuch', which database.key names: the columns are id",
        ),
        (
            "CREATE TABLE t (id int)",
            {"columns": ["id", "x"]},
            "has no column 'x', which database.columns names",
        ),
        (
            "CREATE TABLE t (id int)",
            {"float_decimals": {"x": "2"}},
            "has no column 'x', which database.float_decimals",
        ),
        ('CREATE TABLE t (id int, "__source_row" int)', {}, "has a column named '__source_row'"),
        (
            "CREATE TABLE t (id int)",
            {"table": None, "query": "SELECT id, id FROM t"},
            "has two columns named 'id'",
        ),
    ],
)
def test_columns_that_are_not_there(
    legacy: str, statement: str, keys: dict[str, object], message: str
) -> None:
    execute(legacy, statement)
    chosen = {"table": "t", "key": "id", **keys}
    with pytest.raises(SourceFileError, match=message):
        read(**{key: value for key, value in chosen.items() if value is not None})


def test_a_misspelt_column_of_sqlite_is_no_text(tmp_path: Path) -> None:
    """SQLite takes an unknown name in quotes for a text, the same for every row."""
    file = sqlite_file(tmp_path / "a.db", "CREATE TABLE t (id)", "INSERT INTO t VALUES (1)")
    with pytest.raises(SourceFileError, match="has no column 'idd'"):
        read(sqlite=file, table="t", key="idd")


# --- one snapshot -----------------------------------------------------------------------------------------------


def test_all_pages_are_of_one_moment_in_postgresql(legacy: str) -> None:
    execute(legacy, "CREATE TABLE t AS SELECT i AS id, 'old' AS v FROM generate_series(1, 10) i")
    records = iter(stream(table="t", key="id").records())
    first = next(records)
    execute(
        legacy,
        "DELETE FROM t WHERE id IN (2, 9)",
        "UPDATE t SET v = 'new'",
        "INSERT INTO t VALUES (11, 'new')",
    )
    found = collected(itertools.chain([first], records))
    assert found.column("id") == [str(number) for number in range(1, 11)]
    assert set(found.column("v")) == {"old"}


def test_all_pages_are_of_one_moment_in_mariadb(mariadb: MariaDb, legacy_mariadb: str) -> None:
    mariadb.execute("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)", database=legacy_mariadb)
    for number in range(1, 11):
        mariadb.execute("INSERT INTO t VALUES (%s, 'old')", number, database=legacy_mariadb)
    records = iter(stream(table="t", key="id").records())
    first = next(records)
    for statement in (
        "DELETE FROM t WHERE id IN (2, 9)",
        "UPDATE t SET v = 'new'",
        "INSERT INTO t VALUES (11, 'x')",
    ):
        mariadb.execute(statement, database=legacy_mariadb)
    found = collected(itertools.chain([first], records))
    assert found.column("id") == [str(number) for number in range(1, 11)]
    assert set(found.column("v")) == {"old"}


def test_all_pages_are_of_one_moment_in_sqlite(tmp_path: Path) -> None:
    file = sqlite_file(
        tmp_path / "a.db",
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE t (id)",
        *(f"INSERT INTO t VALUES ({number})" for number in range(1, 11)),
    )
    records = iter(stream(sqlite=file, table="t", key="id").records())
    first = next(records)
    sqlite_file(file, "DELETE FROM t WHERE id > 7", "INSERT INTO t VALUES (11)")
    assert len(collected(itertools.chain([first], records)).rows) == 10


def test_a_stream_that_is_left_keeps_no_connection(server: Server, legacy: str) -> None:
    execute(legacy, "CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 10) i")
    records = stream(table="t", key="id").records()
    next(iter(records))
    del records
    with psycopg.connect(legacy) as connection:
        others = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backfill source'"
        ).fetchone()
    assert others == (0,)


# --- plans ------------------------------------------------------------------------------------------------------


def plan_of(key: list[str]) -> tuple[Any, Any]:
    one = stream(table="t", key=key)._section
    return one, find_target(one)


def explained(connection: Connection, plan: Plan, after: Sequence[object]) -> str:
    statement = page_statement(plan, after, 100).compile(
        dialect=connection.dialect, compile_kwargs={"render_postcompile": True}
    )
    parameters: Any = statement.params
    if statement.positional:
        parameters = tuple(statement.params[name] for name in statement.positiontup or ())
    rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).fetchall()
    return "\n".join(" ".join(map(str, row)) for row in rows)


@pytest.mark.parametrize(("key", "after"), [(["id"], ["40000"]), (["day", "n"], ["2024-02-01", "7"])])
def test_a_page_is_found_by_the_index_in_postgresql(legacy: str, key: list[str], after: list[str]) -> None:
    execute(
        legacy,
        "CREATE TABLE t AS SELECT i AS id, date '2024-01-01' + i / 1000 AS day, i % 1000 AS n, repeat('x', 50) AS v"
        " FROM generate_series(1, 60000) i",
        "ALTER TABLE t ADD PRIMARY KEY (id), ADD UNIQUE (day, n)",
        "ANALYZE t",
    )
    one, target = plan_of(key)
    with snapshot(target, one) as connection:
        plan = explained(connection, make_plan(connection, target, one, {}), after)
    assert "Index Scan" in plan
    assert "Index Cond" in plan
    assert "Sort" not in plan
    assert "Filter" not in plan


@pytest.mark.parametrize(("key", "after"), [(["id"], [40000]), (["day", "n"], ["2024-02-01", 7])])
def test_a_page_is_found_by_the_index_in_mariadb(
    mariadb: MariaDb, legacy_mariadb: str, key: list[str], after: list[object]
) -> None:
    mariadb.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, day DATE NOT NULL, n INT NOT NULL, v CHAR(50), UNIQUE (day, n))"
        " SELECT seq AS id, DATE '2024-01-01' + INTERVAL seq DIV 1000 DAY AS day, seq % 1000 AS n, REPEAT('x', 50) AS v"
        " FROM seq_1_to_60000",
        database=legacy_mariadb,
    )
    mariadb.execute("ANALYZE TABLE t", database=legacy_mariadb)
    one, target = plan_of(key)
    with snapshot(target, one) as connection:
        plan = explained(connection, make_plan(connection, target, one, {}), after)
    assert " range " in plan
    assert "filesort" not in plan


def test_sqlite_finds_a_page_by_the_index(tmp_path: Path) -> None:
    file = sqlite_file(tmp_path / "a.db", "CREATE TABLE t (day, n, v, PRIMARY KEY (day, n))")
    one = stream(sqlite=file, table="t", key=["day", "n"])._section
    target = find_target(one)
    with snapshot(target, one) as connection:
        statement = page_statement(make_plan(connection, target, one, {}), ["2024-01-01", 1], 3)
        compiled = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": False}))
        rows = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {compiled}", ("2024-01-01", 1, 3, 0)
        ).fetchall()
    assert any("SEARCH" in str(row) and "day,n" in str(row).replace(" ", "") for row in rows), rows
    assert not any("TEMP B-TREE" in str(row) for row in rows)


# --- memory -----------------------------------------------------------------------------------------------------


def test_wide_rows_come_in_smaller_pages(legacy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_stream, "PAGE_ROWS_FIRST", 10)
    monkeypatch.setattr(database_stream, "PAGE_ROWS_MAX", 1000)
    monkeypatch.setattr(database_stream, "PAGE_BYTES", 100_000)
    execute(legacy, "CREATE TABLE t AS SELECT i AS id, repeat('x', 5000) AS v FROM generate_series(1, 70) i")
    sizes = read(table="t", key="id").page_sizes
    assert sizes[0] == 10
    assert max(sizes[1:]) <= 20
