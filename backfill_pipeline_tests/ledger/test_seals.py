"""Seals tell every way in which what was posted can be touched, and in which they can be touched themselves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from hashlib import sha256

import psycopg
import pytest

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger import audit_log, periods, posting, seals
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.ledger.seals import Touched
from backfill_pipeline_tests.ledger.world import NOON, Entry, World, many, table

MARCH = date(2024, 3, 1)


@pytest.fixture
def bank(world: World) -> Registration:
    """Three sealed batches: openings, two entries (one with a conversion), and two of two ledgers."""
    world.open("A", "B")
    world.open("J", currency="JPY")
    posting.post_opening_entries(world.connection, "bank", table([Entry("opening")]), "run-0")
    bank = world.register()
    rows = [Entry("r1", metadata='{"note": "x"}'), Entry("r2", credit="J", fx_rate="150.5")]
    world.post(bank, table(rows))
    world.post(bank, table([Entry("r3", row=3), Entry("r4", row=4, ledger="OTHER")]))
    assert seals.seal_batches(world.connection) == 4
    return bank


def touched(world: World) -> list[Touched]:
    return seals.touched(world.connection, seals.chosen_seals(world.connection))


@contextmanager
def tampered(world: World, *statements: str) -> Iterator[None]:
    """As a superuser can: no trigger fires. Undone afterwards, so that many ways share a ledger."""
    with world.connection.transaction(force_rollback=True):
        world.connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            assert world.connection.execute(statement).rowcount
        yield


def batch_of(world: World, reference: str) -> int:
    return int(world.value("SELECT batch_id FROM ledger_entries WHERE reference_id = %s", reference))


def test_every_batch_is_sealed_once_and_nothing_is_touched(world: World, bank: Registration) -> None:
    assert world.rows("SELECT ledger_id, number, kind, entries FROM ledger_seals ORDER BY 1, 2") == [
        ("MASTER", 1, "batch", 1), ("MASTER", 2, "batch", 2), ("MASTER", 3, "batch", 1), ("OTHER", 1, "batch", 1)
    ]  # fmt: skip
    assert seals.seal_batches(world.connection) == 0
    assert touched(world) == []
    assert seals.chain_faults(world.connection) == []
    world.post_one(Entry("live"))
    found = seals.unsealed(world.connection)
    assert (found.batches, found.periods, found.live_entries) == ((), (), 1)


def test_the_hash_is_the_one_that_is_documented(world: World) -> None:
    """Recomputed without the database, as an auditor can: of one entry, and of a batch of two."""
    world.open("A", "B")
    world.open("J", currency="JPY")
    bank = world.register()
    world.post(bank, table([Entry("r1", metadata='{"note": "x"}'), Entry("r2", credit="J", fx_rate="150.5")]))
    batch_id = batch_of(world, "r1")
    posted_at = world.value("SELECT posted_at::text FROM ledger_entries LIMIT 1")
    texts = [
        f'(MASTER,r1,A,B,10.00,USD,fiat,TRANSFER,"2024-03-01 12:00:00+00","{posted_at}",,'
        f'"{{""note"": ""x""}}",{batch_id},1,)',
        f'(MASTER,r2,A,J,10.00,USD,fiat,TRANSFER,"2024-03-01 12:00:00+00","{posted_at}",150.5,,{batch_id},2,'
        '"(credit,J,JPY,1505)")',
    ]
    digests = sorted(sha256(text.encode()).digest() for text in texts)
    parts = [
        b"".join(one for one in digests if one[0] == first) for first in sorted({one[0] for one in digests})
    ]
    assert world.rows("SELECT entries, digest FROM ledger_batch_digests(%s)", [batch_id]) == [
        (2, sha256(b"".join(sha256(part).digest() for part in parts)).digest())
    ]


def test_no_setting_of_a_session_changes_it(world: World, bank: Registration) -> None:
    other = world.connect()
    other.execute(
        "SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; SET extra_float_digits = 0; SET bytea_output = 'escape';"
        " SET intervalstyle = 'sql_standard'; SET search_path = pg_temp, public"
    )
    assert seals.touched(other, seals.chosen_seals(other)) == []
    assert seals.chain_faults(other) == []


CHANGES = {
    "ledger_id": "'THIRD'",
    "debit_account_id": "'J'",
    "credit_account_id": "'J'",
    "amount": "amount + 0.000000000000000001",
    "currency_code": "'EUR'",
    "asset_type": "'cbdc'",
    "transaction_type": "'FEE'",
    "reference_id": "'CHANGED'",
    "timestamp_utc": "timestamp_utc + interval '1 microsecond'",
    "posted_at": "posted_at + interval '1 microsecond'",
    "fx_rate": "1",
    "metadata": """'{"note": "y"}'""",
    "batch_id": "NULL",
    "source_row": "99",
}


def test_any_field_of_an_entry_that_is_edited_shows(world: World, bank: Registration) -> None:
    batch_id = batch_of(world, "r1")
    for field, value in CHANGES.items():
        with tampered(world, f"UPDATE ledger_entries SET {field} = {value} WHERE reference_id = 'r1'"):
            left = 1 if field in ("ledger_id", "batch_id") else 2
            elsewhere = [Touched("THIRD", None, batch_id, None, 0, 1)] if field == "ledger_id" else []
            assert touched(world) == [Touched("MASTER", 2, batch_id, None, 2, left), *elsewhere], field
    assert touched(world) == []


def test_the_id_alone_does_not_count(world: World, bank: Registration) -> None:
    """It is made by the database, and another one when an entry is posted again."""
    with tampered(
        world,
        "UPDATE ledger_entry_conversions SET entry_id = entry_id + 1000",
        "UPDATE ledger_entries SET id = id + 1000",
    ):
        assert touched(world) == []


def test_conversions__entries_taken_away_and_slipped_in_show(world: World, bank: Registration) -> None:
    slipped_in = (
        "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
        " transaction_type, reference_id, timestamp_utc, posted_at, batch_id) SELECT ledger_id, debit_account_id,"
        " credit_account_id, amount, currency_code, transaction_type, 'slipped in', timestamp_utc, posted_at, batch_id"
        " FROM ledger_entries WHERE reference_id = 'r1'"
    )
    for statement, found in {
        "UPDATE ledger_entry_conversions SET amount = amount + 1": 2,
        "DELETE FROM ledger_entry_conversions": 2,
        "DELETE FROM ledger_entries WHERE reference_id = 'r2'": 1,
        "DELETE FROM ledger_entries WHERE reference_id IN ('r1', 'r2')": 0,
        slipped_in: 3,
    }.items():
        with tampered(world, statement):
            assert touched(world) == [
                Touched(
                    "MASTER",
                    2,
                    int(
                        world.value(
                            "SELECT batch_id FROM ledger_seals WHERE number = 2 AND ledger_id = 'MASTER'"
                        )
                    ),
                    None,
                    2,
                    found,
                )
            ], statement


def test_whatever_is_done_to_the_chain_shows(world: World, bank: Registration) -> None:
    edited, follows = "was edited: it does not fit its hash", "does not follow the seal before it"
    ways: list[tuple[list[str], list[tuple[str, int, str]]]] = [
        (["UPDATE ledger_seals SET entries = 3 WHERE number = 2"], [("MASTER", 2, edited)]),
        (["UPDATE ledger_seals SET previous_seal = 'x' WHERE number = 2"], [("MASTER", 2, follows), ("MASTER", 2, edited)]),
        (["DELETE FROM ledger_seals WHERE number = 2"], [("MASTER", 3, "seals 2 to 2 before it were removed")]),
        (["DELETE FROM ledger_seals WHERE number = 3"], [("MASTER", 3, "seals after 2 were removed")]),
        (["DELETE FROM ledger_seals WHERE ledger_id = 'OTHER'"], [("OTHER", 1, "seals after 0 were removed")]),
        (["DELETE FROM ledger_seal_heads WHERE ledger_id = 'OTHER'"],
         [("OTHER", 1, "is the last one, which the ledger does not know")]),
        # Another digest with a hash that fits, in the place of the last one.
        (["UPDATE ledger_seals SET digest = 'x' WHERE number = 3",
          "UPDATE ledger_seals s SET seal = ledger_seal_hash(s) WHERE number = 3"],
         [("MASTER", 3, "is not the seal that was made last")]),
    ]  # fmt: skip
    for statements, faults in ways:
        with tampered(world, *statements):
            found = [(one.ledger_id, one.number, one.fault) for one in seals.chain_faults(world.connection)]
            assert sorted(found) == faults, statements


def test_seals_are_only_added_and_become_final_once(world: World, bank: Registration) -> None:
    for statement in (
        "DELETE FROM ledger_seals",
        "TRUNCATE ledger_seals",
        "UPDATE ledger_seals SET entries = 9, final_at = now()",
        "UPDATE ledger_seals SET final_at = NULL",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation, match="what was sealed stays sealed"):
            world.connection.execute(statement)
    batches = seals.batches_of(world.connection, "bank")
    assert len(batches) == 3
    assert not world.value("SELECT ledger_batch_is_final(%s)", batches[0])
    for became in (3, 0):
        assert became == seals.make_final(
            world.connection, batches, actor="ann", subject="bank", reason="audited"
        )
    assert all(world.value("SELECT ledger_batch_is_final(%s)", one) for one in batches)
    with pytest.raises(psycopg.errors.RestrictViolation):
        world.connection.execute("UPDATE ledger_seals SET final_at = now()")
    (written,) = audit_log.entries(world.connection, subject="bank")
    assert written.after == {"final_batches": batches}


def test_what_is_rolled_back_leaves_its_seal_and_an_annulment(world: World, bank: Registration) -> None:
    batch_id = batch_of(world, "r3")
    with world.connection.transaction():
        assert world.value("SELECT annul_seals(%s, 'plan')", [batch_id]) == 2
        world.connection.execute("DELETE FROM ledger_entries WHERE batch_id = %s", [batch_id])
        world.connection.execute("DELETE FROM backfill_batches WHERE id = %s", [batch_id])
    assert world.rows("SELECT ledger_id, number, kind, plan_hash FROM ledger_seals WHERE batch_id = %s ORDER BY 1, 2", batch_id) == [
        ("MASTER", 3, "batch", None), ("MASTER", 4, "annulment", "plan"),
        ("OTHER", 1, "batch", None), ("OTHER", 2, "annulment", "plan"),
    ]  # fmt: skip
    assert touched(world) == []
    assert seals.chain_faults(world.connection) == []
    # What comes back under its name was not posted by anybody.
    with tampered(world, f"UPDATE ledger_entries SET batch_id = {batch_id} WHERE reference_id = 'opening'"):
        assert Touched("MASTER", 3, batch_id, None, 0, 1) in touched(world)


def test_what_is_final_is_not_annulled(world: World, bank: Registration) -> None:
    batch_id = batch_of(world, "r3")
    seals.make_final(world.connection, [batch_id], actor="ann", subject="bank", reason=None)
    with pytest.raises(psycopg.errors.CheckViolation, match=f"batch {batch_id} is sealed for good") as caught:
        world.connection.execute("SELECT annul_seals(%s, 'plan')", [[batch_of(world, "r1"), batch_id]])
    assert caught.value.diag.constraint_name == "ledger_seals_final"
    assert world.value("SELECT count(*) FROM ledger_seals WHERE kind = 'annulment'") == 0


def test_closing_a_period_seals_all_its_entries_and_makes_its_batches_final(
    world: World, bank: Registration
) -> None:
    world.post_one(Entry("live"))
    world.post(bank, table([Entry("april", row=5, at=datetime(2024, 4, 1, tzinfo=UTC))]))
    assert periods.close(world.connection, "MASTER", MARCH, actor="ann", reason=None)
    assert world.value("SELECT entries FROM ledger_seals WHERE kind = 'period'") == 5
    final = {
        reference: world.value("SELECT ledger_batch_is_final(%s)", batch_of(world, reference))
        for reference in ("opening", "r1", "r3", "april")
    }
    assert final == {"opening": True, "r1": True, "r3": True, "april": False}
    assert touched(world) == []
    with tampered(world, "UPDATE ledger_entries SET amount = 11 WHERE reference_id = 'live'"):
        (found,) = touched(world)
    assert (found.ledger_id, found.month, found.sealed, found.found) == ("MASTER", MARCH, 5, 5)


def test_a_reopened_period_is_sealed_anew(world: World, bank: Registration) -> None:
    for actor in ("ann", "bob"):
        periods.close(world.connection, "MASTER", MARCH, actor=actor, reason=None)
        periods.reopen(world.connection, "MASTER", MARCH, actor=actor, reason=None)
    world.post_one(Entry("late"))
    assert touched(world) == []
    periods.close(world.connection, "MASTER", MARCH, actor="ann", reason=None)
    assert touched(world) == []
    assert seals.unsealed(world.connection).periods == ()
    kinds = world.rows("SELECT kind, entries FROM ledger_seals WHERE month IS NOT NULL ORDER BY number")
    assert kinds == [("period", 4), ("annulment", 4), ("period", 5)]


def test_a_period_that_was_closed_by_hand_has_no_seal(world: World, bank: Registration) -> None:
    world.connection.execute(
        "INSERT INTO ledger_periods (ledger_id, month, closed_by) VALUES ('MASTER', '2024-03-01', 'x')"
    )
    assert seals.unsealed(world.connection).periods == ("MASTER 2024-03",)


def test_the_batches_of_a_bank_are_those_of_all_its_days(world: World, bank: Registration) -> None:
    for day in ("2024-03-01", "2024-03-02"):
        world.post(world.register(source_id=f"scb_01@{day}"), table([Entry(day)]))
    assert seals.seal_batches(world.connection) == 2
    for source_id, count in {"scb_01": 2, "scb_01@2024-03-02": 1, "scb_0": 0, "scb": 0}.items():
        assert len(seals.batches_of(world.connection, source_id)) == count
        assert len(seals.chosen_seals(world.connection, source_id=source_id)) == count


def test_however_many_are_hashed_at_a_time_seals_are_the_same(
    world: World, bank: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "_ENTRIES_AT_A_TIME", 1)
    assert touched(world) == []
    for row in range(10, 14):
        world.post(bank, table([Entry(f"r{row}", row=row)]))
    assert seals.seal_batches(world.connection) == 4
    monkeypatch.undo()
    assert touched(world) == []


def test_sessions_that_seal_at_the_same_time_seal_each_batch_once(world: World, bank: Registration) -> None:
    for row in range(10, 18):
        world.post(bank, table([Entry(f"r{row}", row=row, at=NOON)]))
    with ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(seals.seal_batches, [world.connect() for _ in range(4)]))
    assert sum(counts) == 8
    assert seals.chain_faults(world.connection) == []
    assert touched(world) == []


def test_only_what_is_chosen_is_verified(world: World, bank: Registration) -> None:
    def chosen(source_id: str | None = None, since: datetime | None = None) -> int:
        picked = seals.chosen_seals(world.connection, source_id=source_id, since=since)
        return len(seals.touched(world.connection, picked))

    with tampered(world, "UPDATE ledger_entries SET amount = 11 WHERE reference_id = 'r1'"):
        assert (chosen("bank"), chosen("ban")) == (1, 0)
        assert (chosen(since=datetime(2024, 1, 1, tzinfo=UTC)), chosen(since=datetime.now(UTC))) == (1, 0)


@pytest.mark.slow
def test_one_entry_in_a_million_is_found(world: World) -> None:
    world.open_ring(1000)
    bank = world.register(1_000_000)
    for first_row in range(1, 1_000_000, 100_000):
        world.post(bank, many(100_000, 1000, first_row=first_row))
    assert seals.seal_batches(world.connection) == 10
    assert touched(world) == []
    with tampered(world, "UPDATE ledger_entries SET amount = amount + 0.01 WHERE reference_id = 'M765432'"):
        assert touched(world) == [Touched("MASTER", 8, batch_of(world, "M765432"), None, 100_000, 100_000)]


def test_a_session_that_cannot_seal_says_so(world: World, bank: Registration) -> None:
    world.post(bank, table([Entry("r9", row=9)]))
    other = world.connect()
    other.execute("SET default_transaction_read_only = on")
    with pytest.raises(LedgerError, match="cannot seal batches of the ledger"):
        seals.seal_batches(other)
