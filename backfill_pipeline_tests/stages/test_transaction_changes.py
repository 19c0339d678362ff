"""A transaction that is posted and changes in a later export stays as it is posted, whatever its rows carry now.

With `references: row` nothing of a new pairing need be in the ledger: what tells that the transaction is there is a row
that carried an entry and carries none now.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import astuple
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from backfill_pipeline.ledger.replays import ReplayCounts
from backfill_pipeline.stages.prepare import PartitionFrames
from backfill_pipeline_tests.stages.planning import assert_planned_and_run_agree, planned
from backfill_pipeline_tests.stages.repair import fix
from backfill_pipeline_tests.stages.test_set_wise import assert_set_wise, lines_executed
from backfill_pipeline_tests.stages.test_transactions import (
    FIELDS,
    HEADER,
    Row,
    assert_accounted_for,
    balances,
    define,
    legs,
    many,
)
from backfill_pipeline_tests.stages.world import World

POSTED = legs("T1", ("A", "10.00"), ("B", "-10.00"))  # carried by T1-1
OTHER = legs("T2", ("A", "1.00"), ("C", "-1.00"))

# Ways for T1-1 to carry nothing in an export that still balances, in which all that is carried is new.
CHANGES: dict[str, list[Row]] = {
    # Rebooked inside the transaction: T1-1 meets a credit of its own account.
    "offset": [*POSTED, *legs("T1", ("B", "0"), ("C", "0"), ("A", "-10.00"), ("C", "10.00"))[2:]],
    # Corrected to nothing, and entered anew.
    "zero": [("T1-1", "T1", "A", "0.00", *POSTED[0][4:]), POSTED[1], ("T1-3", "T1", "A", "10.00", *POSTED[0][4:])],
    # Marked as void, and entered anew.
    "filtered": [(*POSTED[0][:6], "void"), POSTED[1], ("T1-3", "T1", "A", "10.00", *POSTED[0][4:])],
    # On the other side now, where rows of equal amounts carry nothing.
    "paired": [
        ("T1-1", "T1", "A", "-10.00", *POSTED[0][4:]),
        ("T1-2", "T1", "B", "0.00", *POSTED[1][4:]),
        ("T1-3", "T1", "C", "10.00", *POSTED[0][4:]),
    ],
}  # fmt: skip
VOID = [{"when": {"note": "void"}, "filter": "void"}]


def reasons(world: World) -> list[tuple[object, ...]]:
    return world.query(
        "SELECT source_row, code, reason FROM backfill_rejects x JOIN backfill_partitions p ON p.id = x.partition_id"
        " WHERE p.registration_id = (SELECT max(id) FROM backfill_registrations) ORDER BY source_row"
    )


@pytest.mark.parametrize(("known", "batch_size"), [(False, 1000), (True, 1), (True, 1000)])
@pytest.mark.parametrize("change", CHANGES)
def test_it_stays_as_it_is_posted(world: World, change: str, known: bool, batch_size: int) -> None:
    """Whether the batch holds nothing that the ledger has, or duplicates beside it."""
    path = define(world, "legs", [*POSTED, *OTHER], rules=VOID)
    world.post(path)
    before = world.query("SELECT * FROM ledger_entries ORDER BY id"), balances(world)
    world.write_rows("legs", [*CHANGES[change], *(OTHER if known else ())], header=HEADER)
    plan = planned(world, path)
    world.post(path, batch_size=batch_size)
    assert (world.query("SELECT * FROM ledger_entries ORDER BY id"), balances(world)) == before
    assert reasons(world) == [
        (row, "conflict", "row 1 of its transaction is an entry of the ledger, and carries none now")
        for row, _, _ in reasons(world)
    ]
    report = assert_accounted_for(world, path)
    assert (report.posted, report.conflicts, report.rejected) == (0, 1, 0)
    counts = report.posted, report.duplicates, report.conflicts, report.rejected, report.filtered
    assert (report.read, *counts) == astuple(plan.counts)


def test_all_that_it_would_carry_is_a_conflict_and_the_rest_is_posted(world: World) -> None:
    path = define(world, "legs", [*POSTED, *OTHER])
    world.post(path)
    more = legs("T1", ("A", "0"), ("B", "0"), ("A", "-10.00"), ("C", "7.00"), ("C", "3.00"))[2:]
    new = legs("T3", ("A", "2.00"), ("B", "-2.00"))
    world.write_rows("legs", [*POSTED, *more, *OTHER, *new], header=HEADER)
    assert_planned_and_run_agree(world, path)
    assert world.references() == ["T1-1", "T2-1", "T3-1"]
    assert [code for _, code, _ in reasons(world)] == ["conflict"] * 2
    again = assert_accounted_for(world, path)
    assert (again.posted, again.duplicates, again.conflicts) == (1, 1, 2)


def test_an_entry_that_is_as_it_was_stays_a_duplicate(world: World) -> None:
    """Of T1, one entry is as it is posted, one is new, and one is there of which no row carries anything now."""
    path = define(world, "legs", legs("T1", ("A", "100.00"), ("B", "-60.00"), ("C", "-40.00")))
    world.post(path)
    assert world.references() == ["T1-1", "T1-2"]
    grown = legs(
        "T1",
        ("A", "100.00"),
        ("B", "-60.00"),
        ("C", "-40.00"),
        ("A", "160.00"),
        ("B", "-100.00"),
        ("C", "-60.00"),
    )
    world.write_rows("legs", grown, header=HEADER)
    assert_planned_and_run_agree(world, path)
    assert world.references() == ["T1-1", "T1-2"]
    report = assert_accounted_for(world, path)
    assert (report.posted, report.duplicates, report.conflicts) == (0, 1, 3)


def test_more_rows_that_leave_what_is_posted_as_it_is_are_posted(world: World) -> None:
    path = define(world, "legs", [*POSTED, *OTHER])
    world.post(path)
    more = legs("T1", ("A", "0"), ("B", "0"), ("A", "4.00"), ("B", "-4.00"))[2:]
    world.write_rows("legs", [*POSTED, *more, *OTHER], header=HEADER)
    assert_planned_and_run_agree(world, path)
    assert world.references() == ["T1-1", "T1-3", "T2-1"]
    assert_accounted_for(world, path)


def test_an_export_that_is_read_again_is_duplicates(world: World) -> None:
    rows = [
        *many(30),
        *legs("E", ("A", "10.00"), ("B", "-5.00"), ("B", "-5.00"), ("A", "3.00"), ("A", "-3.00")),
    ]
    path = define(world, "legs", rows, partition_rows="11")
    world.post(path)
    shuffled = [*rows, *legs("NEW", ("A", "1.00"), ("B", "-1.00"))]
    random.Random(4).shuffle(shuffled)
    world.write_rows("legs", shuffled, header=HEADER)
    world.post(path, batch_size=7)
    report = assert_accounted_for(world, path)
    assert (report.posted, report.conflicts, report.rejected) == (1, 0, 0)


@pytest.mark.parametrize("batch_size", [1, 1000])
def test_rows_that_share_a_reference_are_no_sign_of_a_change(world: World, batch_size: int) -> None:
    """Both legs of a transaction are called the same, and a leg that carries nothing as an entry of another one."""
    time = "2024-01-02T03:04:05Z"

    def transaction(number: int, credit: str) -> list[Row]:
        return [
            (f"R{number}", f"T{number}", "A", "5.00", "USD", time, ""),
            (credit, f"T{number}", "B", "-5.00", "USD", time, ""),
        ]

    rows = [*transaction(1, "R1"), *transaction(2, "R3"), *transaction(3, "R2"), *transaction(4, "R1")]
    path = define(world, "legs", rows, partition_rows="3")
    for posted, duplicates in ((4, 0), (1, 4)):
        world.post(path, batch_size=batch_size)
        report = assert_accounted_for(world, path)
        assert (report.posted, report.duplicates, report.conflicts) == (posted, duplicates, 0)
        world.write_rows("legs", [*transaction(5, "R5"), *rows], header=HEADER)


def test_whoever_posted_it(world: World) -> None:
    """The same export under another id, and a row that a person posted."""
    world.post(define(world, "one", POSTED))
    world.query(
        "SELECT post_ledger_entry('MASTER', 'A', 'C', 1.00, 'USD', 'fiat', 'LIVE', 'T2-1', NULL, '{}', now())"
    )
    changed = [
        *CHANGES["offset"],
        *[(*row[:1], "T2", *row[2:]) for row in legs("T2", ("A", "0.00"), ("C", "-1.00"), ("B", "1.00"))],
    ]
    path = define(world, "other", changed)
    assert_planned_and_run_agree(world, path)
    assert world.references() == ["T1-1", "T2-1"]
    assert [code for _, code, _ in reasons(world)] == ["conflict"] * 2


@pytest.mark.parametrize("columns", [{}, {"columns": ["txn", "account", "amount", "note"]}])
def test_generated_references(world: World, columns: dict[str, object]) -> None:
    settings: dict[str, Any] = {"fields": FIELDS | {"reference_id": {"generate": "true"} | columns}}
    path = define(world, "legs", [*POSTED, *OTHER], **settings)
    world.post(path)
    before = world.references()
    world.write_rows("legs", [*CHANGES["offset"], *OTHER], header=HEADER)
    assert_planned_and_run_agree(world, path)
    assert world.references() == before
    assert assert_accounted_for(world, path).conflicts == 1


def test_repaired_rows_are_not_posted_beside_it(world: World) -> None:
    path = define(world, "legs", [*POSTED, *OTHER])
    world.post(path)
    broken = [*CHANGES["offset"][:3], ("T1-4", "T1", "C", "x", *POSTED[0][4:])]
    world.write_rows("legs", [*broken, *OTHER], header=HEADER)
    world.post(path)
    report = fix(world, path, {4: {"amount": "10.00"}})
    assert report.counts == ReplayCounts(4, 0, 0, 1, 0, 3)
    assert [refused.code for refused in report.refused] == ["conflict"]
    assert world.references() == ["T1-1", "T2-1"]
    assert_accounted_for(world, path)


def test_repaired_rows_of_which_one_is_a_conflict_are_not_posted_in_part(world: World) -> None:
    path = define(world, "legs", POSTED)
    world.post(path)
    world.write_rows("legs", legs("T1", ("A", "9.00"), ("B", "-11.00"), ("C", "x")), header=HEADER)
    world.post(path)
    report = fix(world, path, {3: {"amount": "2.00"}})
    assert report.counts == ReplayCounts(3, 0, 0, 1, 1, 1)
    assert {refused.code for refused in report.refused} == {"conflict", "transaction_incomplete"}
    assert world.references() == ["T1-1"]
    assert_accounted_for(world, path)


def test_a_row_that_repeats_one_that_is_not_posted_is_no_duplicate(world: World) -> None:
    """T2 repeats an entry of T1, which is in the ledger in another form; so the repeated entry is nowhere."""
    time = "2024-01-02T03:04:05Z"
    path = define(world, "legs", POSTED)
    world.post(path)
    repeated = [("X", "T1", "C", "3.00", "USD", time, ""), ("Y", "T1", "B", "-3.00", "USD", time, "")]
    rows = [
        *legs("T1", ("A", "11.00"), ("B", "-11.00")),
        *repeated,
        *[(a, "T2", *rest) for a, _, *rest in repeated],
    ]
    world.write_rows("legs", rows, header=HEADER)
    assert_planned_and_run_agree(world, path)
    assert world.references() == ["T1-1"]
    assert [(row, code) for row, code, _ in reasons(world)] == [
        (1, "conflict"), (3, "transaction_incomplete"), (5, "transaction_incomplete"),
    ]  # fmt: skip
    report = assert_accounted_for(world, path)
    assert (report.duplicates, report.conflicts, report.rejected) == (0, 1, 2)


@pytest.mark.parametrize("references", ["row", "numbered"])
@pytest.mark.parametrize("seed", range(6))
def test_the_ledger_has_it_as_it_was_or_as_it_is(world: World, seed: int, references: str) -> None:
    """Never a mixture: what each account has of each transaction is what one of the two exports says."""
    dice = random.Random(seed)
    amounts: dict[str, list[tuple[str, int]]] = {}
    for number in range(12):
        drawn = [(dice.choice("ABCD"), dice.choice([5, 10, 20]) * dice.choice([-1, 1])) for _ in range(3)]
        amounts[f"T{number}"] = [*drawn, (dice.choice("ABCD"), -sum(value for _, value in drawn))]
    grown = {name: list(old) for name, old in amounts.items()}
    for name in dice.sample(sorted(grown), 8):
        value = dice.choice([5, 10, 20])
        grown[name] += [(dice.choice("0ABCDZ"), value), (dice.choice("0ABCDZ"), -value)]
    fields = FIELDS | {"reference_id": "ref" if references == "row" else "txn"}
    path = define(
        world, "legs", [], fields=fields, transactions={"id": "txn", "references": references},
        accounts=(), unknown_accounts="create", partition_rows=str(dice.randint(1, 40)),
    )  # fmt: skip
    for export in (amounts, grown):
        rows = [row for name, lines in export.items() for row in legs(name, *((a, str(v)) for a, v in lines))]
        dice.shuffle(rows)
        world.write_rows("legs", rows, header=HEADER)
        plan = planned(world, path)
        world.post(path, batch_size=dice.choice([1, 3, 1000]))
        report = assert_accounted_for(world, path)
        assert (report.posted, report.conflicts) == (plan.counts.posted, plan.counts.conflicts)
    moved: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for reference, debit, credit, amount in world.query(
        "SELECT reference_id, debit_account_id, credit_account_id, amount FROM ledger_entries"
    ):
        name = str(reference).replace("/", "-").split("-")[0]
        moved[name][str(debit)] += Decimal(str(amount))
        moved[name][str(credit)] -= Decimal(str(amount))
    for name in amounts:
        there = {account: value for account, value in moved[name].items() if value}
        assert there in (_sums(amounts[name]), _sums(grown[name])), name


def _sums(lines: list[tuple[str, int]]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for account, value in lines:
        sums[account] += value
    return {account: value for account, value in sums.items() if value}


def test_the_rows_of_a_ledger_that_holds_nothing_else_are_not_looked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: PartitionFrames) -> None:
        raise AssertionError("rows were looked for that nobody can have posted")

    monkeypatch.setattr(PartitionFrames, "left_over", fail)
    path = define(world, "legs", many(20), accounts={"A": 5})
    world.post(path)
    assert_accounted_for(world, path)


def test_no_work_per_row_in_python(world: World) -> None:
    def write(name: str, count: int) -> Path:
        rows = [(f"{name}{ref}", f"{name}{txn}", *rest) for ref, txn, *rest in many(count)]
        return define(world, name, rows, partition_rows=str(2 * count))

    world.post(write("before", 5))
    world.post(write("warm", 30))
    few, more = write("few", 400), write("more", 1_600)
    assert_set_wise(lines_executed(lambda: world.post(few)), lines_executed(lambda: world.post(more)))
    assert len(world.references()) == len({*world.references()}) > 2_000
