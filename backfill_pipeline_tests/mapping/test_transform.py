"""From EXTRACTED to ENTRY: every row comes out once, converted or with its errors."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.schemas.extracted import to_arrow, to_pandas
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA
from backfill_pipeline_tests.mapping.conftest import extracted

Define = Callable[..., SourceDefinition]
ROW = {
    "debit": "a", "credit": "b", "amount": "10.00", "currency": "EUR", "ref": "r1", "time": "2024-01-01T00:00:00Z",
}  # fmt: skip


def transform(definition: SourceDefinition, *rows: dict[str, str]) -> list[dict[str, Any]]:
    full = [{**ROW, **row} for row in rows]
    table = extracted(**{name: [row.get(name, "") for row in full] for name in full[0]})
    frame = compile_mapping(definition).transform(to_pandas(table))
    entries: list[dict[str, Any]] = to_arrow(frame, ENTRY_SCHEMA).to_pylist()
    return entries


def test_a_good_row_becomes_the_entry_it_describes(define: Define) -> None:
    (entry,) = transform(define("metadata: [note]\n", fx_rate="x"), {"note": 'say "hi"'})
    assert entry == {
        "source_row": 1, "ledger_id": "MASTER", "debit_account_id": "a", "credit_account_id": "b",
        "amount": Decimal("10"), "amount_scale": 2, "currency_code": "EUR", "asset_type": "fiat",
        "transaction_type": "TRANSFER", "reference_id": "r1", "timestamp_utc": datetime(2024, 1, 1, tzinfo=UTC),
        "fx_rate": None, "fx_rate_scale": None, "metadata": '{"note": "say \\"hi\\""}',
        "error_code": None, "error_field": None, "error_reason": None, "filter_reason": None,
    }  # fmt: skip


def test_white_space_around_values_is_trimmed_and_metadata_is_left_as_it_is(define: Define) -> None:
    (entry,) = transform(
        define("metadata: {n: note}\n"),
        {"debit": "\u00a0a\t", "amount": " 1.5 ", "time": " 2024-01-01T00:00:00Z", "note": " x "},
    )
    assert (entry["debit_account_id"], entry["amount"], entry["amount_scale"]) == ("a", Decimal("1.5"), 1)
    assert entry["metadata"] == '{"n": " x "}'
    assert entry["error_code"] is None


def test_a_default_fills_only_what_is_empty(define: Define) -> None:
    entries = transform(define(), {"currency": " "}, {"currency": "GBP"})
    assert [entry["currency_code"] for entry in entries] == ["USD", "GBP"]


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"debit": " "}, "debit_account_id_missing", "debit_account_id"),
        ({"credit": ""}, "credit_account_id_missing", "credit_account_id"),
        ({"amount": ""}, "amount_missing", "amount"),
        ({"amount": "1e3"}, "amount_malformed", "amount"),
        ({"amount": "1" * 25}, "amount_out_of_range", "amount"),
        ({"ref": ""}, "reference_id_missing", "reference_id"),
        ({"time": ""}, "time_missing", "timestamp_utc"),
        ({"time": "now"}, "time_malformed", "timestamp_utc"),
        ({"time": "2024-01-01T00:00:00"}, "time_zone_missing", "timestamp_utc"),
    ],
)
def test_what_cannot_be_converted_is_an_error_of_that_row(
    define: Define, change: dict[str, str], code: str, field: str
) -> None:
    good, bad, also_good = transform(define(), {}, change, {})
    assert (bad["error_code"], bad["error_field"]) == (code, field)
    assert bad["error_reason"]
    assert good["error_code"] is None
    assert also_good["error_code"] is None


def test_the_first_failing_field_counts_and_all_reasons_are_kept(define: Define) -> None:
    (entry,) = transform(define(), {"debit": "", "amount": "x", "time": ""})
    assert entry["error_code"] == "debit_account_id_missing"
    assert entry["error_reason"] == (
        'debit_account_id is missing: column debit is empty; amount "x" is not a plain decimal number; '
        "timestamp_utc is missing: column time is empty"
    )


def test_malformed_records_keep_the_error_of_the_reader(define: Define) -> None:
    table = extracted(**{name: [None, value] for name, value in ROW.items()})
    for name, value in (("__error_code", "wrong_field_count"), ("__error_reason", "the record has 3 fields")):
        table = table.set_column(table.column_names.index(name), name, pa.array([value, None], pa.string()))
    first, second = to_arrow(compile_mapping(define()).transform(table), ENTRY_SCHEMA).to_pylist()
    assert (first["error_code"], first["error_field"], first["error_reason"]) == (
        "wrong_field_count", None, "the record has 3 fields",
    )  # fmt: skip
    assert second["error_code"] is None


MAPPED = {"debit_account_id": "{column: debit, map: accounts}", "credit_account_id": "{column: credit}"}


@pytest.mark.parametrize(("missing", "code"), [("reject", "account_unmapped"), ("keep", None)])
def test_accounts_go_through_the_map_where_the_definition_says_so(
    define: Define, tmp_path: Path, missing: str, code: str | None
) -> None:
    (tmp_path / "map.csv").write_text("old;new\na; A1\nb;B1\na;A1\n")
    section = (
        f"account_map: {{file: map.csv, from: old, to: new, csv: {{delimiter: ';'}}, missing: {missing}}}\n"
    )
    first, second = transform(define(section, **MAPPED), {}, {"debit": "z"})
    assert (first["debit_account_id"], first["credit_account_id"]) == ("A1", "b")
    assert second["error_code"] == code
    assert second["debit_account_id"] == (None if code else "z")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("old,new\na,1\na,2\n", "'a'"),
        ("old,new\na,\n", "line 2 has no new"),
        ("x,new\n", "no column 'old'"),
        ("old,new\n1\n", "line 2"),
    ],
)
def test_a_wrong_account_map_is_one_sentence(
    define: Define, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "map.csv").write_text(content)
    definition = define("account_map: {file: map.csv, from: old, to: new}\n", **MAPPED)
    with pytest.raises(SourceFileError, match=words) as caught:
        compile_mapping(definition)
    assert str(tmp_path / "map.csv") in str(caught.value)


def test_no_rows_give_no_entries(define: Define) -> None:
    table = extracted(**{name: [] for name in ROW})
    frame = compile_mapping(define("metadata: [ref]\n", reference_id="{generate: true}")).transform(table)
    assert to_arrow(frame, ENTRY_SCHEMA).num_rows == 0
