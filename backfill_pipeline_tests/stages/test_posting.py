"""What becomes of every row: posted once, a duplicate, a conflict or a reject, and nothing in between."""

from __future__ import annotations

import csv

import pytest

from backfill_pipeline.errors import TooManyRejectsError
from backfill_pipeline_tests.stages.world import FIELDS, World, entries, entry


def outcome(world: World) -> dict[str, int]:
    (row,) = world.query(
        "SELECT sum(read)::int, sum(posted)::int, sum(duplicates)::int, sum(conflicts)::int, sum(rejected)::int"
        " FROM backfill_partition_outcomes"
    )
    read, posted, duplicates, conflicts, rejected = (int(str(value)) for value in row)
    assert read == posted + duplicates + conflicts + rejected
    return {"posted": posted, "duplicates": duplicates, "conflicts": conflicts, "rejected": rejected}


def test_every_good_row_is_posted_once_and_balances_follow(world: World) -> None:
    source = world.write("s", entries(35), accounts={"A": 10, "B": 5000})
    world.post(source)
    moved = sum(number % 90 + 1 for number in range(1, 36))
    assert len(world.references()) == 35
    assert world.query(
        "SELECT id, balance::int, available_balance::int FROM bank_accounts WHERE id IN ('A', 'B')"
    ) == [
        ("A", 10 + moved, 10 + moved),
        ("B", 5000 - moved, 5000 - moved),
    ]
    assert world.reconcile(source).matches


def test_a_second_run_posts_nothing_and_the_equation_still_holds(world: World) -> None:
    source = world.write("s", [*entries(25), entry(3), entry(4, amount="999.00")], max_error_rate="0.5")
    world.post(source)
    before = world.snapshot()
    reports = world.post(source)
    assert all(report.already_posted for report in reports)
    assert world.snapshot() == before
    assert outcome(world) == {"posted": 25, "duplicates": 1, "conflicts": 1, "rejected": 0}
    assert world.reconcile(source).matches


def test_identical_repeats_are_duplicates_and_other_payloads_conflicts_wherever_they_stand(
    world: World,
) -> None:
    rows = [
        *entries(9),
        entry(2),  # in the same batch and partition
        *entries(9, first=10),
        entry(3),  # in another partition
        entry(4, amount="0.01"),
        entry(5, note="another note"),
        entry(6, time="2024-06-01T00:00:00Z"),
        entry(7, debit="B", credit="A"),
    ]
    source = world.write("s", rows, max_error_rate="0.9", config={"batch_size": "4"})
    world.post(source)
    assert outcome(world) == {"posted": 18, "duplicates": 2, "conflicts": 4, "rejected": 0}
    assert [(row, code) for row, _, code, _ in world.rejects()] == [(n, "conflict") for n in (21, 22, 23, 24)]
    assert world.value("SELECT amount::text FROM ledger_entries WHERE reference_id = 'R000004'") == "5.00"
    assert world.reconcile(source).matches


def test_another_way_of_writing_the_same_number_is_the_same_payload(world: World) -> None:
    source = world.write("s", [entry(1, amount="10.00"), entry(1, amount="10.0"), entry(1, amount="10")])
    world.post(source, skip_duplicates=True)
    assert outcome(world) == {"posted": 1, "duplicates": 2, "conflicts": 0, "rejected": 0}
    assert world.value("SELECT amount::text FROM ledger_entries") == "10.00"


def test_without_skip_duplicates_they_are_rejects_with_their_text(world: World) -> None:
    source = world.write(
        "s", [*entries(20), entry(3)], max_error_rate="1", config={"skip_duplicates": "false"}
    )
    world.post(source)
    assert outcome(world) == {"posted": 20, "duplicates": 0, "conflicts": 0, "rejected": 1}
    assert world.rejects() == [(21, "post", "duplicate_reference", "reference_id")]
    assert "R000003" in str(world.value("SELECT raw FROM backfill_rejects"))
    assert world.reconcile(source).matches


def test_a_run_may_overrule_what_the_source_file_says_about_duplicates(world: World) -> None:
    source = world.write("s", [*entries(20), entry(3)], config={"skip_duplicates": "false"})
    world.post(source, skip_duplicates=True)
    assert outcome(world)["duplicates"] == 1


def test_entries_of_another_source_are_duplicates_or_conflicts_and_never_posted_twice(world: World) -> None:
    world.post(world.write("first", entries(20)))
    second = world.write(
        "second", [*entries(5), entry(6, amount="77.00"), *entries(14, first=100)], max_error_rate="0.2"
    )
    world.post(second)
    (row,) = world.query(
        "SELECT sum(posted)::int, sum(duplicates)::int, sum(conflicts)::int FROM backfill_partition_outcomes"
        " WHERE source_id = 'second'"
    )
    assert row == (14, 5, 1)
    assert len(world.references()) == 34
    assert world.reconcile(second).matches


def test_the_same_reference_in_another_ledger_is_another_entry(world: World) -> None:
    world.post(world.write("first", entries(5)))
    other = world.write("second", entries(5))
    other.write_text(other.read_text().replace("constant: MASTER\n  debit", "constant: BRANCH\n  debit"))
    world.post(other)
    assert len(world.references()) == 10


def test_generated_references_keep_equal_payments_apart_and_survive_another_order(world: World) -> None:
    rows = [entry(1, ref=""), entry(2, ref=""), *[entry(3, ref="")] * 13, entry(4, ref="")]
    fields = {**FIELDS, "reference_id": {"generate": "true"}}
    source = world.write("s", rows, fields=fields, partition_rows="4")
    world.post(source)
    posted = world.references()
    assert len(posted) == len(set(posted)) == 16
    world.write_rows("s", rows[::-1])
    world.post(source)
    assert world.references() == posted
    assert world.reconcile(source).matches


# --- accounts -----------------------------------------------------------------------------------------------------


def test_an_unknown_account_rejects_its_row_alone(world: World) -> None:
    source = world.write("s", [*entries(199), entry(200, credit="NOBODY")], partition_rows="200")
    world.post(source)
    assert outcome(world) == {"posted": 199, "duplicates": 0, "conflicts": 0, "rejected": 1}
    assert world.rejects() == [(200, "post", "unknown_account", "credit_account_id")]
    assert world.reconcile(source).matches


def test_unknown_accounts_are_opened_when_the_source_says_so(world: World) -> None:
    source = world.write("s", [*entries(19), entry(20, credit="NOBODY")], unknown_accounts="create")
    world.post(source)
    assert world.query("SELECT currency_code, balance::int FROM bank_accounts WHERE id = 'NOBODY'") == [
        ("USD", -21)
    ]
    assert world.reconcile(source).matches


def test_a_wrong_account_map_posts_nothing_and_says_so(world: World) -> None:
    rows = [entry(number, debit=f"X{number}", credit=f"Y{number}") for number in range(1, 31)]
    source = world.write("s", rows)
    reports = world.run(source)
    assert [type(report.error) for report in reports] == [TooManyRejectsError] * 3
    assert "unknown account" in str(reports[0].error)
    assert "nothing of it was posted" in str(reports[0].error)
    assert world.references() == []
    assert world.value("SELECT count(*) FROM backfill_batches WHERE kind = 'entries'") == 0


def test_accounts_of_another_currency_everywhere_post_nothing_and_say_so(world: World) -> None:
    source = world.write("s", entries(30, currency="EUR"))
    reports = world.run(source)
    assert [type(report.error) for report in reports] == [TooManyRejectsError] * 3
    assert world.references() == []
    assert world.value("SELECT count(*) FROM backfill_batches WHERE kind = 'entries'") == 0


def test_rows_that_only_the_ledger_refuses_count_as_rejects_too_whenever_they_come(world: World) -> None:
    source = world.write("s", [*entries(20), *entries(20, first=21, currency="EUR")], partition_rows="40")
    (report,) = world.run(source, batch_size=10)
    assert isinstance(report.error, TooManyRejectsError)
    assert "only the batches before these were posted" in str(report.error)
    assert "row 21 is in EUR" in str(report.error)
    assert world.references() == [f"R{number:06d}" for number in range(1, 21)]
    (again,) = world.run(source, batch_size=10)
    assert isinstance(again.error, TooManyRejectsError)
    assert len(world.references()) == 20


# --- a poisoned partition -----------------------------------------------------------------------------------------


def poisoned_rows() -> list[list[object]]:
    rows = entries(60)
    rows[21] = entry(22, amount="much")
    rows[24] = entry(25, time="yesterday")
    return rows


@pytest.mark.parametrize("workers", [1, 3])
def test_a_poisoned_partition_posts_nothing_and_the_others_everything(world: World, workers: int) -> None:
    source = world.write("s", poisoned_rows())
    reports = world.run(source, parallel_workers=workers)
    assert [report.key for report in reports if report.error] == ["0003"]
    assert isinstance(reports[2].error, TooManyRejectsError)
    assert "0003" in str(reports[2].error)
    assert "line 23" in str(reports[2].error)
    references = world.references()
    assert len(references) == 50
    assert not [reference for reference in references if "R000020" < str(reference) <= "R000030"]
    statuses = dict(world.query("SELECT partition_key, status FROM backfill_partition_outcomes"))
    assert statuses.pop("0003") == "failed"
    assert set(statuses.values()) == {"posted"}
    checkpoint = world.query("SELECT status, error_message FROM ledger_backfill_checkpoints")
    assert checkpoint[0][0] == "FAILED"
    assert "0003" in str(checkpoint[0][1])


def test_a_poisoned_partition_still_reports_the_stages_that_it_went_through(world: World) -> None:
    reports = world.run(world.write("s", poisoned_rows()))
    assert [stage.stage for stage in reports[2].stages] == ["extracted", "transformed"]


def test_raising_the_error_rate_finishes_a_poisoned_partition(world: World) -> None:
    source = world.write("s", poisoned_rows())
    world.run(source)
    source.write_text(source.read_text() + "max_error_rate: 0.2\n")
    reports = world.post(source)
    assert [report.already_posted for report in reports] == [True, True, False, True, True, True]
    assert outcome(world) == {"posted": 58, "duplicates": 0, "conflicts": 0, "rejected": 2}
    assert world.reconcile(source).matches
    assert world.query("SELECT status, total_processed::int FROM ledger_backfill_checkpoints") == [
        ("COMPLETED", 60)
    ]


def test_a_repaired_file_is_a_new_revision_that_posts_only_what_is_missing(world: World) -> None:
    source = world.write("s", poisoned_rows())
    world.run(source)
    world.write_rows("s", entries(60))
    world.post(source, accept_changed=True)
    (row,) = world.query(
        "SELECT sum(posted)::int, sum(duplicates)::int FROM backfill_partition_outcomes WHERE revision = 2"
    )
    assert row == (10, 50)
    assert world.references() == [f"R{number:06d}" for number in range(1, 61)]
    assert world.reconcile(source).matches


# --- the order of work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 1000])
def test_the_size_of_batches_changes_nothing(world: World, batch_size: int) -> None:
    rows = [
        *entries(12),
        entry(3),
        entry(4, amount="0.01"),
        entry(13, credit="NOBODY"),
        *entries(9, first=14),
    ]
    source = world.write("s", rows, max_error_rate="0.5")
    world.post(source, batch_size=batch_size)
    assert outcome(world) == {"posted": 21, "duplicates": 1, "conflicts": 1, "rejected": 1}
    assert world.reconcile(source).matches


def test_partitions_posted_in_any_order_give_the_same_ledger(world: World) -> None:
    source = world.write("s", entries(40), accounts={"A": 5, "B": 4000})
    for key in ("0003", "0001", "0004", "0002"):
        world.post(source, keys=[key])
    assert len(world.references()) == 40
    assert world.value("SELECT status FROM ledger_backfill_checkpoints") == "COMPLETED"
    assert world.reconcile(source).matches


def test_a_batch_that_grows_between_two_tries_posts_nothing_twice(world: World) -> None:
    source = world.write("s", entries(30), partition_rows="30")
    world.post(source, batch_size=7)
    world.query("DELETE FROM ledger_entries WHERE batch_id = (SELECT max(id) FROM backfill_batches)")
    world.query("DELETE FROM backfill_batches WHERE id = (SELECT max(id) FROM backfill_batches)")
    world.query(
        "UPDATE backfill_partitions SET posted_at = NULL"
    )  # as a crash before the last batch leaves it
    assert len(world.references()) == 28
    world.post(source, batch_size=50)
    assert world.references() == [f"R{number:06d}" for number in range(1, 31)]
    assert world.reconcile(source).matches


def test_the_reject_file_holds_what_validation_and_what_posting_refused(world: World) -> None:
    rows = [*entries(8), entry(3, amount="999.00"), entry(10, amount="=1+1"), entry(11, debit="NOBODY")]
    world.post(world.write("s", rows, max_error_rate="0.9", partition_rows=20))
    with (world.places.rejects_dir / "s" / "0001.csv").open(newline="", encoding="utf-8") as file:
        found = {row["row"]: row["code"] for row in csv.DictReader(file)}
    assert found == {"9": "conflict", "10": "amount_malformed", "11": "unknown_account"}
