"""Repairing rejected legs, and looking at transactions before they are posted."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import SourceFileError, UsageError
from backfill_pipeline.ledger.replays import ReplayCounts
from backfill_pipeline.stages.preview import preview
from backfill_pipeline_tests.stages.repair import export, fix, repair, replay, rewrite
from backfill_pipeline_tests.stages.test_transactions import FIELDS, assert_accounted_for, define, legs, many
from backfill_pipeline_tests.stages.world import World


def test_repaired_rows_are_paired_and_counted_once(world: World) -> None:
    rows = [
        *legs("T1", ("A", "70.00"), ("B", "30.00"), ("C", "-100.01")),
        *legs("T2", ("A", "5.00"), ("B", "x"), ("C", "-5.00")),
        *legs("T3", ("A", "1.00"), ("B", "-1.00")),
    ]
    path = define(world, "legs", rows)
    world.post(path)
    assert world.references() == ["T3-1"]
    report = fix(world, path, {3: {"amount": "-100.00"}})
    assert report.counts == ReplayCounts(3, 2, 0, 0, 0, 1)
    assert (report.rows, report.unchanged) == (6, 3)
    reconciled = assert_accounted_for(world, path)
    assert (reconciled.posted, reconciled.rejected, reconciled.filtered) == (3, 3, 2)
    assert world.references() == ["T1-1", "T1-2", "T3-1"]
    again = fix(world, path, {5: {"amount": "-0.01"}})
    assert {refused.code for refused in again.refused} == {"transaction_unbalanced"}
    assert fix(world, path, {5: {"amount": "0.00"}}).counts == ReplayCounts(3, 1, 0, 0, 0, 2)
    reconciled = assert_accounted_for(world, path)
    assert (reconciled.posted, reconciled.rejected, reconciled.filtered) == (4, 0, 4)


def test_a_leg_that_finds_its_transaction_is_sent_with_it(world: World) -> None:
    stray = ("T1-2", "T?", "B", "-5.00", "USD", "2024-01-02T03:04:05Z", "")
    path = define(world, "legs", [*legs("T1", ("A", "5.00")), *legs("T2", ("A", "1"), ("B", "-1")), stray])
    world.post(path)
    report = fix(world, path, {4: {"txn": "T1"}})
    assert report.counts == ReplayCounts(2, 1, 0, 0, 0, 1)
    assert_accounted_for(world, path)


@pytest.mark.parametrize("generated", [False, True])
def test_what_was_sent_again_is_reconciled_with_its_references(world: World, generated: bool) -> None:
    rows = legs("T1", ("A", "2.00"), ("B", "-1.00"), ("B", "x"))
    reference: object = {"generate": "true"} if generated else "txn"
    section = {"id": "txn"} | ({} if generated else {"references": "numbered"})
    path = define(world, "legs", rows, fields=FIELDS | {"reference_id": reference}, transactions=section)
    world.post(path)
    assert fix(world, path, {3: {"amount": "-1.00"}}).counts == ReplayCounts(3, 2, 0, 0, 0, 1)
    assert_accounted_for(world, path)
    assert world.post(path)  # nothing changed: nothing is done
    assert world.value("SELECT count(*) FROM ledger_entries") == 2


def test_a_file_without_all_rows_of_a_transaction_is_refused(world: World) -> None:
    path = define(world, "legs", legs("T1", ("A", "70.00"), ("B", "30.00"), ("C", "-100.01")))
    world.post(path)
    file = repair(export(world, path), {3: {"amount": "-100.00"}})
    rewrite(file, lambda found: found[1:])
    with pytest.raises(UsageError, match="lacks row 1 of transaction 'T1', of which other rows are repaired"):
        replay(world, path, file)


def test_what_the_ledger_refused_is_not_paired_anew(world: World) -> None:
    path = define(world, "legs", legs("T1", ("A", "2.00"), ("B", "-1.50"), ("NOBODY", "-0.50")))
    world.post(path)
    assert [code for _, _, code, _ in world.rejects()] == ["unknown_account"]
    (row, *_), *_ = world.rejects()
    assert fix(world, path, {}).unchanged == 1
    with pytest.raises(UsageError, match="which the ledger refused by itself"):
        fix(world, path, {int(str(row)): {"account": "C"}})
    assert_accounted_for(world, path)


def test_an_entry_that_the_ledger_refuses_after_a_repair_stays_open(world: World) -> None:
    rows = legs("T1", ("A", "2.00"), ("B", "-1.50"), ("NOBODY", "-0.51"))
    path = define(world, "legs", rows)
    world.post(path)
    report = fix(world, path, {3: {"amount": "-0.50"}})
    assert report.counts == ReplayCounts(3, 1, 0, 0, 1, 1)
    reconciled = assert_accounted_for(world, path)
    assert (reconciled.posted, reconciled.rejected, reconciled.filtered) == (1, 1, 1)


# --- a look ahead -----------------------------------------------------------------------------------------------


def outcomes(path: Path, rows: int, from_line: int = 1) -> list[tuple[int, str]]:
    found = preview(load_definition(path), rows=rows, from_line=from_line)
    return [(row.row, row.outcome) for row in found.rows]


def test_a_preview_shows_no_transaction_cut_in_two(world: World) -> None:
    path = define(world, "legs", many(10))
    assert outcomes(path, 3) == [(1, "good"), (2, "filtered"), (3, "good"), (4, "filtered"), (5, "good")]
    assert outcomes(path, 2, from_line=4) == [(3, "good"), (4, "filtered"), (5, "good")]
    assert outcomes(path, 2, from_line=5)[0][0] == 6  # the one in the middle began before


def test_a_preview_finds_rows_that_lie_far_behind(world: World) -> None:
    rows = many(4_000)
    path = define(world, "legs", [*rows[0::2], *rows[1::2]])
    assert {outcome for _, outcome in outcomes(path, 10)} == {"good", "filtered"}


def test_a_preview_of_what_is_really_unbalanced_says_so(world: World) -> None:
    found = preview(load_definition(define(world, "legs", legs("T1", ("A", "1"), ("B", "-2")))), rows=5)
    assert found.rejected == {"transaction_unbalanced": 2}


def test_a_column_that_is_not_there_is_named(world: World) -> None:
    path = define(world, "legs", many(3), transactions={"id": "voucher"})
    with pytest.raises(SourceFileError, match=r"transactions\.id .*'voucher'"):
        preview(load_definition(path), rows=5)
    with pytest.raises(SourceFileError, match="'voucher'"):
        world.register(path)
