"""Rolling back: exactly the plan or nothing, proven before it is committed, and never forgotten."""

import threading
import time
from collections.abc import Callable
from decimal import Decimal

import psycopg
import pytest

from backfill_pipeline.errors import BackfillError, LedgerError, SourceBusyError, UsageError
from backfill_pipeline.ledger import constraints, posting, registrations, rollback
from backfill_pipeline.ledger.connection import source_lock
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.ledger.rollback import RollbackScope, StalePlanError
from backfill_pipeline_tests.ledger.test_corrections import correct, finding
from backfill_pipeline_tests.ledger.world import NOON, Entry, World, many, table

BANK = RollbackScope("bank")

# Everything of the ledger that a rollback must leave as it was, but for what it takes out.
CONTENT = (
    "SELECT ledger_id, reference_id, debit_account_id, credit_account_id, amount::text, currency_code, asset_type,"
    " transaction_type, timestamp_utc, posted_at, fx_rate::text, metadata::text, batch_id, source_row"
    " FROM ledger_entries ORDER BY ledger_id, reference_id"
)


def apply(
    world: World,
    scope: RollbackScope = BANK,
    *,
    mode: rollback.Mode | None = None,
    reverse_at: rollback.ReverseAt | None = None,
) -> dict[str, object]:
    """Plans and applies at once."""
    found = rollback.plan(world.connection, scope, mode=mode, reverse_at=reverse_at)
    return rollback.apply(
        world.connection,
        scope,
        plan_hash=str(found["plan_hash"]),
        actor="ana",
        reason="wrong month",
        mode=mode,
        reverse_at=reverse_at,
    )


def complete(world: World, registration: Registration, partition: int = 0, *, early: int = 0) -> None:
    """Marks a partition as posted, as a run does; `early` rows never reached posting."""
    one = registration.partitions[partition]
    registrations.record_validated(
        world.connection,
        one.id,
        rejected=early,
        filtered=0,
        valid_rows=one.plan.row_count - early,
    )
    for row in range(early):
        world.connection.execute(
            "INSERT INTO backfill_rejects (partition_id, source_row, source_line, byte_offset, stage, code, reason, raw)"
            " VALUES (%s, %s, 1, 1, 'validate', 'amount_malformed', 'is no number', 'x')",
            [one.id, one.plan.first_row + one.plan.row_count - 1 - row],
        )
    registrations.complete_partition(world.connection, registration, one.id)


def ring(world: World, *row_counts: int, source_id: str = "bank", accounts: int = 7) -> Registration:
    """A source whose partitions are posted, one batch each, with an opening balance for every account."""
    if not world.count("bank_accounts"):
        world.open_ring(accounts)
        world.open("EQUITY", normal_side="credit")
    openings = [Entry(f"OPEN-{source_id}-{n}", f"a{n:06d}", "EQUITY", "1000.00") for n in range(accounts)]
    posting.post_opening_entries(world.connection, source_id, table(openings), "run-1")
    registration = world.register(*row_counts, source_id=source_id)
    first = 1
    for number, count in enumerate(row_counts):
        world.post(
            registration, many(count, accounts, prefix=f"{source_id}-", first_row=first), partition=number
        )
        complete(world, registration, number)
        first += count
    return registration


def checkpoint(world: World, source_id: str = "bank") -> tuple[object, ...]:
    return world.rows(
        "SELECT status, total_processed, total_successful, total_failed FROM ledger_backfill_checkpoints"
        " WHERE source_id = %s",
        source_id,
    )[0]


# --- mode delete ----------------------------------------------------------------------------------------------------


def test_a_source_is_taken_out_with_its_opening_balances_and_nothing_else_moves(world: World) -> None:
    world.open_ring(7)
    world.open("EQUITY", normal_side="credit")
    world.post_one(Entry("LIVE", "a000001", "a000002", "3.50"))
    before, balances = world.rows(CONTENT), world.balances()
    ring(world, 20, 30)
    assert world.count() == 58

    found = rollback.plan(world.connection, BANK)
    assert (found["mode"], found["nothing_to_do"], found["refused"]) == ("delete", False, [])
    assert found["entries"]["count"] == 57
    assert world.count() == 58, "a plan changes nothing"
    done = apply(world)

    assert done["applied"] is True
    assert world.rows(CONTENT) == before
    assert world.balances() == balances
    world.assert_balances_follow_entries()
    assert done["proof"]["content_before"] == done["proof"]["content_after"]
    assert world.count("backfill_batches") == 0
    assert world.count("backfill_rolled_back_batches") == 3
    assert world.rows("SELECT DISTINCT status FROM backfill_partition_outcomes") == [("rolled back",)]
    assert checkpoint(world) == ("PAUSED", 0, 0, 0)
    assert world.rows("SELECT completed_at FROM backfill_registrations") == [(None,)]


def test_a_second_rollback_is_a_no_op_that_says_so(world: World) -> None:
    ring(world, 5)
    first = apply(world)
    found = rollback.plan(world.connection, BANK)
    assert found["nothing_to_do"] is True
    assert len(str(found["plan_hash"])) == 64
    assert "rolled back at" in found["remarks"][0]
    assert "by ana" in found["remarks"][0]
    for plan_hash in (str(found["plan_hash"]), str(first["plan_hash"])):
        again = rollback.apply(world.connection, BANK, plan_hash=plan_hash, actor="ana")
        assert (again["applied"], again["nothing_to_do"]) == (False, True)
    assert world.count("backfill_rollbacks") == 1
    assert world.value("SELECT count(*) FROM audit_log WHERE action = 'rollback'") == 1


def test_a_partition_is_taken_out_and_the_others_stay(world: World) -> None:
    registration = ring(world, 20, 30)
    kept = world.value(
        "SELECT count(*) FROM ledger_entries WHERE source_row <= 20 OR reference_id LIKE 'OPEN%'"
    )
    apply(world, RollbackScope("bank", partition_key=registration.partitions[1].key))
    assert world.count() == kept == 27
    assert world.rows("SELECT partition_key, status FROM backfill_partition_outcomes ORDER BY 1") == [
        ("0001", "posted"),
        ("0002", "rolled back"),
    ]
    assert checkpoint(world) == ("PAUSED", 20, 20, 0)
    world.assert_balances_follow_entries()


def test_a_batch_is_taken_out_and_its_partition_is_open_again(world: World) -> None:
    world.open_ring(7)
    registration = world.register(30)
    for first in (1, 11, 21):
        world.post(registration, many(10, 7, prefix="bank-", first_row=first))
    complete(world, registration)
    (middle,) = world.rows("SELECT id FROM backfill_batches WHERE first_row = 11")[0]
    apply(world, RollbackScope("bank", batch_id=middle))
    assert world.references() == {f"bank-{n}" for n in (*range(1, 11), *range(21, 31))}
    assert world.rows("SELECT posted_at, status FROM backfill_partition_outcomes") == [(None, "rolled back")]
    assert checkpoint(world) == ("PAUSED", 20, 20, 0)
    world.assert_balances_follow_entries()


def test_early_rejects_stay_and_counters_forget_them_until_the_partition_is_posted_again(
    world: World,
) -> None:
    world.open("A", "B")
    registration = world.register(4)
    world.post(registration, [Entry("1"), Entry("2"), Entry("3", amount="0.01", debit="NOBODY")])
    complete(world, registration, early=1)
    assert checkpoint(world) == ("COMPLETED", 4, 2, 2)
    apply(world)
    assert checkpoint(world) == ("PAUSED", 0, 0, 0)
    assert world.rows("SELECT stage FROM backfill_rejects") == [("validate",)]
    assert world.rows("SELECT stage, code FROM backfill_rolled_back_rejects") == [("post", "unknown_account")]


def test_conversions_go_with_their_entries(world: World) -> None:
    world.open("EUR-1", "EUR-2", currency="EUR")
    world.open("JPY-1", currency="JPY", normal_side="credit")
    world.post_one(Entry("LIVE", "EUR-1", "JPY-1", "2.00", "EUR", fx_rate="160"))
    balances = world.balances()
    registration = world.register(2)
    world.post(
        registration,
        [
            Entry("FX", "EUR-1", "JPY-1", "1.00", "EUR", fx_rate="162.5"),
            Entry("PLAIN", "EUR-1", "EUR-2", "4.00", "EUR"),
        ],
    )
    apply(world)
    assert world.balances() == balances
    assert world.count("ledger_entry_conversions") == 1
    world.assert_balances_follow_entries()


# --- mode reverse ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse_at", ["original", "now"])
def test_reversing_leaves_every_entry_and_every_balance_as_before_the_batch(
    world: World, reverse_at: rollback.ReverseAt
) -> None:
    world.open("EUR-1", currency="EUR")
    world.open("JPY-1", currency="JPY", normal_side="credit")
    balances = world.balances()
    registration = world.register(2)
    entry = Entry("FX", "EUR-1", "JPY-1", "1.00", "EUR", fx_rate="162.5", metadata='{"k": 1}')
    world.post(registration, [entry])
    posted = world.rows(CONTENT)
    apply(world, mode="reverse", reverse_at=reverse_at)
    assert world.balances() == balances
    found = world.rows(CONTENT)
    assert found[:1] == posted
    ledger, reference, debit, credit, amount, currency, _, kind, at, _, rate, metadata, batch, row = found[1]
    assert (ledger, reference, debit, credit, amount) == ("MASTER", "FX~reversed", "JPY-1", "EUR-1", "1.00")
    assert (currency, kind, rate, row) == ("EUR", "TRANSFER", "162.5", 1)
    assert metadata == '{"reverses": "FX", "rollback": 1}'
    assert at == NOON if reverse_at == "original" else at > NOON
    assert world.rows("SELECT id, kind, posted, origin FROM backfill_batches") == [
        (batch, "reversal", 1, "LOCAL")
    ]
    assert world.rows(
        "SELECT base_reference, generation, reference_id, reversal_reference_id FROM ledger_reversals"
    ) == [("FX", 1, "FX", "FX~reversed")]
    world.assert_balances_follow_entries()
    assert rollback.plan(world.connection, BANK)["nothing_to_do"] is True


def test_what_was_posted_again_is_reversed_as_the_next_generation(world: World) -> None:
    world.open("A", "B")
    registration = world.register(1)
    world.post(registration, [Entry("X")])
    apply(world, mode="reverse")
    world.post(registration, [Entry("X~2")])
    apply(world, mode="reverse")
    assert world.rows(
        "SELECT base_reference, generation, reference_id FROM ledger_reversals ORDER BY generation"
    ) == [("X", 1, "X"), ("X", 2, "X~2")]
    assert world.references() == {"X", "X~reversed", "X~2", "X~2~reversed"}
    assert set(world.balances().values()) == {Decimal(0)}


def test_opening_balances_are_reversed_as_such(world: World) -> None:
    ring(world, 3)
    apply(world, mode="reverse")
    assert world.rows("SELECT kind, origin, posted FROM backfill_batches ORDER BY origin") == [
        ("reversal", "LOCAL", 3),
        ("reversal", "OPENING", 7),
    ]
    assert set(world.balances().values()) == {Decimal(0)}


@pytest.mark.parametrize("taken", ["X~reversed", "X~2"])
def test_a_reference_that_is_taken_is_foretold_and_refused(world: World, taken: str) -> None:
    world.open("A", "B")
    world.post(world.register(1), [Entry("X")])
    world.post_one(Entry(taken))
    found = rollback.plan(world.connection, BANK, mode="reverse")
    assert found["refused"] == [
        f"reference {taken} is taken by another entry, so these entries cannot be reversed"
    ]
    with pytest.raises(LedgerError, match="is taken by another entry"):
        apply(world, mode="reverse")
    assert apply(world, mode="delete")["applied"] is True


# --- how: seals, periods --------------------------------------------------------------------------------------------


def close(world: World, month: str = "2024-03-01") -> None:
    world.connection.execute("SELECT close_period('MASTER', %s::date, 'cfo', NULL)", [month])


def test_in_a_closed_period_the_entries_are_reversed_now(world: World) -> None:
    world.open("A", "B")
    world.post(world.register(1), [Entry("X")])
    close(world)
    found = rollback.plan(world.connection, BANK)
    assert (found["mode"], found["reverse_at"]) == ("reverse", "now")
    assert "sealed for good" in str(found["mode_because"])
    assert "period MASTER 2024-03 is closed" in str(found["mode_because"])
    with pytest.raises(LedgerError, match="can only be reversed"):
        apply(world, mode="delete")
    with pytest.raises(LedgerError, match="date the reversal now"):
        apply(world, mode="reverse", reverse_at="original")
    assert apply(world)["applied"] is True
    assert set(world.balances().values()) == {Decimal(0)}


def test_a_final_seal_forbids_deleting_and_a_provisional_one_is_annulled(world: World) -> None:
    world.open("A", "B")
    registration = world.register(2)
    world.post(registration, [Entry("X")])
    world.post(registration, table([Entry("Y", row=2)]))
    (first, second) = (row[0] for row in world.rows("SELECT id FROM backfill_batches ORDER BY id"))
    world.connection.execute("SELECT finalize_seals(ARRAY[%s::bigint], 'cfo', 'bank', NULL)", [first])
    world.connection.execute("SELECT seal_batches()")
    assert rollback.plan(world.connection, RollbackScope("bank", batch_id=first))["mode"] == "reverse"
    done = apply(world, RollbackScope("bank", batch_id=second))
    assert done["mode"] == "delete"
    assert world.rows("SELECT kind, batch_id, plan_hash FROM ledger_seals ORDER BY number") == [
        ("batch", first, None),
        ("batch", second, None),
        ("annulment", second, done["plan_hash"]),
    ]
    apply(world, RollbackScope("bank", batch_id=first))
    assert world.value("SELECT count(*) FROM ledger_seals WHERE kind = 'batch'") == 3, (
        "the reversal is sealed"
    )


# --- constraints ----------------------------------------------------------------------------------------------------


def test_under_constraints_it_is_done_without_lifting_them(world: World) -> None:
    ring(world, 20, 30)
    assert constraints.apply(world.connection).state == "applied"
    apply(world)
    assert constraints.verify(world.connection).state == "applied"
    assert world.count() == 0


def test_accounts_that_would_break_a_constraint_are_named_and_refused(world: World) -> None:
    world.open("CASH")
    world.open("EQUITY", normal_side="credit")
    world.open("SHOP", normal_side="debit")
    world.post(world.register(1), [Entry("IN", "CASH", "EQUITY", "10.00")])
    world.post_one(Entry("SPENT", "SHOP", "CASH", "4.00"))
    found = rollback.plan(world.connection, BANK)
    assert found["dependents"]["accounts_below_zero"] == {
        "count": 1,
        "sample": [{"account": "CASH", "available_after": "-4"}],
    }
    assert found["refused"] == []
    assert "constraints could not be applied afterwards" in found["remarks"][0]
    constraints.apply(world.connection)
    for mode in ("delete", "reverse"):
        with pytest.raises(LedgerError, match="account CASH would have -4 available"):
            apply(world, mode=mode)
    assert world.count() == 2


# --- the plan and its hash ------------------------------------------------------------------------------------------


def post_live(world: World) -> None:
    world.post_one(Entry("LIVE", "a000001", "a000002", "1.00"))


def add_batch(world: World) -> None:
    registration = registrations.load(world.connection, "bank")
    assert registration is not None
    world.post(registration, many(1, 7, prefix="more-", first_row=900))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (post_live, "balances of accounts, what depends on it"),
        (add_batch, "its batches, the entries, balances of accounts"),
        (close, "how it can be rolled back"),
    ],
)
def test_a_plan_of_another_state_is_refused_and_says_what_changed(
    world: World, change: Callable[[World], None], what: str
) -> None:
    ring(world, 5)
    plan_hash = str(rollback.plan(world.connection, BANK)["plan_hash"])
    assert plan_hash == rollback.plan(world.connection, BANK)["plan_hash"], "the same state has the same plan"
    change(world)
    before = world.rows(CONTENT)
    with pytest.raises(StalePlanError, match=f"the ledger changed since the plan: {what}; or the hash is"):
        rollback.apply(world.connection, BANK, plan_hash=plan_hash, actor="ana")
    assert world.rows(CONTENT) == before
    assert world.count("backfill_rollbacks") == 0


def test_what_concerns_nobody_leaves_the_plan_as_it_is(world: World) -> None:
    ring(world, 5)
    world.open("OTHER-1", "OTHER-2")
    plan_hash = str(rollback.plan(world.connection, BANK)["plan_hash"])
    world.post_one(Entry("LIVE", "OTHER-1", "OTHER-2"))
    world.connection.execute("ANALYZE")
    assert rollback.apply(world.connection, BANK, plan_hash=plan_hash, actor="ana")["applied"] is True


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        (RollbackScope("nobody"), "source nobody was never registered"),
        (
            RollbackScope("bank", partition_key="0009"),
            "source bank has no partition 0009; it has 0001, 0002, 0003, 0004, 0005 and 1 more$",
        ),
        (
            RollbackScope("bank", batch_id=999),
            "source bank has no batch 999; it has 1, 2, 3, 4, 5 and 2 more$",
        ),
        (
            RollbackScope("bank", partition_key="0001", batch_id=1),
            "of a partition or of a batch, not of both",
        ),
    ],
)
def test_what_does_not_exist_is_said(world: World, scope: RollbackScope, message: str) -> None:
    ring(world, *[5] * 6)
    with pytest.raises(UsageError, match=message):
        rollback.plan(world.connection, scope)


def test_days_of_a_bank_are_named_as_its_partitions(world: World) -> None:
    for day in ("2024-03-02", "2024-03-01"):
        ring(world, 2, source_id=f"bank@{day}")
    with pytest.raises(UsageError, match="has no partition 2024-03-09; it has 2024-03-01, 2024-03-02$"):
        rollback.plan(world.connection, RollbackScope("bank", partition_key="2024-03-09"))


def test_what_has_no_batch_any_more_says_so(world: World) -> None:
    world.register(5)
    with pytest.raises(UsageError, match="source bank has no batch 7; it has none$"):
        rollback.plan(world.connection, RollbackScope("bank", batch_id=7))


def test_a_batch_of_another_source_is_not_of_this_one(world: World) -> None:
    ring(world, 5)
    ring(world, 5, source_id="other")
    (batch,) = world.rows("SELECT id FROM backfill_batches WHERE source_id = 'other' AND kind = 'entries'")[0]
    with pytest.raises(UsageError, match=f"source bank has no batch {batch}"):
        rollback.plan(world.connection, RollbackScope("bank", batch_id=batch))


def test_a_plan_that_is_no_hash_is_said(world: World) -> None:
    ring(world, 5)
    with pytest.raises(UsageError, match="abc is not the hash of a plan"):
        rollback.apply(world.connection, BANK, plan_hash="abc", actor="ana")


def test_a_plan_can_be_read_by_whoever_may_only_read(world: World) -> None:
    ring(world, 5)
    with world.connection.transaction():
        world.connection.execute("SET TRANSACTION READ ONLY")
        assert rollback.plan(world.connection, BANK)["nothing_to_do"] is False


def test_rows_that_were_told_duplicates_depend_on_it(world: World) -> None:
    world.open("A", "B")
    world.post(world.register(1), [Entry("X")])
    other = world.register(2, source_id="other")
    world.post(other, [Entry("X"), Entry("Y")])
    world.connection.execute(
        "INSERT INTO backfill_source_references VALUES ('other', %s, '{1, 2}', '{MASTER, MASTER}', '{X, Y}')",
        [other.partitions[0].id],
    )
    found = rollback.plan(world.connection, BANK)
    assert found["dependents"]["duplicates"] == {
        "count": 1,
        "sample": [{"source": "other", "partition": "0001", "rows": 1, "first_reference": "X"}],
    }
    assert "source other partition 0001 has rows that were told duplicates" in found["remarks"][0]
    assert rollback.plan(world.connection, RollbackScope("other"))["dependents"]["duplicates"]["count"] == 0


def test_what_corrections_restored_of_these_rows_depends_on_it(world: World) -> None:
    """It is in no batch: it stays, and is found again when the source is posted again."""
    world.open("A", "B")
    registration = world.register(2, 2)
    world.post(registration, table([Entry("1"), Entry("LOST", row=2)]))
    world.post(registration, table([Entry("3", row=3)]), partition=1)
    world.connection.execute("DELETE FROM ledger_entries WHERE reference_id = 'LOST'")
    where = {"source_id": "bank", "partition_key": "0001", "source_row": 2}
    (decision,) = correct(world, finding(Entry("LOST")) | where)
    assert decision.done
    (first, second) = (row[0] for row in world.rows("SELECT id FROM backfill_batches ORDER BY id"))

    def dependents(scope: RollbackScope) -> object:
        return rollback.plan(world.connection, scope)["dependents"]["corrections"]

    lost = {"count": 1, "sample": ["LOST"]}
    none = {"count": 0, "sample": []}
    assert dependents(BANK) == lost
    assert dependents(RollbackScope("bank", partition_key="0001")) == lost
    assert dependents(RollbackScope("bank", batch_id=first)) == lost
    assert dependents(RollbackScope("bank", partition_key="0002")) == none
    assert dependents(RollbackScope("bank", batch_id=second)) == none
    apply(world)
    assert world.references() == {"LOST"}


# --- together with others -------------------------------------------------------------------------------------------


def test_while_a_run_writes_the_source_it_is_busy(world: World) -> None:
    ring(world, 5)
    world.connection.execute("SET lock_timeout = '300ms'")
    plan_hash = str(rollback.plan(world.connection, BANK)["plan_hash"])
    busy = pytest.raises(SourceBusyError, match="source bank is being written by another run")
    with source_lock(world.url, "bank"), busy:
        rollback.apply(world.connection, BANK, plan_hash=plan_hash, actor="ana")
    assert rollback.apply(world.connection, BANK, plan_hash=plan_hash, actor="ana")["applied"] is True


def test_live_postings_wait_for_it_and_are_all_there_afterwards(world: World) -> None:
    ring(world, 2000, accounts=50)
    world.open("X-1", "X-2")
    plan_hash = str(rollback.plan(world.connection, BANK)["plan_hash"])
    stop, posted, errors = threading.Event(), [0], list[Exception]()
    session = world.connect()

    def live() -> None:
        while not stop.is_set():
            try:
                world.post_one(Entry(f"LIVE-{posted[0]}", "X-1", "X-2", "1.00"), session)
                posted[0] += 1
            except Exception as error:  # kept, to be looked at by the test
                errors.append(error)
                return

    thread = threading.Thread(target=live)
    thread.start()
    try:
        while posted[0] < 5:
            time.sleep(0.01)
        assert rollback.apply(world.connection, BANK, plan_hash=plan_hash, actor="ana")["applied"] is True
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert world.count() == posted[0]
    assert world.balance("X-1") == posted[0]
    world.assert_balances_follow_entries()


def test_a_repeatable_read_is_refused_since_it_would_not_see_the_latest_entries(world: World) -> None:
    ring(world, 5)
    plan_hash = str(rollback.plan(world.connection, BANK)["plan_hash"])
    with pytest.raises(LedgerError, match="read committed"), world.connection.transaction():
        world.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        rollback.apply(world.connection, BANK, plan_hash=plan_hash, actor="ana")


@pytest.mark.parametrize("mode", ["delete", "reverse"])
@pytest.mark.parametrize(
    "table",
    ["bank_accounts", "backfill_batches", "audit_log"],
)
def test_when_its_session_ends_at_any_step_nothing_is_done(
    world: World, mode: rollback.Mode, table: str
) -> None:
    """The session is ended at its first write to each of the tables that it goes through."""
    ring(world, 20)
    world.connection.execute("SELECT seal_batches()")
    plan_hash = str(rollback.plan(world.connection, BANK, mode=mode)["plan_hash"])
    before, balances = world.rows(CONTENT), world.balances()
    books = [world.count(one) for one in ("backfill_batches", "ledger_seals", "audit_log")]
    world.connection.execute(
        "CREATE FUNCTION end_session() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;"
        f"CREATE TRIGGER zzz AFTER INSERT OR UPDATE OR DELETE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION end_session()"
    )
    with pytest.raises(BackfillError, match="terminating connection|closed the connection|ended"):
        rollback.apply(world.connect(), BANK, plan_hash=plan_hash, actor="ana", mode=mode)
    world.connection.execute(f"DROP TRIGGER zzz ON {table}; DROP FUNCTION end_session()")
    assert (world.rows(CONTENT), world.balances()) == (before, balances)
    assert [world.count(one) for one in ("backfill_batches", "ledger_seals", "audit_log")] == books
    assert world.count("backfill_rollbacks") == world.count("ledger_reversals") == 0
    done = rollback.apply(world.connection, BANK, plan_hash=plan_hash, actor="ana", mode=mode)
    assert done["applied"] is True


# --- the proof can fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sabotage", "message"),
    [
        (
            "UPDATE bank_accounts SET balance = balance + 1 WHERE id = 'a000003'",
            "account a000003 should stand at",
        ),
        (
            "INSERT INTO ledger_entry_conversions VALUES (0, 'debit', 'a000001', 'USD', 1)",
            "entries that stay would be",
        ),
    ],
)
def test_a_rollback_that_cannot_be_proven_is_not_done(world: World, sabotage: str, message: str) -> None:
    """A trigger of somebody's that does a little more than it should."""
    ring(world, 5)
    world.connection.execute(
        f"CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {sabotage}; RETURN NULL; END $$;"
        "CREATE TRIGGER zzz AFTER DELETE ON ledger_entries FOR EACH STATEMENT EXECUTE FUNCTION sabotage()"
    )
    before = world.rows(CONTENT)
    with pytest.raises(LedgerError, match=f"the proof failed, and nothing was rolled back: {message}"):
        apply(world)
    assert world.rows(CONTENT) == before
    assert world.count("backfill_batches") == 2


def test_the_audit_log_has_who_why_and_the_plan(world: World) -> None:
    registration = ring(world, 5)
    done = apply(world, RollbackScope("bank", partition_key=registration.partitions[0].key))
    (row,) = world.rows(
        "SELECT actor, action, subject, reason, plan_hash, after -> 'mode' FROM audit_log WHERE action = 'rollback'"
    )
    assert row == ("ana", "rollback", "bank partition 0001", "wrong month", done["plan_hash"], "delete")
    kept = rollback.load(world.connection, int(str(done["rollback"])))
    assert kept is not None
    assert (kept.actor, kept.entries, kept.partition_key) == ("ana", 5, "0001")


def test_the_session_posts_as_before_afterwards(world: World) -> None:
    ring(world, 5)
    apply(world)
    assert world.value("SELECT coalesce(current_setting('backfill.origin', true), '')") == ""
    with pytest.raises(psycopg.errors.RestrictViolation):
        world.connection.execute("UPDATE ledger_entries SET amount = 1")
