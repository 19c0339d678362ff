"""Conditional rules: the first that matches decides, exactly, and what it does is done to its rows alone."""

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.schemas.extracted import to_arrow
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA
from backfill_pipeline_tests.mapping.chunks import define_in, entries_of
from backfill_pipeline_tests.mapping.conftest import extracted

TEXTS = ["", "a", "ab", "b"]
NUMBERS = ["-1.5", "0", "0.000000000000000001", "1", "2", ""]


def matched(tmp_path: Path, condition: str, texts: list[str]) -> list[str]:
    """Which of the texts a condition on column x holds for."""
    definition = define_in(tmp_path, f"rules: [{{when: {{x: {condition}}}, filter: yes}}]\n")
    entries = entries_of(definition, [{"x": text} for text in texts])
    assert all(entry["error_code"] is None for entry in entries)
    return [text for text, entry in zip(texts, entries, strict=True) if entry["filter_reason"]]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("a", ["a"]),
        ("{equals: a}", ["a"]),
        ("{equals: ''}", [""]),
        ("{not_equals: a}", ["", "ab", "b"]),
        ("[a, b]", ["a", "b"]),
        ("{in: [a, b]}", ["a", "b"]),
        ("{not_in: [a, b]}", ["", "ab"]),
        ("{regex: '^a'}", ["a", "ab"]),
        ("{starts_with: a}", ["a", "ab"]),
        ("{empty: true}", [""]),
        ("{empty: false}", ["a", "ab", "b"]),
        ("{not_empty: true}", ["a", "ab", "b"]),
        ("{not_empty: false}", [""]),
        ("{starts_with: a, not_equals: a}", ["ab"]),
    ],
)
def test_conditions_on_texts(tmp_path: Path, condition: str, expected: list[str]) -> None:
    assert matched(tmp_path, condition, TEXTS) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("{above: 0}", ["0.000000000000000001", "1", "2"]),
        ("{below: 0}", ["-1.5"]),
        ("{at_least: 1}", ["1", "2"]),
        ("{at_most: '-1.50'}", ["-1.5"]),
        ("{between: [0, 1]}", ["0", "0.000000000000000001", "1"]),
        ("{above: 0, below: 2}", ["0.000000000000000001", "1"]),
    ],
)
def test_comparisons_are_exact_and_hold_for_no_empty_text(
    tmp_path: Path, condition: str, expected: list[str]
) -> None:
    assert matched(tmp_path, condition, NUMBERS) == expected


def test_the_first_rule_that_matches_decides(tmp_path: Path) -> None:
    more = """
rules:
  - when: {kind: [a, b]}
    set: {transaction_type: {constant: FIRST}}
  - when: {kind: {regex: "."}}
    set: {transaction_type: {template: "{kind}-second"}, debit_account_id: other}
  - filter: nothing
"""
    rows = [{"kind": kind, "other": "o"} for kind in ("c", "a", "", "b", "d")]
    entries = entries_of(define_in(tmp_path, more), rows)
    assert [entry["transaction_type"] for entry in entries] == [
        "c-second", "FIRST", "TRANSFER", "FIRST", "d-second",
    ]  # fmt: skip
    assert [entry["debit_account_id"] for entry in entries] == ["o", "a", "a", "a", "o"]
    assert [entry["filter_reason"] for entry in entries] == [None, None, "nothing", None, None]


def test_any_and_unless(tmp_path: Path) -> None:
    more = """
rules:
  - when: {x: {not_empty: true}}
    any: [{y: "1"}, {y: "2", x: b}]
    unless: {x: c}
    filter: yes
"""
    rows = [{"x": x, "y": y} for x, y in (("a", "1"), ("a", "2"), ("b", "2"), ("c", "1"), ("", "1"))]
    entries = entries_of(define_in(tmp_path, more), rows)
    assert [bool(entry["filter_reason"]) for entry in entries] == [True, False, True, False, False]


def test_a_reject_names_the_rule_and_its_reason(tmp_path: Path) -> None:
    more = "rules: [{name: tests, when: {x: test}, reject: looks like a test}, {when: {x: y}, reject: no}]\n"
    first, second, third = entries_of(define_in(tmp_path, more), [{"x": "test"}, {"x": "y"}, {"x": ""}])
    assert (first["error_code"], first["error_reason"]) == ("rule_rejected", "looks like a test (tests)")
    assert second["error_reason"] == "no (rule 2)"
    assert third["error_code"] is None


def test_errors_are_those_of_the_value_that_a_row_really_gets(tmp_path: Path) -> None:
    more = """
rules:
  - when: {kind: out}
    set: {debit_account_id: {column: customer}}
"""
    rows = [
        {"kind": "out", "debit": "", "customer": "c"},  # its own column is empty, and not asked
        {"kind": "out", "debit": "a", "customer": ""},
        {"kind": "in", "debit": "", "customer": "c"},
        {"kind": "in", "debit": "a", "customer": ""},
    ]
    entries = entries_of(define_in(tmp_path, more), rows)
    assert [entry["error_code"] for entry in entries] == [
        None, "debit_account_id_missing", "debit_account_id_missing", None,
    ]  # fmt: skip
    assert "column customer is empty" in entries[1]["error_reason"]
    assert "column debit is empty" in entries[2]["error_reason"]


def test_the_amount_is_compared_with_its_sign_and_marks(tmp_path: Path) -> None:
    more = """
fields: {amount: {column: amount, decimal_mark: ",", thousands_mark: ".", absolute: true}}
rules:
  - when: {amount: {below: -1000}, fee: {above: "0.5"}}
    set: {transaction_type: {constant: LARGE}}
  - when: {amount: {below: 0}}
    set: {debit_account_id: {column: credit}, credit_account_id: {column: debit}}
"""
    rows = [
        {"amount": "-1.000,01", "fee": "0,51"},
        {"amount": "-1.000,01", "fee": "0,5"},
        {"amount": "5,00"},
        {"amount": "-2", "fee": "x"},  # not asked: the amount is not below -1000
        {"amount": "-2000", "fee": "x"},
    ]
    entries = entries_of(define_in(tmp_path, more), rows)
    assert [entry["amount"] for entry in entries] == [
        Decimal(one) for one in ("1000.01", "1000.01", "5", "2", "2000")
    ]
    assert [entry["transaction_type"] for entry in entries][:2] == ["LARGE", "TRANSFER"]
    assert [entry["debit_account_id"] for entry in entries] == ["a", "b", "a", "b", "b"]
    assert [entry["error_code"] for entry in entries] == [*[None] * 4, "value_malformed"]
    assert (entries[4]["error_field"], entries[4]["error_reason"].split(" is ")[0]) == ("fee", 'fee "x"')


def test_a_rule_sets_derived_columns_first_and_fields_see_them(tmp_path: Path) -> None:
    more = """
columns: {value: amount, note: {column: text}}
fields: {amount: value}
metadata: [note]
rules:
  - when: {kind: fee}
    set: {value: {column: fee}, note: {template: "{note} of {value}"}, transaction_type: {template: "FEE-{value}"}}
"""
    rows = [{"kind": "fee", "fee": "2.50", "text": "fee"}, {"kind": "", "text": "x"}]
    first, second = entries_of(define_in(tmp_path, more), rows)
    assert (first["amount"], first["amount_scale"]) == (Decimal("2.5"), 2)
    assert first["metadata"] == '{"note": "fee of 10.00"}'
    assert first["transaction_type"] == "FEE-2.50"
    assert (second["amount"], second["metadata"]) == (Decimal(10), '{"note": "x"}')


def test_a_filtered_row_has_no_error_and_a_malformed_record_is_never_filtered(tmp_path: Path) -> None:
    columns = ("debit", "credit", "amount", "currency", "ref", "time")
    table = extracted(**{name: [None, "spoilt"] for name in columns})
    for name in ("__error_code", "__error_reason"):
        table = table.set_column(
            table.column_names.index(name), name, pa.array(["nul_byte", None], pa.string())
        )
    mapping = compile_mapping(define_in(tmp_path, "rules: [{filter: all}]\n"))
    first, second = to_arrow(mapping.transform(table), ENTRY_SCHEMA).to_pylist()
    assert (first["error_code"], first["filter_reason"]) == ("nul_byte", None)
    assert (second["error_code"], second["error_reason"], second["filter_reason"]) == (None, None, "all")
