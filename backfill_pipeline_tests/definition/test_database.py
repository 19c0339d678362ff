"""The section `database`: what it may say, and what of it identifies the mapping."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition, mapping_parts
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceDefinitionError

FIELDS = """
fields:
  ledger_id: {constant: MASTER}
  debit_account_id: debit
  credit_account_id: credit
  amount: amount
  currency_code: currency
  transaction_type: {constant: TRANSFER}
  reference_id: id
  timestamp_utc: {column: booked}
"""


def defined(folder: Path, section: str, more: str = "") -> SourceDefinition:
    path = folder / "legacy.yaml"
    path.write_text(f"id: legacy\ntype: database\ndatabase: {section}\n{more}{FIELDS}", encoding="utf-8")
    return load_definition(path)


def test_a_table(tmp_path: Path) -> None:
    definition = defined(tmp_path, "{url_env: LEGACY_DATABASE_URL, table: public.entries, key: id}")
    section = definition.database
    assert section is not None
    assert (section.table_path(), section.key) == (("public", "entries"), ("id",))
    assert definition.is_live
    assert definition.place == "table public.entries of the database LEGACY_DATABASE_URL"


def test_a_sqlite_file_is_relative_to_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOKS", "books")
    definition = defined(tmp_path, '{sqlite: "${BOOKS}/my.gnucash", query: "SELECT 1", key: [a, b]}')
    assert definition.database is not None
    assert definition.database.sqlite == tmp_path / "books" / "my.gnucash"
    assert definition.database.key == ("a", "b")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{url_env: U, key: id}", "database needs one of table and query"),
        ("{url_env: U, table: t, query: SELECT 1, key: id}", "database needs one of table and query"),
        (
            "{table: t, key: id}",
            "database needs one of url_env, the name of an environment variable, and sqlite, a file",
        ),
        ("{url_env: U, sqlite: a.db, table: t, key: id}", "database needs one of url_env"),
        ("{url_env: U, table: t}", "database.key is missing"),
        ("{url_env: U, table: t, key: []}", "database.key"),
        ("{url_env: U, table: t, key: [a, a]}", "database.key is 'a', which names a column twice"),
        (
            "{url_env: U, table: t, key: a, columns: [b, b]}",
            "database.columns is 'b', which names a column twice",
        ),
        ("{url_env: U, table: .t, key: a}", "database.table is '.t', which must be table, or schema.table"),
        (
            "{url_env: U, query: SELECT 1, key: a, where: x}",
            "database.where is only for a table: say it in the query",
        ),
        (
            "{url_env: U, table: t, key: a, statement_timeout_s: 0}",
            "database.statement_timeout_s is '0', which is outside",
        ),
        ("{url: U, table: t, key: a}", "database.url is an unknown key"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(tmp_path: Path, section: str, message: str) -> None:
    with pytest.raises(SourceDefinitionError) as raised:
        defined(tmp_path, section)
    assert message in str(raised.value)


def test_a_url_in_place_of_a_variables_name_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SourceDefinitionError) as raised:
        defined(tmp_path, "{url_env: 'postgresql://u:hunter2@h/d', table: t, key: id}")
    assert "hunter2" not in str(raised.value)
    assert "database.url_env must be the name of an environment variable that holds the URL" in str(
        raised.value
    )


def test_the_section_and_its_type_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"id: x\ntype: database\n{FIELDS}")
    with pytest.raises(SourceDefinitionError, match="database is needed with type database"):
        load_definition(path)
    path.write_text(f"id: x\ntype: csv\nfile: a.csv\ndatabase: {{url_env: U, table: t, key: id}}\n{FIELDS}")
    with pytest.raises(SourceDefinitionError, match="database is given, but type is csv"):
        load_definition(path)
    with pytest.raises(SourceDefinitionError, match="file is given, but type is database"):
        defined(tmp_path, "{url_env: U, table: t, key: id}", "file: a.csv\n")


def test_what_rows_become_does_not_depend_on_where_they_are(tmp_path: Path) -> None:
    def parts(section: str) -> dict[str, str]:
        return mapping_parts(defined(tmp_path, section))

    one = parts("{url_env: A, table: t, key: id}")
    assert one == parts("{url_env: B, table: t, key: id, statement_timeout_s: 5, connect_timeout_s: 5}")
    assert one == parts("{sqlite: a.db, table: t, key: id}")
    for other in ("table: u, key: id", "table: t, key: k", "table: t, key: id, where: a > 1"):
        assert one["database"] != parts(f"{{url_env: A, {other}}}")["database"]
