"""A look ahead says what a run would do, without a ledger and without writing anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.problems import Problem, check_file
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.stages.preview import Preview, check_files, preview, sample_by_code
from backfill_pipeline_tests.stages.world import CHECKOUT

YAML = """\
id: bank
type: csv
file: export.csv
fields:
  ledger_id: {constant: MASTER}
  debit_account_id: to
  credit_account_id: from
  amount: amount
  currency_code: {constant: EUR}
  transaction_type: {constant: TRANSFER}
  reference_id: id
  timestamp_utc: {column: date, timezone: Europe/Berlin}
metadata: [text]
"""
CSV = """\
id,date,from,to,amount,text
T1,2024-03-01 09:00,A,B,10.00,Rent
T2,2024-03-31 02:30,A,B,1.005,"two
lines"
T3,2024-04-01,A,A,1e3,
T4,2024-04-02,A
T5,2024-04-02,B,A,1,last
"""


def _source(tmp_path: Path, yaml: str = YAML, csv: str = CSV) -> Path:
    (tmp_path / "export.csv").write_text(csv, encoding="utf-8")
    path = tmp_path / "bank.yaml"
    path.write_text(yaml, encoding="utf-8")
    return path


def _check(path: Path, rows: int = 1000) -> tuple[list[Problem], Preview | None]:
    return check_files(check_file(path), rows=rows)


def test_rows_are_shown_before_and_after_with_what_is_wrong(tmp_path: Path) -> None:
    found = preview(load_definition(_source(tmp_path)), rows=10)
    assert [(one.row, one.line, one.outcome, one.code) for one in found.rows] == [
        (1, 2, "good", None),
        (2, 3, "rejected", "time_nonexistent"),
        (3, 5, "rejected", "amount_malformed"),
        (4, 6, "rejected", "wrong_field_count"),
        (5, 7, "good", None),
    ]
    first = found.rows[0]
    assert first.before == {"id": "T1", "date": "2024-03-01 09:00", "from": "A", "to": "B", "amount": "10.00", "text": "Rent"}  # fmt: skip
    assert first.after["amount"] == "10.00"
    assert first.after["timestamp_utc"] == "2024-03-01T08:00:00+00:00"
    assert (first.after["debit_account_id"], first.after["metadata"]) == ("B", '{"text": "Rent"}')
    assert "Europe/Berlin" in str(found.rows[1].reason)
    assert found.rows[3].raw == "T4,2024-04-02,A"
    assert found.rows[3].before == {}
    assert (found.good, found.rejected, found.filtered, found.reached_end) == (
        2,
        {"time_nonexistent": 1, "amount_malformed": 1, "wrong_field_count": 1},
        {},
        True,
    )
    assert list(tmp_path.iterdir()) != []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bank.yaml", "export.csv"]


def test_a_look_begins_at_a_line_and_ends_after_some_rows(tmp_path: Path) -> None:
    definition = load_definition(_source(tmp_path))
    assert [one.row for one in preview(definition, rows=2, from_line=5).rows] == [3, 4]
    assert [one.row for one in preview(definition, rows=9, from_line=4).rows] == [3, 4, 5]
    assert preview(definition, rows=2).reached_end is False
    assert preview(definition, rows=5, from_line=1).reached_end is True
    assert preview(definition, rows=5, from_line=99).rows == ()


def test_generated_references_are_those_of_a_run_wherever_the_look_begins(tmp_path: Path) -> None:
    csv = CSV.splitlines()[0] + "\n" + "X,2024-03-01,A,B,1.00,same\n" * 5
    path = _source(tmp_path, YAML.replace("reference_id: id", "reference_id: {generate: true}"), csv)
    definition = load_definition(path)
    references = [one.after["reference_id"] for one in preview(definition, rows=5).rows]
    assert [one.rsplit("-", 1)[1] for one in references] == ["0", "1", "2", "3", "4"]
    later = preview(definition, rows=2, from_line=4).rows
    assert [one.after["reference_id"] for one in later] == references[2:4]


def test_an_empty_export_has_no_rows(tmp_path: Path) -> None:
    found = preview(load_definition(_source(tmp_path, csv=CSV.splitlines()[0] + "\n")), rows=5)
    assert (found.rows, found.good, found.reached_end) == ((), 0, True)


def test_the_start_of_a_large_file_is_all_that_is_read(tmp_path: Path) -> None:
    count = 200_000
    rows = "".join(f"T{n},2024-03-01,A,B,1.00,text\n" for n in range(count))
    path = _source(tmp_path, csv=CSV.splitlines()[0] + "\n" + rows)
    with (tmp_path / "export.csv").open("ab") as file:
        file.truncate(file.tell() + (70 << 20))  # a line that no survey of the whole file would bear
    assert preview(load_definition(path), rows=10).good == 10


def test_a_missing_column_is_refused_with_what_was_meant(tmp_path: Path) -> None:
    definition = load_definition(_source(tmp_path, YAML.replace("amount: amount", "amount: Amuont")))
    with pytest.raises(SourceFileError, match="did you mean amount"):
        preview(definition, rows=1)


def test_a_check_names_every_problem_of_the_files_with_its_line(tmp_path: Path) -> None:
    yaml = YAML.replace("amount: amount", "amount: betrag").replace("to\n", "too\n")
    yaml += "account_map: {file: none.csv, from: a, to: b}\n"
    problems, found = _check(_source(tmp_path, yaml))
    assert found is None
    assert [(one.line, one.key, one.suggestion) for one in problems] == [
        (6, "fields.debit_account_id", "to"),
        (8, "fields.amount", None),
        (14, "account_map.file", None),
    ]
    assert all("\n" not in str(one) for one in problems)


def test_a_check_names_the_lookup_whose_file_is_missing(tmp_path: Path) -> None:
    lookups = "lookups:\n  kinds:\n    file: kinds.csv\n    from: a\n    to: b\n"
    yaml = YAML.replace("{constant: TRANSFER}", "{column: text, lookup: kinds}") + lookups
    problems, _ = _check(_source(tmp_path, yaml))
    assert [(one.line, one.key) for one in problems] == [(16, "lookups.kinds.file")]


def test_a_check_names_a_missing_export_and_a_wrong_accounts_file(tmp_path: Path) -> None:
    section = "accounts:\n  file: accounts.csv\n  fields: {id: id, currency_code: currency}\n"
    path = _source(tmp_path, YAML.replace("export.csv", "none.csv") + section)
    (tmp_path / "accounts.csv").write_text("id,currency\nA,EUR\nA,EUR\n")
    problems, _ = _check(path)
    assert [(one.line, one.key) for one in problems] == [(3, "file"), (15, "accounts.file")]
    assert "no such file" in problems[0].text
    assert "more than once" in problems[1].text


def test_a_check_counts_what_the_first_rows_would_become(tmp_path: Path) -> None:
    problems, found = _check(_source(tmp_path))
    assert problems == []
    assert found is not None
    assert (found.good, sum(found.rejected.values())) == (2, 3)
    assert [one.row for one in sample_by_code(found)] == [2, 3, 4]
    _, less = _check(_source(tmp_path), rows=1)
    assert less is not None
    assert (less.good, less.rejected, less.reached_end) == (1, {}, False)


def test_the_sample_is_right(tmp_path: Path) -> None:
    problems, found = _check(CHECKOUT / "data" / "sources" / "sample.yaml")
    assert problems == []
    assert found is not None
    assert (found.good, found.rejected) == (995, {"amount_malformed": 5})


def test_filtered_rows_show_their_reason(tmp_path: Path) -> None:
    rules = 'rules:\n  - when: {text: last}\n    filter: "not wanted"\n'
    found = preview(load_definition(_source(tmp_path, YAML + rules)), rows=10)
    assert found.rows[4].outcome == "filtered"
    assert (found.filtered, found.rows[4].after) == ({"not wanted": 1}, {})
    assert found.good == 1
