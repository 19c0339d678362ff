"""Values of databases reach the mapping as exact text; what cannot be text rejects its row, and no more."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline_tests.mariadb import MariaDb
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.sources.databases import execute, read, sqlite_file, variable


class TestPostgresql:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("12345678901234567890.1234567890::numeric", "12345678901234567890.1234567890"),
            ("0.10::numeric(10,2)", "0.10"),
            ("1e-20::numeric", "0.00000000000000000001"),
            ("'NaN'::numeric", "NaN"),
            ("9223372036854775807::bigint", "9223372036854775807"),
            ("timestamp '2024-03-01 09:00:00.120000'", "2024-03-01T09:00:00.12"),
            ("timestamp '2024-03-01 09:00:00'", "2024-03-01T09:00:00"),
            ("timestamptz '2024-03-01 09:00:00.000001+05:30'", "2024-03-01T03:30:00.000001Z"),
            ("timestamptz '2024-03-01 09:00:00+00'", "2024-03-01T09:00:00Z"),
            ("timestamptz 'infinity'", "infinity"),
            ("timestamp '0044-03-15 10:00:00 BC'", "0044-03-15T10:00:00 BC"),
            ("date '2024-02-29'", "2024-02-29"),
            ("date '-infinity'", "-infinity"),
            ("time '09:30:00.5'", "09:30:00.5"),
            ("true", "true"),
            ("'\\x00ff'::bytea", "00ff"),
            ("'{\"a\": 1.10}'::json", '{"a": 1.10}'),
            ("'6ec1a2b0-0000-4000-8000-000000000001'::uuid", "6ec1a2b0-0000-4000-8000-000000000001"),
            ("12.34::money", "12.34"),
            ("'-1234567.80'::money", "-1234567.80"),
            ("'b'::mood", "b"),
            ("null::text", ""),
            ("'Größe 😀 \" , \n'::text", 'Größe 😀 " , \n'),
            ("3::positive", "3"),
        ],
    )
    def test_a_value_is_written_exactly(self, legacy: str, value: str, text: str) -> None:
        execute(
            legacy,
            "CREATE TYPE mood AS ENUM ('b', 'a')",
            "CREATE DOMAIN positive AS int CHECK (value > 0)",
            # None of this may matter.
            "ALTER ROLE CURRENT_USER SET timezone = 'Asia/Kolkata'",
            "ALTER ROLE CURRENT_USER SET datestyle = 'German'",
            "ALTER ROLE CURRENT_USER SET bytea_output = 'escape'",
            f"CREATE TABLE t AS SELECT 1 AS id, {value} AS v",
        )
        try:
            assert read(table="t", key="id").column("v") == [text]
            assert read(query="SELECT * FROM t;", key="id").column("v") == [text]
        finally:
            execute(legacy, "ALTER ROLE CURRENT_USER RESET ALL")

    def test_floats_are_refused_unless_their_decimals_are_stated(self, legacy: str) -> None:
        execute(
            legacy,
            "CREATE TABLE t AS SELECT 1 AS id, 0.29::float8 AS v, 0.1::float4 AS w"
            " UNION SELECT 2, 0.1::float8 + 0.2, 2.5",
        )
        with pytest.raises(
            SourceFileError, match=r"column 'v', which fields.amount reads, holds a float \(record 1\)"
        ):
            read({"v": "fields.amount"}, table="t", key="id")
        stated = read({"v": "fields.amount"}, table="t", key="id", float_decimals={"v": "2"})
        assert stated.column("v") == ["0.29", "0.30000000000000004"]
        # Nobody reads it as a number: as it is.
        assert read({"w": "metadata"}, table="t", key="id", columns=["w"]).column("w") == ["0.1", "2.5"]

    def test_arrays_and_rows_are_left_out_until_somebody_reads_them(self, legacy: str) -> None:
        execute(
            legacy,
            "CREATE TYPE pair AS (a int, b int)",
            "CREATE TABLE t AS SELECT 1 AS id, ARRAY[1, 2] AS list, row(1, 2)::pair AS pair, point(1, 2) AS p",
        )
        assert read(table="t", key="id").rows == [{"id": "1"}]
        with pytest.raises(
            SourceFileError, match=r"column 'list', which fields.amount reads, is _int4, not a single"
        ):
            read({"list": "fields.amount"}, table="t", key="id", columns=["list"])

    def test_what_is_not_utf8_rejects_its_row_alone(self, server: Server) -> None:
        """Databases of the encoding SQL_ASCII take any bytes."""
        with server.empty_database() as url, psycopg.connect(url, autocommit=True) as admin:
            name = f"{admin.info.dbname}_ascii"
            admin.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
            )
            try:
                with variable(url.replace(admin.info.dbname, name)):
                    execute(
                        url.replace(admin.info.dbname, name),
                        "CREATE TABLE t AS SELECT 1 AS id, E'a\\xff' AS v UNION SELECT 2, E'b\\xc3\\xa9'",
                    )
                    found = read(table="t", key="id")
                    assert found.problems == {0: ("encoding_invalid", "v is not UTF-8")}
                    assert found.raw[0] == '{"id": "1", "v": "a\\udcff"}'
                    assert found.rows[1] == {"id": "2", "v": "bé"}
                    assert read(table="t", key="v").problems == found.problems
            finally:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def test_names_are_quoted(self, legacy: str) -> None:
        execute(
            legacy,
            'CREATE SCHEMA "Old Bank"',
            'CREATE TABLE "Old Bank"."Led""ger; %s :x" ("Id %" int PRIMARY KEY, "v0" text, "k0" text)',
            'INSERT INTO "Old Bank"."Led""ger; %s :x" VALUES (1, \'a\', \'b\')',
        )
        found = read(
            table='Old Bank.Led"ger; %s :x', key="Id %", where="\"v0\" LIKE 'a%' AND 'x:y' = 'x:y' -- so"
        )
        assert found.rows == [{"Id %": "1", "v0": "a", "k0": "b"}]


class TestMariaDb:
    @pytest.mark.parametrize(
        ("kind", "value", "text"),
        [
            ("DECIMAL(30,10)", "12345678901234567890.1234567890", "12345678901234567890.1234567890"),
            ("DECIMAL(10,2)", "0.10", "0.10"),
            ("BIGINT UNSIGNED", "18446744073709551615", "18446744073709551615"),
            (
                "BIT(64)",
                "b'1111111111111111111111111111111111111111111111111111111111111111'",
                "18446744073709551615",
            ),
            ("BIT(9)", "257", "257"),
            ("YEAR", "2024", "2024"),
            ("TIME(2)", "'-100:00:01.5'", "-100:00:01.50"),
            ("DATE", "'2024-02-29'", "2024-02-29"),
            ("DATE", "'0000-00-00'", "0000-00-00"),
            ("DATETIME", "'0000-00-00 00:00:00'", "0000-00-00T00:00:00"),
            ("DATETIME(3)", "'2024-03-01 09:00:00.120'", "2024-03-01T09:00:00.12"),
            ("DATETIME(6)", "'2024-03-01 09:00:00'", "2024-03-01T09:00:00"),
            # Written and stored under the server's zone, +05:30.
            ("TIMESTAMP(6)", "'2024-03-01 09:00:00.000001'", "2024-03-01T03:30:00.000001Z"),
            ("BOOLEAN", "true", "1"),
            ("ENUM('z','a')", "'a'", "a"),
            ("SET('q','r')", "'q,r'", "q,r"),
            ("JSON", "'{\"a\": 1.10}'", '{"a": 1.10}'),
            ("UUID", "'6ec1a2b0-0000-4000-8000-000000000001'", "6ec1a2b0-0000-4000-8000-000000000001"),
            ("INET6", "'::1'", "::1"),
            ("BINARY(3)", "0x414243", "414243"),
            ("BLOB", "0x00ff", "00ff"),
            ("TEXT CHARACTER SET latin1", "'Größe'", "Größe"),
            ("TEXT", "'😀 \\' % :x'", "😀 ' % :x"),
            ("INT", "NULL", ""),
        ],
    )
    def test_a_value_is_written_exactly(
        self, mariadb: MariaDb, legacy_mariadb: str, kind: str, value: str, text: str
    ) -> None:
        with mariadb.connect(legacy_mariadb) as connection, connection.cursor() as cursor:
            cursor.execute("SET sql_mode = ''")
            cursor.execute(f"CREATE TABLE t (id INT PRIMARY KEY, v {kind})")
            cursor.execute(f"INSERT INTO t VALUES (1, {value})")
        assert read(table="t", key="id").column("v") == [text]
        assert read(query="SELECT id, v FROM t -- the end", key="id").column("v") == [text]

    def test_floats_are_refused_unless_their_decimals_are_stated(
        self, mariadb: MariaDb, legacy_mariadb: str
    ) -> None:
        mariadb.execute("CREATE TABLE t (id INT PRIMARY KEY, v DOUBLE, w FLOAT)", database=legacy_mariadb)
        mariadb.execute(
            "INSERT INTO t VALUES (1, 0.29, 0.1), (2, 0.1e0 + 0.2e0, 16777217)", database=legacy_mariadb
        )
        with pytest.raises(SourceFileError, match=r"float_decimals: \{v: 2\}"):
            read({"v": "fields.amount"}, table="t", key="id")
        found = read(
            {"v": "fields.amount", "w": "x"}, table="t", key="id", float_decimals={"v": "2", "w": "1"}
        )
        assert found.column("v") == ["0.29", "0.30000000000000004"]
        assert found.column("w") == ["0.1", "16777216.0"]  # all digits, not six

    def test_a_nul_in_a_text_rejects_its_row_alone(self, mariadb: MariaDb, legacy_mariadb: str) -> None:
        mariadb.execute("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)", database=legacy_mariadb)
        mariadb.execute("INSERT INTO t VALUES (1, 'a'), (2, 'a\\0b'), (3, 'c')", database=legacy_mariadb)
        found = read(table="t", key="id")
        assert found.problems == {1: ("nul_byte", "v holds a NUL character")}
        assert found.raw == {1: '{"id": "2", "v": "a\\u0000b"}'}
        assert [found.rows[place]["v"] for place in (0, 2)] == ["a", "c"]

    def test_names_are_quoted(self, mariadb: MariaDb, legacy_mariadb: str) -> None:
        name = "Led`ger; %s :x"
        mariadb.execute(
            "CREATE TABLE `Led``ger; %s :x` (`Id %` INT PRIMARY KEY, v0 TEXT)", database=legacy_mariadb
        )
        mariadb.execute("INSERT INTO `Led``ger; %s :x` VALUES (1, 'a'), (2, 'b')", database=legacy_mariadb)
        found = read(
            table=f"{legacy_mariadb}.{name}", key="Id %", where="v0 LIKE 'a%' AND 'x:y' = 'x:y' -- so"
        )
        assert found.rows == [{"Id %": "1", "v0": "a"}]
        query = "SELECT `Id %`, '100%' AS p, ':k' AS k FROM `Led``ger; %s :x` WHERE v0 LIKE 'b%'"
        assert read(query=query, key="Id %").rows == [{"Id %": "2", "p": "100%", "k": ":k"}]

    def test_a_shape_is_left_out_until_somebody_reads_it(self, mariadb: MariaDb, legacy_mariadb: str) -> None:
        mariadb.execute("CREATE TABLE t AS SELECT 1 AS id, point(1, 2) AS p", database=legacy_mariadb)
        assert read(table="t", key="id").rows == [{"id": "1"}]
        with pytest.raises(SourceFileError, match="'p', which metadata reads, is geometry"):
            read({"p": "metadata"}, table="t", key="id")


class TestSqlite:
    def test_a_column_may_hold_every_type(self, tmp_path: Path) -> None:
        file = sqlite_file(
            tmp_path / "a.db",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
            "INSERT INTO t VALUES (1, 9223372036854775807), (2, 'text'), (3, 2.5), (4, NULL), (5, x'00ff'), (6, 1e300)",
        )
        found = read(sqlite=file, table="t", key="id")
        assert found.column("v")[:5] == ["9223372036854775807", "text", "2.5", "", "00ff"]
        assert found.column("v")[5] == "1" + "0" * 300
        assert found.problems == {}

    def test_money_in_a_numeric_column_is_floats_and_integers(self, tmp_path: Path) -> None:
        file = sqlite_file(
            tmp_path / "a.db",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v DECIMAL(10, 2))",
            "INSERT INTO t VALUES (1, '10.00'), (2, '10.50'), (3, '0.29')",
        )
        with pytest.raises(SourceFileError, match=r"holds a float \(record 2\), which is no exact number"):
            read({"v": "fields.amount"}, sqlite=file, table="t", key="id")
        found = read({"v": "fields.amount"}, sqlite=file, table="t", key="id", float_decimals={"v": "2"})
        assert found.column("v") == ["10", "10.50", "0.29"]

    def test_what_is_no_text_rejects_its_row_alone(self, tmp_path: Path) -> None:
        file = sqlite_file(
            tmp_path / "a.db",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
            "INSERT INTO t VALUES (1, 'a'), (2, CAST(x'61ff' AS TEXT)), (3, x'6162'), (4, char(97, 0, 98)), (5, 'é')",
        )
        found = read({"v": "fields.reference_id"}, sqlite=file, table="t", key="id")
        assert {place: code for place, (code, _) in found.problems.items()} == {
            1: "encoding_invalid", 2: "record_malformed", 3: "nul_byte",
        }  # fmt: skip
        assert found.problems[2][1] == "v holds bytes, not text: select hex(v) in a query"
        assert found.raw[1] == '{"id": "2", "v": "a\\udcff"}'
        assert [found.rows[place]["v"] for place in (0, 4)] == ["a", "é"]

    def test_names_are_quoted(self, tmp_path: Path) -> None:
        file = sqlite_file(
            tmp_path / "a.db",
            'CREATE TABLE "Led""ger; %s :x" ("Id %" PRIMARY KEY, v0)',
            "INSERT INTO \"Led\"\"ger; %s :x\" VALUES (1, 'a'), (2, 'b')",
        )
        found = read(
            sqlite=file, table='Led"ger; %s :x', key="Id %", where="v0 LIKE 'a%' AND ':y' = ':y' -- so"
        )
        assert found.rows == [{"Id %": "1", "v0": "a"}]

    def test_times_and_booleans_are_what_is_stored(self, tmp_path: Path) -> None:
        file = sqlite_file(
            tmp_path / "a.db",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v DATETIME, w BOOLEAN, x DATE)",
            "INSERT INTO t VALUES (1, '2024-03-01 09:00:00.120', 1, 'yesterday')",
        )
        assert read(sqlite=file, table="t", key="id").rows == [
            {"id": "1", "v": "2024-03-01 09:00:00.120", "w": "1", "x": "yesterday"}
        ]
