"""Everything that is wrong with a definition at once, with lines."""

from __future__ import annotations

from pathlib import Path

from backfill_pipeline.definition.problems import check_file, closest
from backfill_pipeline_tests.definition.conftest import YAML

WRONG = """\
id: Bank
typ: csv
file: x.csv
fields:
  ledger_id: {constant: MASTER}
  debit_account_id: {colum: to}
  credit_account_id: from
  amuont: {column: amount, decimal_mark: ";"}
  currency_code: {constant: EUR}
  transaction_type: {constant: TRANSFER}
  reference_id: id
  timestamp_utc:
    column: date
    format: "%d.%m.%Q"
    timezone: Europe/Berln
max_error_rate: 3
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bank.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_problem_is_found_at_once_with_its_line_and_what_was_meant(tmp_path: Path) -> None:
    checked = check_file(_write(tmp_path, WRONG))
    assert checked.definition is None
    assert [(one.line, one.key, one.suggestion) for one in checked.problems] == [
        (1, "id", None),
        (2, "typ", "type"),
        (6, "fields.debit_account_id.colum", "column"),
        (8, "fields.amuont", "amount"),
        (8, "fields.amuont.decimal_mark", None),
        (14, "fields.timestamp_utc.format", None),
        (15, "fields.timestamp_utc.timezone", None),
        (16, "max_error_rate", None),
    ]
    assert str(checked.problems[0]).startswith(f"{tmp_path / 'bank.yaml'}:1: id is 'Bank'")
    assert "did you mean type?" in str(checked.problems[1])
    assert "Europe/Paris" in str(checked.problems[6])


def test_a_right_file_has_none_and_knows_its_lines(tmp_path: Path) -> None:
    checked = check_file(_write(tmp_path, YAML.lstrip()))
    assert checked.problems == ()
    assert checked.definition is not None
    assert checked.line_of("fields.amount") == 8
    assert checked.line_of("fields.amount.column") == 8
    assert checked.line_of("accounts.file") == 1


def test_a_missing_key_is_told_at_its_section(tmp_path: Path) -> None:
    (problem,) = check_file(_write(tmp_path, YAML.lstrip().replace("  amount: amount\n", ""))).problems
    assert (problem.line, problem.key, problem.text) == (4, "fields.amount", "fields.amount is missing")


def test_broken_yaml_comes_with_its_line(tmp_path: Path) -> None:
    (problem,) = check_file(_write(tmp_path, "id: a\nfields: [a\n")).problems
    assert problem.line == 3
    assert "not valid YAML" in problem.text


def test_hostile_files_are_told_in_a_sentence(tmp_path: Path) -> None:
    aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
    )
    for text in ("", "[]", "- a", "\0", "a: &a [*a]", "? [a]\n: b", "[" * 3000, aliases):
        found = check_file(_write(tmp_path, text)).problems
        assert found, text[:20]
        assert all("\n" not in one.text for one in found), text[:20]
    (tmp_path / "bank.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in check_file(tmp_path / "bank.yaml").problems[0].text
    assert "no such" in check_file(tmp_path / "none.yaml").problems[0].text
    assert check_file(tmp_path).problems


def test_a_variable_that_is_not_set_hides_no_other_problem(tmp_path: Path) -> None:
    text = YAML.lstrip().replace("export.csv", "${BACKFILL_NOT_SET}/x.csv") + "max_error_rate: 2\n"
    checked = check_file(_write(tmp_path, text))
    assert [one.key for one in checked.problems] == ["file", "max_error_rate"]
    assert checked.problems[0].line == 3


def test_what_was_meant_is_found_without_regard_to_capitals() -> None:
    assert closest("Betrag", ["betrag", "datum"]) == "betrag"
    assert closest("amout", ["Amount", "Account"]) == "Amount"
    assert closest("x", ["amount"]) is None
