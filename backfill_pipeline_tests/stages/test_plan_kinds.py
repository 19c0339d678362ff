"""Plans of every kind of source: what can only be read as a whole, what is read live, several files, transactions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from backfill_pipeline_tests.sources.databases import sqlite_file
from backfill_pipeline_tests.stages.planning import assert_planned_and_run_agree, planned
from backfill_pipeline_tests.stages.test_set_wise import assert_set_wise, lines_executed
from backfill_pipeline_tests.stages.test_transactions import define, legs
from backfill_pipeline_tests.stages.test_transactions import many as many_transactions
from backfill_pipeline_tests.stages.world import CHECKOUT, HEADER, World, entries, entry

TABLE = "CREATE TABLE entries (ref TEXT PRIMARY KEY, debit TEXT, credit TEXT, amount TEXT, currency TEXT, time TEXT, note TEXT)"
EXAMPLES = sorted((CHECKOUT / "data" / "examples").glob("*/*.yaml"))


def bank(world: World, count: int) -> Path:
    """A database with a table of entries."""
    rows = [", ".join(f"'{value}'" for value in row) for row in entries(count)]
    return sqlite_file(
        world.folder / "bank.sqlite", TABLE, *[f"INSERT INTO entries VALUES ({row})" for row in rows]
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_examples(world: World, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem == "legacy":  # its rows are in a table of the ledger's own database
        world.query((path.parent / "legacy.sql").read_text(encoding="utf-8"))
        monkeypatch.setenv("LEGACY_DATABASE_URL", world.url)
    plan = assert_planned_and_run_agree(world, path)
    assert plan.counts.posted
    again = assert_planned_and_run_agree(world, path)
    assert again.counts.posted == 0


def test_transactions_of_several_legs(world: World) -> None:
    rows = [
        *many_transactions(20),
        *legs("BROKEN", ("A", "5.00"), ("B", "-4.00")),
        *legs("UNKNOWN", ("A", "5.00"), ("NOBODY", "-5.00")),
        *legs("T00003", ("A", "1.00"), ("B", "-1.00")),
        *many_transactions(4),
    ]
    path = define(world, "s", rows, partition_rows="9", max_error_rate="1", config={"batch_size": "4"})
    plan = assert_planned_and_run_agree(world, path)
    assert plan.rejects_by_code


@pytest.mark.parametrize("rows", [1, 25])
def test_a_live_source_is_read_for_the_plan_and_read_anew_by_the_run(world: World, rows: int) -> None:
    file = bank(world, rows)
    path = world.write(
        "s", [], type="database", file=None, database={"sqlite": str(file), "table": "entries", "key": "ref"}
    )
    plan = assert_planned_and_run_agree(world, path)
    assert (plan.is_live, plan.is_registered) == (True, False)
    sqlite_file(
        file,
        "INSERT INTO entries SELECT 'RX', debit, credit, amount, currency, time, note FROM entries LIMIT 1",
    )
    plan = assert_planned_and_run_agree(world, path)
    assert (plan.counts.posted, plan.counts.duplicates) == (1, rows)


def test_a_live_source_that_is_registered_is_what_was_captured(world: World) -> None:
    file = bank(world, 25)
    path = world.write(
        "s", [], type="database", file=None, database={"sqlite": str(file), "table": "entries", "key": "ref"}
    )
    world.post(path, keys=["0001"])
    sqlite_file(file, "DELETE FROM entries WHERE ref = 'R000020'")
    plan = assert_planned_and_run_agree(world, path)
    assert (plan.is_registered, plan.counts.posted, plan.counts.duplicates) == (True, 15, 10)


def test_several_compressed_files_of_which_one_came_since(world: World) -> None:
    path = world.write("s", [], file=None, files="part-*.csv.gz")

    def write_part(number: int, rows: list[list[object]]) -> None:
        table: list[list[object]] = [[*HEADER], *rows]
        lines = [",".join(str(value) for value in row) for row in table]
        (path.parent / f"part-{number}.csv.gz").write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))

    write_part(1, entries(12))
    write_part(2, [*entries(3, first=13), entry(5)])
    assert_planned_and_run_agree(world, path)
    write_part(3, [*entries(3, first=30), entry(6, amount="7.77")])
    plan = assert_planned_and_run_agree(world, path)
    assert (plan.counts.posted, plan.counts.conflicts, plan.revision) == (3, 1, 1)
    assert plan.is_registered
    assert plan.changes


def test_json_lines(world: World) -> None:
    path = world.write("s", [], type="jsonl", file="s.jsonl", partition_rows="4", max_error_rate="1")
    lines = [
        json.dumps(dict(zip(HEADER, row, strict=True)))
        for row in [*entries(9), entry(2), entry(20, amount="x")]
    ]
    (path.parent / "s.jsonl").write_text("\n".join([*lines, "{", ""]), encoding="utf-8")
    assert_planned_and_run_agree(world, path)


def test_no_work_per_row_in_python(world: World) -> None:
    """As `test_set_wise.py`: rows that are posted, found to be there, or left out. Rejects are told one by one."""

    def write(name: str, count: int) -> Path:
        rows = [*entries(count), *entries(count // 5), *entries(count // 5, first=2 * count, note="left out")]
        rules = [{"when": {"note": "left out"}, "filter": "left out"}]
        return world.write(name, rows, partition_rows=str(count), rules=rules)

    few, many = write("few", 1_000), write("many", 4_000)
    planned(world, few)  # what runs once per process
    assert_set_wise(lines_executed(lambda: planned(world, few)), lines_executed(lambda: planned(world, many)))
