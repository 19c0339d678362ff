"""Posting again what was rolled back: the same ledger, whichever way it was taken back, and nothing twice."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import cast

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger import checkpoints, reconciliation, registrations, rolled_back, status
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.stages.plan import make_plan
from backfill_pipeline.stages.plan_report import Plan
from backfill_pipeline_tests.stages.repair import fix
from backfill_pipeline_tests.stages.rolling_back import roll_back
from backfill_pipeline_tests.stages.world import FIELDS, HEADER, World, assert_same_ledger, entries, entry

OPENINGS = {"A": 0, "B": 1000, "C": 1000}


def checkpoint(world: World) -> tuple[str, int, int, int]:
    with connect(world.url) as connection:
        found = checkpoints.load(connection, "bank")
    assert found is not None
    return found.status, found.processed, found.successful, found.failed


def balances(world: World) -> dict[object, object]:
    return dict(world.query("SELECT id, trim_scale(balance)::text FROM bank_accounts ORDER BY id"))


def outcomes(world: World) -> list[str]:
    with connect(world.url) as connection:
        return [one.status for one in status.partition_outcomes(connection, _registration(world))]


def _registration(world: World) -> int:
    return cast(int, world.value("SELECT max(id) FROM backfill_registrations"))


def batch_ids(world: World, key: str) -> list[int]:
    rows = world.query(
        "SELECT b.id FROM backfill_batches b JOIN backfill_partitions p ON p.id = b.partition_id"
        " WHERE p.partition_key = %s ORDER BY b.first_row",
        key,
    )
    return [cast(int, row[0]) for row in rows]


def plan(world: World, path: Path) -> Plan:
    with connect(world.url) as connection:
        return make_plan(load_definition(path), connection, world.places)


def assert_matches(world: World, path: Path) -> None:
    report = world.reconcile(path)
    assert report.matches, (report.breaks, report.account_breaks)
    assert report.open_partitions == 0


def assert_nothing_left(world: World, path: Path) -> None:
    """Another run posts nothing, and finds every row where it is."""
    before = world.value("SELECT count(*) FROM ledger_entries")
    world.post(path)
    assert world.value("SELECT count(*) FROM ledger_entries") == before


@pytest.fixture
def bank(world: World) -> Path:
    """Thirty rows in three partitions, in batches of four: good ones, two that never reach posting, three refused."""
    rows = entries(30)
    rows[3] = entry(4, amount="1e3")
    rows[12] = entry(13, debit="NOBODY")
    rows[15] = entry(16, ref="R000015", amount="99.00")
    rows[16] = rows[14]
    rows[24] = entry(25, time="yesterday")
    return world.write("bank", rows, accounts=OPENINGS, max_error_rate="1", config={"batch_size": "4"})


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_a_source_is_posted_again_as_it_was(world: World, bank: Path, mode: str) -> None:
    world.post(bank)
    first, first_balances, first_point = world.snapshot(), balances(world), checkpoint(world)
    assert_matches(world, bank)
    roll_back(world, "bank", mode=mode)
    assert set(balances(world).values()) == {"0"}
    assert outcomes(world) == ["rolled back"] * 3
    assert checkpoint(world) == ("PAUSED", 0, 0, 0)
    world.post(bank)
    assert (balances(world), checkpoint(world)) == (first_balances, first_point)
    assert outcomes(world) == ["posted"] * 3
    if mode == "delete":
        assert_same_ledger(world.snapshot(), first)
    else:
        again = world.query(
            "SELECT ledger_id, regexp_replace(reference_id, '~2$', ''), debit_account_id, credit_account_id,"
            " amount::text, currency_code, asset_type, transaction_type, timestamp_utc, fx_rate::text, metadata::text,"
            " source_row FROM ledger_entries WHERE reference_id LIKE '%~2' ORDER BY 1, 2"
        )
        assert tuple(again) == first.entries
    assert_matches(world, bank)
    assert_nothing_left(world, bank)


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_a_plan_says_what_posting_again_does(world: World, bank: Path, mode: str) -> None:
    world.post(bank)
    counts = world.query(
        "SELECT posted, duplicates, conflicts, rejected FROM backfill_partition_outcomes ORDER BY 1, 2"
    )
    roll_back(world, "bank", partition="0002", mode=mode)
    planned = plan(world, bank)
    entries_before = cast(int, world.value("SELECT count(*) FROM ledger_entries"))
    assert [one.counts.posted for one in planned.partitions] == [0, 7, 0]
    world.post(bank)
    assert world.value("SELECT count(*) FROM ledger_entries") == entries_before + 7
    assert (
        world.query(
            "SELECT posted, duplicates, conflicts, rejected FROM backfill_partition_outcomes ORDER BY 1, 2"
        )
        == counts
    )


def test_reversed_and_posted_again_and_again(world: World, bank: Path) -> None:
    world.post(bank)
    balances_before = balances(world)
    for _ in range(3):
        roll_back(world, "bank", partition="0001", mode="reverse")
        world.post(bank)
        assert balances(world) == balances_before
        assert_matches(world, bank)
    assert_nothing_left(world, bank)
    references = [reference for (reference,) in world.query("SELECT reference_id FROM ledger_entries")]
    again = {"R000001", "R000001~reversed", "R000001~2", "R000001~2~reversed", "R000001~4"}
    assert again <= set(references)
    assert "R000011~2" not in references


@pytest.mark.parametrize(("place", "batch_size"), [(0, "3"), (1, "100"), (2, "3")])
def test_a_batch_leaves_a_gap_that_is_filled(world: World, bank: Path, place: int, batch_size: str) -> None:
    world.post(bank)
    first, point = world.snapshot(), checkpoint(world)
    batch = batch_ids(world, "0003")[place]
    ((low, high, count),) = world.query(
        "SELECT first_row, last_row, posted FROM backfill_batches WHERE id = %s", batch
    )
    roll_back(world, "bank", batch=batch, mode="delete")
    assert outcomes(world) == ["posted", "posted", "rolled back"]
    report = world.reconcile(bank)
    assert report.matches
    assert report.open_partitions == 1
    assert plan(world, bank).partitions[2].counts.posted == count
    world.post(bank, batch_size=batch_size)
    filled = world.query(
        "SELECT first_row, last_row FROM backfill_batches b WHERE posted_at > (SELECT max(rolled_back_at)"
        " FROM backfill_rollbacks) ORDER BY 1"
    )
    assert filled[0][0] == low
    assert filled[-1][1] == high
    assert len(filled) == (2 if batch_size == "3" and count == 4 else 1)
    assert_same_ledger(world.snapshot(), first)
    assert checkpoint(world) == point
    assert_matches(world, bank)
    assert_nothing_left(world, bank)


def test_a_batch_of_opening_balances_is_posted_again(world: World, bank: Path) -> None:
    world.post(bank)
    first = world.snapshot()
    opening = cast(int, world.value("SELECT id FROM backfill_batches WHERE kind = 'opening'"))
    roll_back(world, "bank", batch=opening, mode="delete")
    assert world.value("SELECT count(*) FROM ledger_entries WHERE transaction_type = 'OPENING_BALANCE'") == 0
    assert world.reconcile(bank).break_kinds == {"missing": 2}
    world.post(bank)
    assert_same_ledger(world.snapshot(), first)
    assert_matches(world, bank)


def test_a_source_that_is_rolled_back_as_a_whole_claims_nothing(world: World, bank: Path) -> None:
    world.post(bank)
    roll_back(world, "bank")
    report = world.reconcile(bank)
    assert report.matches
    assert (report.open_partitions, report.opening_entries_compared, report.entries_compared) == (3, 0, 0)


def test_a_verdict_about_what_was_taken_back_is_no_verdict_any_more(world: World, bank: Path) -> None:
    world.post(bank)
    world.reconcile(bank)
    with connect(world.url) as connection:
        assert reconciliation.latest(connection, _registration(world)) is not None
        roll_back(world, "bank", partition="0002")
        assert reconciliation.latest(connection, _registration(world)) is None
        world.post(bank)
        world.reconcile(bank)
        found = reconciliation.latest(connection, _registration(world))
    assert found is not None
    assert found.verdict == "match"


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_repaired_rows_are_rejects_again_and_can_be_repaired_again(
    world: World, bank: Path, mode: str
) -> None:
    world.post(bank)
    repairs: dict[int, dict[str, object]] = {
        4: {"amount": "5.00"},
        13: {"debit": "C"},
        25: {"time": "2024-01-01T00:25:00Z"},
    }
    fix(world, bank, repairs)
    first, first_balances, point = world.snapshot(), balances(world), checkpoint(world)
    assert_matches(world, bank)
    roll_back(world, "bank", mode=mode)
    assert world.value("SELECT count(*) FROM backfill_replays") == 0
    world.post(bank)
    assert world.value("SELECT count(*) FROM backfill_rejects_now WHERE state <> 'open'") == 0
    fix(world, bank, repairs)
    assert (balances(world), checkpoint(world)) == (first_balances, point)
    if mode == "delete":
        assert_same_ledger(world.snapshot(), first)
    assert_matches(world, bank)
    assert_nothing_left(world, bank)


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_a_replay_alone_leaves_its_partition_posted(world: World, bank: Path, mode: str) -> None:
    world.post(bank)
    point = checkpoint(world)
    fix(world, bank, {4: {"amount": "5.00"}})
    repaired, repaired_balances = checkpoint(world), balances(world)
    replay = cast(int, world.value("SELECT id FROM backfill_batches WHERE kind = 'replay'"))
    roll_back(world, "bank", batch=replay, mode=mode)
    assert outcomes(world) == ["posted"] * 3
    assert checkpoint(world)[1:] == point[1:]
    assert_matches(world, bank)
    fix(world, bank, {4: {"amount": "5.00"}})
    assert checkpoint(world)[1:] == repaired[1:]
    assert balances(world) == repaired_balances
    assert_matches(world, bank)


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_a_mapping_is_corrected_after_a_rollback(world: World, bank: Path, mode: str) -> None:
    """The reason for most rollbacks: the definition was wrong. Nothing of the first posting stands in the way."""
    world.post(bank)
    roll_back(world, "bank", mode=mode)
    text = bank.read_text(encoding="utf-8").replace("constant: TRANSFER", "constant: PAYMENT")
    bank.write_text(text, encoding="utf-8")
    world.post(bank)
    with connect(world.url) as connection:
        registration = registrations.load(connection, "bank")
    assert registration is not None
    assert registration.revision == 2
    again = "" if mode == "delete" else "~2"
    assert (
        world.value(
            "SELECT count(*)::int FROM ledger_entries WHERE transaction_type = 'PAYMENT' AND reference_id LIKE 'R%%' || %s",
            again,
        )
        == 25
    )
    assert (
        world.value(
            "SELECT coalesce(sum(conflicts), 0)::int FROM backfill_partition_outcomes WHERE revision = 2"
        )
        == 1
    )
    assert_matches(world, bank)
    assert_nothing_left(world, bank)


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_generated_references_are_the_same_again(world: World, mode: str) -> None:
    rows = [*entries(12), *entries(4)]  # four of them twice: two payments each
    path = world.write(
        "bank",
        rows,
        fields={**FIELDS, "reference_id": {"generate": True}},
    )
    world.post(path)
    first, first_balances = world.snapshot(), balances(world)
    roll_back(world, "bank", mode=mode)
    world.post(path)
    assert balances(world) == first_balances
    if mode == "delete":
        assert_same_ledger(world.snapshot(), first)
    assert_matches(world, path)
    assert_nothing_left(world, path)


def test_what_a_source_says_is_looked_for_under_its_current_reference(world: World, bank: Path) -> None:
    """The strategy's query for missing entries (§6.1): what is reversed is missing until it is posted again."""
    missing = (
        "SELECT s.reference_id FROM backfill_source_data s WHERE NOT EXISTS (SELECT FROM ledger_entries e"
        " WHERE e.ledger_id = s.ledger_id AND e.reference_id = s.reference_id) ORDER BY s.source_row"
    )
    world.post(bank)
    assert world.query(missing) == [("R000013",)]
    roll_back(world, "bank", partition="0001", mode="reverse")
    assert world.query(missing)[0] == ("R000001~2",)
    assert len(world.query(missing)) == 10
    world.post(bank)
    assert world.query(missing) == [("R000013",)]


def test_another_source_that_relied_on_reversed_entries_says_so(world: World, bank: Path) -> None:
    """Its rows were told duplicates. They would be missing without anybody noticing, if a reversed entry counted."""
    world.post(bank)
    with (world.folder / "sources" / "bank.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:4]
    other = world.write("other", rows, accounts=OPENINGS)
    world.post(other)
    assert_matches(world, other)
    roll_back(world, "bank", partition="0001", mode="reverse")
    report = world.reconcile(other)
    assert report.break_kinds["missing"] == 3
    # Rolling its own batch back as well lets it post them itself; the first source finds them there.
    roll_back(world, "other", partition="0001")
    world.post(other)
    assert world.reconcile(other).matches
    assert {"R000001~2", "R000003~2"} <= set(world.references())
    world.post(bank)
    assert_matches(world, bank)
    assert_matches(world, other)
    assert world.value("SELECT count(*)::int FROM ledger_entries WHERE reference_id LIKE 'R000001%%'") == 3


def test_balances_that_a_source_states_agree_again(world: World) -> None:
    """What was reversed, and what reverses it, stand between the source's own rows, and move nothing together."""
    rows, balance = [], 100
    for row in entries(25):
        balance += int(str(row[HEADER.index("amount")]).removesuffix(".00"))
        rows.append([*row, balance])
    path = world.write(
        "bank",
        rows,
        accounts={"A": 100, "B": 9000},
        header=(*HEADER, "balance"),
        stated_balances={"balance": "balance", "account": {"constant": "A"}},
    )
    world.post(path)
    roll_back(world, "bank", mode="reverse", at="now")
    world.post(path)
    stated = world.reconcile(path).stated
    assert stated is not None
    assert (stated.compared, stated.differing) == (25, 0), stated.sentence


def test_what_is_not_posted_again_is_told_by_rollback(world: World, bank: Path) -> None:
    world.post(bank)
    roll_back(world, "bank", partition="0001")
    roll_back(world, "bank", batch=batch_ids(world, "0003")[1], mode="reverse")
    with connect(world.url) as connection:
        first, second = rolled_back.all_open_rollbacks(connection)["bank"]
        assert (first.partitions, first.first, first.last, first.entries, first.mode) == (
            1,
            "0001",
            "0001",
            9,
            "delete",
        )
        assert first.sentence.startswith("rolled back by anna on 20")
        assert first.sentence.endswith("9 entries deleted: wrong export")
        assert (second.first, second.entries, second.mode) == ("0003", 4, "reverse")
        world.post(bank, keys=["0001"])
        (left,) = rolled_back.all_open_rollbacks(connection)["bank"]
        assert left == second
        world.post(bank)
        assert rolled_back.all_open_rollbacks(connection) == {}
