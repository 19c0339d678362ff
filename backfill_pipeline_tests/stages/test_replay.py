"""Replaying rejects: each repaired row is posted once, counted once, and compared with what was sent."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from backfill_pipeline.errors import SourceChangedError, UsageError
from backfill_pipeline.ledger import checkpoints, constraints, replays, status
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.repair import export, fix, repair, replay, rewrite, rows_of
from backfill_pipeline_tests.stages.test_set_wise import assert_set_wise, lines_executed
from backfill_pipeline_tests.stages.world import World, assert_same_ledger, entries, entry

_COUNTS = ("read", "posted", "duplicates", "conflicts", "rejected", "filtered")


def counts(world: World) -> tuple[int, ...]:
    """The source's count equation, which must hold, with every open reject kept."""
    rows = world.query(f"SELECT {', '.join(_COUNTS)}, rejects_recorded FROM backfill_partition_outcomes")
    for read, *parts, recorded in rows:
        assert read == sum(parts)
        assert recorded == parts[2] + parts[3]
    return tuple(sum(row[place] for row in rows) for place in range(len(_COUNTS)))


def checkpoint(world: World) -> tuple[str, int, int, int]:
    with connect(world.url) as connection:
        found = checkpoints.load(connection, "bank")
    assert found is not None
    return found.status, found.processed, found.successful, found.failed


@pytest.fixture
def source(world: World) -> Path:
    """Thirty rows in three partitions; five rejects of several stages, and a conflict."""
    rows = entries(30)
    rows[3] = entry(4, amount="1e3")
    rows[6] = entry(7, amount="-12.50")
    rows[12] = [*entry(13), "stray"]
    rows[15] = entry(16, debit="NOBODY")
    rows[22] = entry(23, ref="R000022", amount="99.00")
    rows[28] = entry(29, time="yesterday")
    path = world.write("bank", rows, max_error_rate="1")
    world.post(path)
    assert counts(world) == (30, 24, 0, 1, 5, 0)
    return path


ALL_REPAIRED: dict[int, dict[str, object]] = {
    4: {"amount": "5.00"},
    7: {"amount": "12.50"},
    13: dict(zip(("ref", "debit", "credit", "amount", "currency", "time", "note"), entry(13), strict=True)),
    16: {"debit": "C"},
    23: {"ref": "R000023"},
    29: {"time": "2024-01-01T00:29:00Z"},
}


def test_repaired_rows_move_from_rejected_to_posted_everywhere(world: World, source: Path) -> None:
    report = fix(world, source, {4: {"amount": "5.00"}, 29: {"time": "2024-01-01T00:29:00Z"}})
    # The unknown account is tried again as it is: somebody might have opened it.
    assert (report.rows, report.unchanged, report.already_replayed) == (6, 3, 0)
    assert report.counts == replays.ReplayCounts(3, 2, 0, 0, 1, 0)
    assert counts(world) == (30, 26, 0, 1, 3, 0)
    assert checkpoint(world) == ("COMPLETED", 30, 26, 4)
    assert world.query(
        "SELECT source_row, amount::text FROM ledger_entries WHERE reference_id = 'R000004'"
    ) == [(4, "5.00")]
    reconciled = world.reconcile(source)
    assert reconciled.matches, reconciled.breaks
    assert reconciled.entries_compared == 26
    with connect(world.url) as connection:
        run = status.run_counts(connection, 1, ["0001", "0002", "0003"], ["another run"])
    assert (run.read, run.posted, run.duplicates, run.rejected) == (30, 0, 26, 3)


def test_everything_repaired_is_the_ledger_of_a_source_that_was_right(world: World, source: Path) -> None:
    report = fix(world, source, ALL_REPAIRED)
    assert report.counts == replays.ReplayCounts(6, 6, 0, 0, 0, 0)
    assert counts(world) == (30, 30, 0, 0, 0, 0)
    assert checkpoint(world) == ("COMPLETED", 30, 30, 0)
    assert world.reconcile(source).matches
    assert not rows_of_export(world, source)


def rows_of_export(world: World, source: Path) -> list[dict[str, str]]:
    return rows_of(export(world, source))


def test_the_same_file_again_posts_nothing_and_other_values_are_refused(world: World, source: Path) -> None:
    file = repair(export(world, source), ALL_REPAIRED)
    replay(world, source, file)
    before = world.snapshot()
    again = replay(world, source, file)
    assert (again.rows, again.already_replayed, again.counts.read) == (6, 6, 0)
    assert_same_ledger(world.snapshot(), before)
    repair(file, {4: {"amount": "6.00"}})
    with pytest.raises(UsageError, match=r"record 1 is row 4, which was replayed already with other values"):
        replay(world, source, file)
    assert_same_ledger(world.snapshot(), before)


def test_a_row_that_is_rejected_again_has_its_new_reason_and_counts_once(world: World, source: Path) -> None:
    report = fix(world, source, {4: {"amount": "0"}})
    assert (report.refused[0].source_row, report.refused[0].code) == (4, "amount_not_positive")
    assert counts(world) == (30, 24, 0, 1, 5, 0)
    assert world.reconcile(source).matches
    # The next export holds what was sent, with the new reason; the raw text stays the source's.
    row = rows_of_export(world, source)[0]
    assert (row["amount"], row["reject.code"]) == ("0", "amount_not_positive")
    assert "1e3" in row["reject.raw"]
    assert fix(world, source, {4: {"amount": "5.00"}}).counts.posted == 1
    assert world.query("SELECT outcome FROM backfill_replays WHERE source_row = 4 ORDER BY id") == [
        ("rejected",),
        ("posted",),
    ]


def test_a_repaired_row_may_turn_out_to_be_there_or_to_conflict(world: World, source: Path) -> None:
    twin = dict(zip(("ref", "debit", "credit", "amount", "currency", "time", "note"), entry(1), strict=True))
    report = fix(world, source, {4: twin, 7: {"ref": "R000002", "amount": "50.00"}})
    assert (report.counts.duplicates, report.counts.conflicts) == (1, 1)
    assert counts(world) == (30, 24, 1, 2, 3, 0)
    assert world.reconcile(source).matches


def test_without_skip_duplicates_a_repaired_row_that_is_there_stays_rejected(world: World) -> None:
    path = world.write(
        "bank", [entry(1), entry(2, amount="x")], max_error_rate="1", config={"skip_duplicates": "false"}
    )
    world.post(path)
    report = fix(
        world, path, {2: {"ref": "R000001", "amount": entry(1)[3], "time": entry(1)[5], "note": "note 1"}}
    )
    assert [one.code for one in report.refused] == ["duplicate_reference"]
    assert counts(world) == (2, 1, 0, 0, 1, 0)
    assert world.reconcile(path).matches


def test_a_repaired_row_that_a_rule_filters_counts_as_filtered(world: World) -> None:
    rules = [
        {"when": {"note": "pending"}, "filter": "not booked yet"},
        {"when": {"note": "test"}, "filter": "a test"},
    ]
    rows = [entry(1), *(entry(number, amount="x") for number in (2, 3, 4)), entry(5, note="pending")]
    path = world.write("bank", rows, max_error_rate="1", rules=rules)
    world.post(path)
    assert fix(world, path, {2: {"note": "pending"}}).counts == replays.ReplayCounts(1, 0, 0, 0, 0, 1)
    assert counts(world) == (5, 1, 0, 0, 2, 2)
    assert checkpoint(world) == ("COMPLETED", 5, 1, 2)
    by_reason = "SELECT filtered_by_reason FROM backfill_partitions"
    assert world.value(by_reason) == {"not booked yet": 2}
    fix(world, path, {3: {"note": "pending"}, 4: {"note": "test"}})
    assert world.value(by_reason) == {"not booked yet": 3, "a test": 1}
    world.run(path, selected=STAGES[2:3])  # validated once more, by hand
    assert world.value(by_reason) == {"not booked yet": 3, "a test": 1}
    assert counts(world) == (5, 1, 0, 0, 0, 4)
    assert world.reconcile(path).matches


def test_rows_may_be_deleted_from_the_file(world: World, source: Path) -> None:
    file = rewrite(export(world, source), lambda rows: [rows[5] | {"time": "2024-01-01T00:29:00Z"}])
    assert replay(world, source, file).counts == replays.ReplayCounts(1, 1, 0, 0, 0, 0)
    report = replay(world, source, rewrite(file, lambda rows: []))
    assert (report.rows, report.counts.read) == (0, 0)


def test_an_account_that_was_opened_since_lets_a_row_through_as_it_is(world: World, source: Path) -> None:
    world.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('NOBODY', 'USD')")
    assert fix(world, source, {}).counts == replays.ReplayCounts(1, 1, 0, 0, 0, 0)
    assert world.reconcile(source).matches


def test_balance_constraints_hold_for_repaired_rows_too(world: World) -> None:
    rows = [entry(1, debit="B", credit="A", amount="1e3"), entry(2, debit="B", credit="A", amount="40.00")]
    path = world.write("bank", rows, accounts={"A": 100, "B": 0}, max_error_rate="1")
    world.post(path)
    with connect(world.url) as connection:
        world.query("UPDATE bank_accounts SET normal_side = 'credit' WHERE id LIKE 'OPENING%'")
        assert constraints.apply(connection).state == "applied"
    refused = fix(world, path, {1: {"amount": "60.01"}})
    assert [one.code for one in refused.refused] == ["balance_constraint"]
    assert fix(world, path, {1: {"amount": "60.00"}}).counts.posted == 1
    assert world.value("SELECT balance::text FROM bank_accounts WHERE id = 'A'") == "0.00"
    assert world.reconcile(path).matches


class TestWhatIsRefused:
    """In one sentence, and nothing of the file is posted."""

    @pytest.mark.parametrize(
        ("column", "value", "sentence"),
        [
            ("reject.source", "other", "is a reject of source other, not of bank"),
            ("reject.revision", "2", "is of revision 2 of bank, which is at revision 1 now"),
            ("reject.revision", "two", "no number"),
            ("reject.row", "5", "which is no reject of bank"),
            ("reject.row", "7", "is row 7 once more"),
            ("reject.identity", "0", "is not what was exported as row 4"),
        ],
    )
    def test_a_row_whose_identity_was_edited(
        self, world: World, source: Path, column: str, value: str, sentence: str
    ) -> None:
        file = repair(export(world, source), {**ALL_REPAIRED, 4: {column: value}})
        with pytest.raises(UsageError, match=sentence):
            replay(world, source, file)
        assert counts(world) == (30, 24, 0, 1, 5, 0)

    def test_a_row_under_another_one_s_number(self, world: World, source: Path) -> None:
        file = rewrite(
            export(world, source), lambda rows: [rows[0] | {"reject.identity": rows[1]["reject.identity"]}]
        )
        with pytest.raises(UsageError, match="is not what was exported as row 4"):
            replay(world, source, file)

    def test_a_source_that_changed_and_an_older_revision(self, world: World, source: Path) -> None:
        file = repair(export(world, source), ALL_REPAIRED)
        world.write_rows("bank", entries(31))
        with pytest.raises(SourceChangedError, match="changed since it was registered"):
            replay(world, source, file)
        world.post(source)
        with pytest.raises(UsageError, match="revision 1 of bank, which is at revision 2 now: export"):
            replay(world, source, file)

    def test_a_partition_that_is_not_posted(self, world: World) -> None:
        path = world.write("bank", [entry(1, amount="x"), *entries(9, first=2)], max_error_rate="1")
        world.run(path, selected=("extracted", "transformed", "validated"))
        with pytest.raises(
            UsageError, match="partition 0001 of bank is not posted yet: backfill resume bank"
        ):
            fix(world, path, {1: {"amount": "1.00"}})


class TestReconciliation:
    def test_finds_an_entry_that_is_not_what_was_sent(self, world: World, source: Path) -> None:
        fix(world, source, ALL_REPAIRED)
        world.tamper("UPDATE ledger_entries SET metadata = '{}' WHERE source_row = 4")
        (found,) = world.reconcile(source).breaks
        assert (found.kind, found.source_row, found.field) == ("different", 4, "metadata")

    def test_finds_that_what_was_sent_was_changed(self, world: World, source: Path) -> None:
        fix(world, source, ALL_REPAIRED)
        world.tamper("UPDATE backfill_replays SET repaired[4] = '7.00' WHERE source_row = 4")
        (found,) = world.reconcile(source).breaks
        assert (found.field, found.expected, found.actual) == (
            "amount",
            "7.000000000000000000",
            "5.000000000000000000",
        )

    def test_finds_a_replayed_entry_that_is_gone(self, world: World, source: Path) -> None:
        fix(world, source, ALL_REPAIRED)
        world.tamper("DELETE FROM ledger_entries WHERE source_row = 29")
        assert world.reconcile(source).break_kinds["missing"] == 1

    def test_needs_no_file_of_the_home(self, world: World, source: Path) -> None:
        import shutil

        fix(world, source, ALL_REPAIRED)
        shutil.rmtree(world.places.intermediates_dir)
        assert world.reconcile(source).matches


def test_validating_a_posted_partition_again_forgets_no_repair(world: World, source: Path) -> None:
    fix(world, source, ALL_REPAIRED)
    world.post(source, selected=("extracted", "transformed", "validated"))
    world.post(source, selected=("posted",))
    world.post(source)
    assert counts(world) == (30, 30, 0, 0, 0, 0)
    assert world.reconcile(source).matches


def test_the_query_for_missing_entries_sees_repaired_rows(world: World, source: Path) -> None:
    fix(world, source, ALL_REPAIRED)
    missing = world.query(
        "SELECT s.reference_id FROM backfill_source_data s LEFT JOIN ledger_entries e USING (ledger_id, reference_id)"
        " WHERE e.id IS NULL"
    )
    assert missing == []
    assert world.value("SELECT count(*) FROM backfill_source_data") == 30


def test_a_replay_that_fails_in_the_middle_leaves_nothing_and_the_next_is_exact(
    world: World, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = repair(export(world, source), ALL_REPAIRED)
    before = world.snapshot()
    record = replays.record
    calls = 0

    def fail_at_the_second(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        record(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(replays, "record", fail_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            replay(world, source, file)
    counts(world)
    assert (
        len(world.snapshot().entries) == len(before.entries) + 2
    )  # the first partition's, and nothing of the second
    again = replay(world, source, file)
    assert (again.already_replayed, again.counts.posted) == (2, 4)
    assert counts(world) == (30, 30, 0, 0, 0, 0)
    assert world.reconcile(source).matches


def test_a_batch_whose_commit_the_client_did_not_hear_of_is_not_posted_again(
    world: World, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backfill_pipeline.errors import TransientLedgerError
    from backfill_pipeline.ledger import replay_posting

    post = replay_posting.post_replay
    heard = False

    def lose_the_first_answer(*arguments: object) -> None:
        nonlocal heard
        post(*arguments)
        if not heard:
            heard = True
            raise TransientLedgerError("the connection was lost")

    monkeypatch.setattr(replay_posting, "post_replay", lose_the_first_answer)
    report = fix(world, source, ALL_REPAIRED)
    assert report.counts == replays.ReplayCounts(6, 6, 0, 0, 0, 0)
    assert counts(world) == (30, 30, 0, 0, 0, 0)


def test_the_database_settles_no_row_twice(world: World, source: Path) -> None:
    import psycopg

    fix(world, source, ALL_REPAIRED)
    with pytest.raises(psycopg.errors.UniqueViolation, match="settled_once"):
        world.query(
            "INSERT INTO backfill_replays (batch_id, partition_id, source_row, raw, repaired, occurrence, outcome,"
            " ledger_id, reference_id, replayed_by) SELECT batch_id, partition_id, source_row, raw, repaired,"
            " occurrence, outcome, ledger_id, reference_id, replayed_by FROM backfill_replays LIMIT 1"
        )


_WAYS_TO_SPOIL = [(3, "1e3"), (3, "-1.00"), (5, "never"), (4, "usd"), (1, "NOBODY")]


@pytest.mark.parametrize("generated", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_any_rows_repaired_in_any_order_give_the_ledger_of_a_source_that_had_them_right(
    world: World, server: Server, tmp_path: Path, seed: int, generated: bool
) -> None:
    """The property that repairing rests on: only batches and times of posting tell the two ledgers apart."""
    dice = random.Random(seed)
    right = entries(60)
    spoilt = [list(row) for row in right]
    bad = sorted(dice.sample(range(60), 12))
    for place in bad:
        column, value = dice.choice(_WAYS_TO_SPOIL if generated else [*_WAYS_TO_SPOIL, (0, "")])
        spoilt[place][column] = value
    settings: dict[str, object] = {
        "max_error_rate": "1",
        "config": {"batch_size": str(dice.choice([1, 4, 100]))},
    }
    path = world.write("bank", spoilt, **settings)
    if generated:
        text = path.read_text().replace("reference_id: ref\n", "reference_id: {generate: true}\n")
        path.write_text(text)
    world.post(path)
    chosen = dice.sample(bad, dice.randint(1, 12))
    names = ("ref", "debit", "credit", "amount", "currency", "time", "note")
    while chosen:
        taken, chosen = chosen[:4], chosen[4:]
        cells = {place + 1: dict(zip(names, right[place], strict=True)) for place in taken}
        fix(world, path, cells)
        for place in taken:
            spoilt[place] = right[place]
    assert world.reconcile(path).matches
    counts(world)
    with server.ledger_database() as url:
        other = World(url, tmp_path / "right from the start")
        other.folder.mkdir()
        right_path = other.write("bank", spoilt, **settings)
        right_path.write_text(path.read_text())
        other.post(right_path)
        ours, theirs = world.snapshot(), other.snapshot()
    for name in ("entries", "accounts", "conversions"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_a_repaired_row_that_equals_another_payment_is_a_payment_of_its_own(world: World) -> None:
    rows = [entry(1), entry(1, amount="x"), entry(3), entry(1, amount="y")]
    path = world.write("bank", rows, max_error_rate="1")
    path.write_text(path.read_text().replace("reference_id: ref\n", "reference_id: {generate: true}\n"))
    world.post(path)
    assert fix(world, path, {2: {"amount": entry(1)[3]}}).counts.posted == 1
    assert fix(world, path, {4: {"amount": entry(1)[3]}}).counts.posted == 1
    assert sorted(str(reference)[-1] for reference in world.references()) == ["0", "0", "1", "2"]
    assert world.reconcile(path).matches
    # The export with these rows right holds nothing new.
    world.write_rows("bank", [entry(1), entry(1), entry(3), entry(1)])
    world.post(path)
    assert len(world.references()) == 4


def test_no_work_per_row(world: World) -> None:
    measured = []
    for number, rows in enumerate((100, 1_000, 4_000)):
        name = f"s{number}"
        bad = [entry(10_000 * number + row, amount="x") for row in range(rows)]
        path = world.write(name, bad, max_error_rate="1", partition_rows="2000")
        world.post(path)
        file = rewrite(export(world, path), lambda found: [row | {"amount": "1.00"} for row in found])
        measured.append(lines_executed(lambda path=path, file=file: replay(world, path, file)))
    assert_set_wise(*measured[1:])
