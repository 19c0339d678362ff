"""Value expressions: every step does what the documentation says, in the documented order."""

from pathlib import Path

import pytest

from backfill_pipeline_tests.mapping.chunks import define_in, entries_of


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("{column: x}", " \u00a0a b\t", "a b"),
        ("{column: x, trim: false}", " a ", " a "),
        ("{column: x, case: upper}", "straße ä", "STRAẞE Ä"),
        ("{column: x, case: lower}", "ÄB", "äb"),
        ("{column: x, slice: [0, 4]}", "ABCDEF", "ABCD"),
        ("{column: x, slice: [4, null]}", "ABCDEF", "EF"),
        ("{column: x, slice: [-4, null]}", "ABCDEF", "CDEF"),
        ("{column: x, slice: [0, 4]}", "äöüßx", "äöüß"),
        ("{column: x, slice: [2, 4]}", "AB CD", "C"),
        ("{column: x, strip_leading: '0'}", "000120", "120"),
        ("{column: x, regex: 'IBAN ([A-Z0-9]+)'}", "to IBAN DE12 now", "DE12"),
        ("{column: x, regex: '[0-9]+'}", "a 12 b 13", "12"),
        ("{column: x, regex: '(?:A|B)([0-9])'}", "B7", "7"),
        (r"{column: x, regex: '\(([^()]+)\)'}", "text (in brackets)", "in brackets"),
        ("{column: x, regex: '[(]([0-9])'}", "(1", "1"),
        ("{column: x, regex: '(?P<n>[0-9])'}", "a1", "1"),
        ("{column: x, replace: {a: b, b: c}}", "ab", "cc"),
        ("{column: x, replace: {' ': ''}}", "1 2 3", "123"),
        ("{column: x, replace: {'.': ''}}", "a.b", "ab"),
        ("{column: x, case: upper, slice: [1, null], strip_leading: 'B', regex: 'C(.*)', replace: {D: X}}", "abbcde", "XE"),
        ("{column: x, default: none}", " ", "none"),
        ("{column: x, slice: [5, null], default: none}", "abc", "none"),
        ("{column: x, strip_leading: '0', default: '0'}", "000", "0"),
        ("{column: x, regex: '[0-9]+', default: none}", "abc", "none"),
        ("{template: '{x}/{y}'}", " a ", "a/why"),
        ("{template: '{{{x}}}'}", "a", "{a}"),
        ("{template: 'X-{x}', case: lower}", "A", "x-a"),
    ],
)  # fmt: skip
def test_a_step_does_what_it_says(tmp_path: Path, value: str, text: str, expected: str) -> None:
    definition = define_in(tmp_path, f"fields: {{transaction_type: {value}}}\n")
    (entry,) = entries_of(definition, [{"x": text, "y": "why"}])
    assert entry["error_code"] is None
    assert entry["transaction_type"] == expected


@pytest.mark.parametrize(
    ("value", "text", "code", "words"),
    [
        ("{column: x}", " ", "transaction_type_missing", "column x is empty"),
        ("{column: x, slice: [5, null]}", "abc", "transaction_type_missing", "or nothing is left of it"),
        ("{column: x, regex: '[0-9]+'}", "abc", "transaction_type_missing", "nothing is left"),
        ("{column: x, regex: '[0-9]+', unmatched: reject}", "abc", "value_unmatched", '"abc" does not match [0-9]+'),
        ("{column: x, regex: '[0-9]+', unmatched: reject}", "", "transaction_type_missing", "is empty"),
        ("{template: '{x}-{y}'}", "", "transaction_type_missing", 'a column of the template "{x}-{y}" is empty'),
        ("{column: x, lookup: kinds}", "zz", "lookup_missing", '"zz" is not in the lookup kinds'),
    ],
)  # fmt: skip
def test_a_text_that_cannot_be_made_is_a_reject_of_that_row(
    tmp_path: Path, value: str, text: str, code: str, words: str
) -> None:
    more = f"fields: {{transaction_type: {value}}}\nlookups: {{kinds: {{inline: {{'123456': KNOWN}}}}}}\n"
    rows = [{"x": one, "y": "2"} for one in ("123456", text, "123456")]
    good, bad, also_good = entries_of(define_in(tmp_path, more), rows)
    assert (bad["error_code"], bad["error_field"]) == (code, "transaction_type")
    assert words in bad["error_reason"]
    assert good["error_code"] is None
    assert also_good["error_code"] is None


def test_one_empty_part_of_a_template_makes_all_of_it_empty_or_the_default(tmp_path: Path) -> None:
    fields = (
        "fields:\n  reference_id: {template: '{day}/{ref}'}\n"
        "  credit_account_id: {template: '{branch}-{account}', default: SUSPENSE}\n"
    )
    rows = [
        {"day": "1", "ref": "2", "branch": "10", "account": "4711"},
        {"day": "", "ref": "2", "branch": "", "account": "4711"},
        {"day": "1", "ref": " ", "branch": "10", "account": ""},
    ]
    first, second, third = entries_of(define_in(tmp_path, fields), rows)
    assert [one["reference_id"] for one in (first, second, third)] == ["1/2", "", ""]
    assert [one["error_code"] for one in (first, second, third)] == [None, *["reference_id_missing"] * 2]
    assert [one["credit_account_id"] for one in (first, second, third)] == ["10-4711", "SUSPENSE", "SUSPENSE"]


def test_a_derived_column_is_a_column_for_everything_after_it(tmp_path: Path) -> None:
    more = """
columns:
  amount: {column: amount, replace: {EUR: ""}}
  moment: {template: "{day}T{clock}Z"}
  who: {column: text, regex: "CUST ([0-9]+)"}
  account: {template: "C-{who}", default: SUSPENSE}
fields: {timestamp_utc: moment, debit_account_id: account}
metadata: [who]
"""
    rows = [
        {"amount": "5.00 EUR", "day": "2024-02-01", "clock": "09:00:00", "text": "CUST 17"},
        {"amount": "6 EUR", "day": "2024-02-01", "clock": "", "text": "nobody"},
    ]
    first, second = entries_of(define_in(tmp_path, more), rows)
    assert (str(first["amount"].normalize()), first["amount_scale"]) == ("5", 2)
    assert first["timestamp_utc"].isoformat() == "2024-02-01T09:00:00+00:00"
    assert first["debit_account_id"] == "C-17"
    assert first["metadata"] == '{"who": "17"}'
    assert second["debit_account_id"] == "SUSPENSE"
    assert second["metadata"] is None
    assert second["error_code"] == "time_missing"


def test_the_account_map_comes_after_the_default_and_all_steps(tmp_path: Path) -> None:
    more = """
account_map: {inline: {"10-1": ACC-1, none: ACC-0}}
fields:
  debit_account_id: {template: "{branch}-{number}", default: none, map: accounts}
"""
    rows = [{"branch": "10", "number": "1"}, {"branch": ""}, {"branch": "11", "number": "1"}]
    first, second, third = entries_of(define_in(tmp_path, more), rows)
    assert (first["debit_account_id"], second["debit_account_id"]) == ("ACC-1", "ACC-0")
    assert third["error_code"] == "account_unmapped"
