"""The section for transactions of several rows: what it takes, and what is wrong with it, by key."""

from pathlib import Path

import pytest
import yaml

from backfill_pipeline.definition.load import load_definition, mapping_parts
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.problems import check_file
from backfill_pipeline.errors import SourceDefinitionError

BASE: dict[str, object] = {
    "id": "bank",
    "type": "csv",
    "file": "export.csv",
    "fields": {
        "ledger_id": {"constant": "MASTER"},
        "account_id": "account",
        "amount": "amount",
        "currency_code": "currency",
        "transaction_type": {"constant": "BOOKING"},
        "reference_id": "ref",
        "timestamp_utc": "time",
    },
    "transactions": {"id": "txn"},
}


def written(folder: Path, *, fields: dict[str, object] | None = None, **sections: object) -> Path:
    base_fields = BASE["fields"]
    assert isinstance(base_fields, dict)
    merged = {**BASE, "fields": {**base_fields, **(fields or {})}, **sections}
    merged["fields"] = {key: value for key, value in merged["fields"].items() if value is not None}
    path = folder / "bank.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in merged.items() if value is not None}))
    return path


def define(folder: Path, *, fields: dict[str, object] | None = None, **sections: object) -> SourceDefinition:
    return load_definition(written(folder, fields=fields, **sections))


def test_one_column_is_short_for_a_list_of_one(tmp_path: Path) -> None:
    section = define(tmp_path).transactions
    assert section is not None
    assert section.id == ("txn",)
    assert (section.positive, section.zero_legs, section.references) == ("debit", "filter", "row")


def test_the_columns_of_the_id_and_the_unit_are_read(tmp_path: Path) -> None:
    definition = define(tmp_path, transactions={"id": ["day", "number"], "unit": "share"})
    read = definition.columns_read()
    assert [read[name] for name in ("day", "number", "share")] == [
        "transactions.id",
        "transactions.id",
        "transactions.unit",
    ]
    derived = define(
        tmp_path, transactions={"id": "txn", "unit": "share"}, columns={"share": {"column": "isin"}}
    )
    assert "share" not in derived.columns_read()


def test_the_section_is_part_of_the_mapping_where_there_is_one(tmp_path: Path) -> None:
    one = mapping_parts(define(tmp_path))
    other = mapping_parts(define(tmp_path, transactions={"id": "txn", "positive": "credit"}))
    assert one["transactions"] != other["transactions"]
    plain = define(
        tmp_path,
        transactions=None,
        fields={"account_id": None, "debit_account_id": "a", "credit_account_id": "b"},
    )
    assert "transactions" not in mapping_parts(plain)


def test_rules_may_set_the_account_of_a_leg_and_not_those_of_an_entry(tmp_path: Path) -> None:
    rule = {"when": {"kind": "FEE"}, "set": {"account_id": {"constant": "FEES"}}}
    assert define(tmp_path, rules=[rule]).rules
    rule["set"] = {"debit_account_id": {"constant": "FEES"}}
    with pytest.raises(
        SourceDefinitionError, match="rules.0.set.debit_account_id is neither a field nor a derived"
    ):
        define(tmp_path, rules=[rule])


WRONG: list[tuple[dict[str, object], str]] = [
    ({"fields": {"account_id": None}}, "fields.debit_account_id is missing"),
    ({"transactions": None}, "transactions is needed with fields.account_id"),
    (
        {"fields": {"account_id": None, "debit_account_id": "a", "credit_account_id": "b"}},
        "fields.account_id is needed with transactions",
    ),
    ({"fields": {"debit_account_id": "a"}}, "fields.debit_account_id is given beside account_id"),
    ({"transactions": {"id": ["txn", "txn"]}}, "transactions.id is 'txn', which names a column twice"),
    ({"transactions": {"id": []}}, "transactions.id"),
    ({"transactions": {}}, "transactions.id is missing"),
    (
        {"transactions": {"id": "key"}, "columns": {"key": {"template": "{a}-{b}"}}},
        "transactions.id is 'key', which is a derived column",
    ),
    ({"fields": {"amount": {"column": "amount", "absolute": "true"}}}, "fields.amount.absolute contradicts"),
    ({"fields": {"amount": {"column": "amount", "zero": "filter"}}}, "fields.amount.zero is 'filter', which is transactions"),
    ({"fields": {"fx_rate": "rate"}}, "fields.fx_rate has no meaning with transactions"),
    ({"fields": {"reference_id": "txn"}}, "fields.reference_id is the same for all rows of a transaction"),
    (
        {"fields": {"reference_id": "key"}, "columns": {"key": {"template": "V-{txn}"}}},
        "fields.reference_id is the same for all rows of a transaction",
    ),
    (
        {"fields": {"reference_id": {"generate": "true"}}, "transactions": {"id": "txn", "references": "numbered"}},
        "transactions.references is 'numbered', which contradicts generated references",
    ),
    (
        {"fields": {"reference_id": {"generate": "true", "columns": ["txn", "account"]}}},
        "fields.reference_id.columns must hold amount too",
    ),
    (
        {"transactions": {"id": "txn", "conversion_account": "CONVERSIONS"}},
        "transactions.conversion_account is 'CONVERSIONS', which must hold {currency_code}",
    ),
    (
        {"transactions": {"id": "txn", "conversion_account": "{currency_code}-{branch}"}},
        "may hold no placeholder but {currency_code}",
    ),
    (
        {"transactions": {"id": "txn", "unit": "share", "conversion_account": "C-{currency_code}"}},
        "must hold {unit}",
    ),
    ({"transactions": {"id": "txn", "positiv": "debit"}}, "did you mean positive"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    fields = change.get("fields")
    assert fields is None or isinstance(fields, dict)
    sections = {key: value for key, value in change.items() if key != "fields"}
    if message.startswith("fields.debit_account_id is missing"):
        sections["transactions"] = None
    path = written(tmp_path, fields=fields, **sections)
    with pytest.raises(SourceDefinitionError) as raised:
        load_definition(path)
    assert message in str(raised.value)
    problems = check_file(path).problems
    assert any(message in problem.text or problem.suggestion == "positive" for problem in problems)


def test_numbered_references_may_be_those_of_the_transaction(tmp_path: Path) -> None:
    definition = define(
        tmp_path, fields={"reference_id": "txn"}, transactions={"id": "txn", "references": "numbered"}
    )
    assert definition.transactions is not None
