"""What is wrong with columns, rules, lookups and values is one sentence; what changes in them changes the mapping."""

from pathlib import Path

import pytest

from backfill_pipeline.definition.load import mapping_parts, mapping_sha256
from backfill_pipeline.definition.steps import capturing, template_columns, template_parts
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline_tests.mapping.chunks import define_in

WRONG = {
    "lookup": ("fields: {ledger_id: {column: a, lookup: x}}", ["fields.ledger_id.lookup is 'x'", "no section lookups"]),
    "other lookup": (
        "columns: {a: {column: b, lookup: x}}\nlookups: {y: {inline: {a: b}}}",
        ["columns.a.lookup is 'x'", "the lookups are y"],
    ),
    "account map": (
        "rules: [{filter: x}, {set: {debit_account_id: {column: a, map: accounts}}}]",
        ["rules.1.set.debit_account_id.map", "account_map"],
    ),
    "order": ("columns: {a: {template: '{b}-'}, b: c}", ["columns.a uses b, which is defined after it"]),
    "reserved": ("columns: {__source_row: c}", ["columns.__source_row starts with __"]),
    "side by side": (
        "fields: {reference_id: {template: '{a}{b}'}}",
        ["fields.reference_id.template is '{a}{b}'", "puts a and b side by side"],
    ),
    "constant reference": ("fields: {reference_id: {constant: X}}", ["fields.reference_id"]),
    "default of a reference": ("fields: {reference_id: {column: x, default: X}}", ["fields.reference_id.default"]),
    "constant reference by rule": ("rules: [{set: {reference_id: {constant: X}}}]", ["set.reference_id", "same reference"]),
    "template without columns": ("fields: {ledger_id: {template: X}}", ["names no column"]),
    "open brace": ("fields: {ledger_id: {template: 'X{a'}}", ["has a brace that is not closed"]),
    "closing brace": ("fields: {ledger_id: {template: '{a}}'}}", ["has a brace that is not closed"]),
    "regex": ("fields: {ledger_id: {column: a, regex: '('}}", ["fields.ledger_id.regex is '('", "RE2"]),
    "look-around": ("fields: {ledger_id: {column: a, regex: '(?=a)'}}", ["is no regular expression of RE2"]),
    "groups": ("fields: {ledger_id: {column: a, regex: '(a)(b)'}}", ["more than one capture group"]),
    "unmatched": ("fields: {ledger_id: {column: a, unmatched: reject}}", ["unmatched", "only with regex"]),
    "slice": ("fields: {ledger_id: {column: a, slice: [4, 4]}}", ["fields.ledger_id.slice leaves nothing"]),
    "case": ("fields: {ledger_id: {column: a, case: title}}", ["fields.ledger_id.case is 'title'", "'upper' or 'lower'"]),
    "step": ("fields: {ledger_id: {column: a, uper: x}}", ["fields.ledger_id.uper is an unknown key"]),
    "step of a constant": ("fields: {ledger_id: {constant: a, case: upper}}", ["fields.ledger_id.case is an unknown key"]),
    "nothing done": ("rules: [{when: {a: b}}]", ["rules.0 does nothing"]),
    "two things": ("rules: [{filter: x, reject: y}]", ["rules.0.reject cannot go together with filter"]),
    "target": ("rules: [{set: {debit_acount_id: x}}]", ["rules.0.set.debit_acount_id is neither", "debit_account_id"]),
    "amount": ("rules: [{set: {amount: x}}]", ["rules.0.set.amount cannot be set by a rule", "derived column"]),
    "no condition": ("rules: [{when: {a: {}}, filter: x}]", ["rules.0.when.a says nothing"]),
    "operator": ("rules: [{when: {a: {is: x}}, filter: x}]", ["rules.0.when.a.is is an unknown key"]),
    "number": ("rules: [{when: {a: {above: x}}, filter: x}]", ["rules.0.when.a.above is 'x'", "decimal"]),
    "infinity": ("rules: [{when: {a: {above: Infinity}}, filter: x}]", ["rules.0.when.a.above"]),
    "too fine": ("rules: [{when: {a: {above: 1e-19}}, filter: x}]", ["at most 20 digits before and 18 after"]),
    "between": ("rules: [{when: {a: {between: [2, 1]}}, filter: x}]", ["the higher limit first"]),
    "empty lookup": ("lookups: {x: {missing: keep}}", ["lookups.x needs either inline", "file"]),
    "two answers": (
        "lookups: {x: {inline: {a: b}, missing: keep, default: c}}",
        ["lookups.x.missing cannot go together with default"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_section_is_one_sentence_with_its_place(tmp_path: Path, case: str) -> None:
    text, expected = WRONG[case]
    with pytest.raises(SourceDefinitionError) as caught:
        define_in(tmp_path, text)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in expected:
        assert part in sentence


def test_the_source_must_have_what_is_read_and_not_what_is_derived(tmp_path: Path) -> None:
    definition = define_in(
        tmp_path,
        "columns: {a: {template: '{x}-{y}'}, amount: amount, ref: {column: a}}\n"
        "rules: [{when: {a: b, z: c}, set: {a: {column: w}}}]\nmetadata: [a, note]\n"
        "fields: {debit_account_id: a}",
    )
    read = definition.columns_read()
    assert {name: read[name] for name in ("x", "y", "amount", "z", "w", "note")} == {
        "x": "columns.a", "y": "columns.a", "amount": "columns.amount", "z": "rules.0.when", "w": "rules.0.set.a",
        "note": "metadata",
    }  # fmt: skip
    assert not {"a", "ref"} & set(read)


CHANGES = [
    ("columns", "columns: {x: {column: a}}", "columns: {x: {column: b}}"),
    ("columns", "columns: {x: {column: a}}", "{}"),
    (
        "columns",
        "columns: {x: {column: a, replace: {a: b, b: c}}}",
        "columns: {x: {column: a, replace: {b: c, a: b}}}",
    ),
    ("rules", "rules: [{when: {a: b}, filter: x}]", "rules: [{when: {a: c}, filter: x}]"),
    ("rules", "rules: [{filter: x}, {reject: y}]", "rules: [{reject: y}, {filter: x}]"),
    ("lookups", "lookups: {x: {inline: {a: b}}}", "lookups: {x: {inline: {a: c}}}"),
    ("fields", "fields: {ledger_id: {column: a}}", "fields: {ledger_id: {column: a, case: upper}}"),
]


@pytest.mark.parametrize(("section", "before", "after"), CHANGES)
def test_a_change_of_meaning_is_a_change_of_that_section(
    tmp_path: Path, section: str, before: str, after: str
) -> None:
    old, new = mapping_parts(define_in(tmp_path, before)), mapping_parts(define_in(tmp_path, after))
    assert {key for key in {*old, *new} if old.get(key) != new.get(key)} == {section}


def test_the_content_of_a_lookup_file_counts_and_its_place_does_not(tmp_path: Path) -> None:
    text = "lookups: {{x: {{file: {}, from: a, to: b}}}}"
    (tmp_path / "one.csv").write_text("a,b\n1,2\n")
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    first = mapping_sha256(define_in(tmp_path, text.format("one.csv")))
    assert mapping_sha256(define_in(tmp_path, text.format("two.csv"))) == first
    (tmp_path / "two.csv").write_text("a,b\n1,3\n")
    assert mapping_sha256(define_in(tmp_path, text.format("two.csv"))) != first


def test_a_definition_without_them_has_the_hash_that_it_always_had(tmp_path: Path) -> None:
    parts = mapping_parts(define_in(tmp_path, "{}"))
    assert not {"columns", "rules", "lookups"} & set(parts)
    assert mapping_sha256(define_in(tmp_path, "{}")) == (
        "50141678032e47df53efa6bd3554a873ec18698ddb68d687124159222784f34a"
    )


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", "(?P<value>a)"),
        ("x(a)", "x(?P<value>a)"),
        (r"\((a)", r"\((?P<value>a)"),
        ("[(](a)", "[(](?P<value>a)"),
        ("[]()](a)", "[]()](?P<value>a)"),
        ("(?:a)(b)", "(?:a)(?P<value>b)"),
        ("(?i)a", "(?P<value>(?i)a)"),
        ("(?P<x>a)", "(?P<value>a)"),
        ("(?<x>a)", "(?P<value>a)"),
    ],
)
def test_the_capture_group_of_a_pattern_is_named(pattern: str, expected: str) -> None:
    assert capturing(pattern) == expected


def test_parts_of_a_template() -> None:
    assert template_parts("{{{a}}}-{b c}") == [("{", False), ("a", True), ("}-", False), ("b c", True)]
    assert template_columns("{a}-{b}-{a}") == ("a", "b")
