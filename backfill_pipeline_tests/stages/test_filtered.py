"""Rows that a definition leaves out: counted by reason, in the row equation, and no reject; and a real statement."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from backfill_pipeline.definition.load import TextLoader
from backfill_pipeline_tests.stages.world import CHECKOUT, World, entries, entry

RULES = [
    {"when": {"note": "pending"}, "filter": "pending"},
    {"name": "tests", "when": {"note": {"starts_with": "test"}}, "filter": "a test"},
]


def rows() -> list[list[object]]:
    """25 in three partitions: 13 good, 10 filtered with fields that are wrong, two bad."""
    return [
        *entries(9),
        entry(10, note="pending", amount="x", time=""),
        *entries(8, first=11, note="pending"),
        entry(19, note="test 7", debit=""),
        entry(20, amount="x"),
        *entries(4, first=21),
        entry(25, time=""),
    ]


def test_filtered_rows_are_counted_by_reason_and_are_no_rejects(world: World) -> None:
    path = world.write("s", rows(), rules=RULES, max_error_rate="0.2")
    reports = world.post(path)
    assert world.query(
        "SELECT read, posted, rejected, filtered FROM backfill_partition_outcomes ORDER BY number"
    ) == [(10, 9, 0, 1), (10, 0, 1, 9), (5, 4, 1, 0)]
    assert world.query("SELECT filtered_by_reason FROM backfill_partitions ORDER BY number") == [
        ({"pending": 1},), ({"a test": 1, "pending": 8},), ({},),
    ]  # fmt: skip
    details = [dict(stage.details) for stage in reports[1].stages if stage.stage == "validated"]
    assert details == [{"rejected": 1, "filtered: a test": 1, "filtered: pending": 8}]
    assert [row for row, *_ in world.rejects()] == [20, 25]
    report = world.reconcile(path)
    assert report.matches
    assert (report.read, report.posted, report.rejected, report.filtered) == (25, 13, 2, 10)
    assert report.entries_compared == 13


def test_they_do_not_count_against_the_error_rate(world: World) -> None:
    path = world.write("s", [*entries(9, note="pending"), entry(10)], rules=RULES, max_error_rate="0")
    world.post(path)
    assert world.references() == ["R000010"]


def test_nor_does_posting_count_them_when_accounts_are_unknown_or_in_another_currency(world: World) -> None:
    """Two bad rows of ten are let through, whether validation or the ledger finds them."""
    bad = [entry(9, amount="x"), entry(10, debit="NOBODY")]
    path = world.write(
        "s", [*entries(5, note="pending"), *entries(3), *bad], rules=RULES, max_error_rate="0.2"
    )
    world.post(path)
    assert world.query("SELECT posted, rejected, filtered FROM backfill_partition_outcomes") == [(3, 2, 5)]
    bad[1] = entry(10, currency="EUR")
    path = world.write(
        "t", [*entries(5, note="pending"), *entries(3, first=21), *bad], rules=RULES, max_error_rate="0.2"
    )
    world.post(path)


def test_a_partition_of_nothing_but_filtered_rows_is_posted(world: World) -> None:
    path = world.write("s", entries(12, note="pending"), rules=RULES)
    world.post(path)
    assert world.query("SELECT status, filtered FROM backfill_partition_outcomes ORDER BY number") == [
        ("posted", 10), ("posted", 2),
    ]  # fmt: skip
    assert world.reconcile(path).matches


def test_a_repeat_counts_them_anew_and_once(world: World) -> None:
    path = world.write("s", rows(), rules=RULES, max_error_rate="0.2")
    world.run(path, selected=("extracted", "transformed", "validated"))
    world.post(path)
    world.post(path)
    assert world.value("SELECT sum(filtered)::int FROM backfill_partition_outcomes") == 10
    checkpoint = "SELECT total_processed, total_successful, total_failed FROM ledger_backfill_checkpoints"
    assert world.query(checkpoint) == [(25, 13, 2)]


def test_another_rule_for_a_posted_source_is_a_change_that_is_told(world: World) -> None:
    path = world.write("s", entries(12), rules=RULES)
    world.run(path, keys=["0001"])
    definition = yaml.safe_load(path.read_text())
    definition["rules"] = RULES[:1]
    path.write_text(yaml.safe_dump(definition))
    errors = []
    try:
        world.register(path)
    except Exception as error:
        errors.append(str(error))
    assert "the mapping section 'rules'" in errors[0]


def test_the_documented_statement_is_posted_and_reconciles(world: World) -> None:
    page = (CHECKOUT / "docs" / "source-definition.md").read_text(encoding="utf-8")
    export = re.search(r"```\n(no;booked;.*?)```", page, re.DOTALL)
    example = re.search(r"```yaml\n# example: bank statement\n(.*?)```", page, re.DOTALL)
    assert export is not None
    assert example is not None
    folder: Path = world.folder / "sources"
    folder.mkdir()
    (folder / "statement.csv").write_text(export.group(1), encoding="utf-8")
    definition = yaml.load(example.group(1), Loader=TextLoader)
    path = folder / "statement.yaml"
    path.write_text(
        yaml.safe_dump({"id": "statement", "type": "csv", "file": "statement.csv", **definition}),
        encoding="utf-8",
    )
    world.post(path)
    assert world.query(
        "SELECT debit_account_id, credit_account_id, amount::float8 FROM ledger_entries ORDER BY reference_id"
    ) == [
        ("CLEARING", "10-4711", 1250.0),
        ("10-4711", "CLEARING", 80.0),
        ("10-4711", "FEES", 2.5),
        ("CLEARING", "SUSPENSE", 5.0),
    ]
    report = world.reconcile(path)
    assert report.matches
    assert (report.read, report.posted, report.filtered, report.rejected) == (5, 4, 1, 0)
