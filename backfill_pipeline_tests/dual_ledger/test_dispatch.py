"""What a bank is told: everything that it must hear of, once, whatever goes wrong on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.dual_ledger.bank_dispatcher import Pauses
from backfill_pipeline.dual_ledger.dispatch import DispatchReport, dispatch
from backfill_pipeline.ledger.banks import outbox
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual

BANK = "SCB-01"
AT_ONCE = Pauses(item_s=0, delivery_s=0, breaker_s=0, breaker_failures=1000)
LATER = Pauses(item_s=3600, delivery_s=3600, breaker_s=3600)


def tell(dual: Dual, *definitions: SourceDefinition, **more: Any) -> DispatchReport:
    """Everything that is due, without pauses."""
    given: dict[str, Any] = {"log": lambda line: None, "pauses": AT_ONCE, **more}
    return dispatch(dual.places.ledger_url, definitions or dual.definitions(), **given)


def post(dual: Dual, count: int, prefix: str = "HERE", **more: Any) -> list[str]:
    """Entries of our own."""
    references = [f"{prefix}-{number:04d}" for number in range(count)]
    for reference in references:
        dual.post_here(reference, **more)
    return references


@pytest.fixture
def ours(make_dual: MakeDual) -> Dual:
    """A bank without entries of its own, and our ledger beside it."""
    dual = make_dual(entries_per_day=0)
    dual.write_scb(scb={"max_attempts": 1, "batch_size": 10})
    dual.open()
    return dual


@pytest.fixture
def ledger(ours: Dual) -> Iterator[Connection]:
    with connect(ours.places.ledger_url) as connection:
        yield connection


def shared(dual: Dual, currency: str = "EUR") -> list[str]:
    return [one.id for one in dual.book().ledger.accounts if one.shared and one.currency == currency]


def pushes(dual: Dual) -> int:
    """Requests that brought entries to the bank."""
    return sum(one.operation == "push" for one in dual.log())


class TestEverything:
    def test_entries_of_the_bank_are_acknowledged_and_ours_are_sent(self, dual: Dual) -> None:
        dual.open()
        dual.post_day(FIRST_DAY)
        post(dual, 3)
        report = tell(dual)
        assert (report.acknowledged, report.failed, report.dead, report.left) == (43, 0, 0, 0)
        assert report.banks[0].acknowledged == {"acknowledgement": 40, "entry": 3}
        assert report.errors == {}
        dual.assert_told()

    def test_what_was_told_is_not_told_again(self, dual: Dual) -> None:
        dual.open()
        dual.post_day(FIRST_DAY)
        tell(dual)
        before = len(dual.log())
        assert tell(dual).acknowledged == 0
        assert len(dual.log()) == before

    def test_one_kind_alone(self, dual: Dual) -> None:
        dual.open()
        dual.post_day(FIRST_DAY)
        post(dual, 3)
        assert tell(dual, kinds=["entry"]).acknowledged == 3
        assert dual.outbox_states() == {("acknowledgement", "PENDING"): 40, ("entry", "ACKNOWLEDGED"): 3}
        assert tell(dual, kinds=["acknowledgement"]).acknowledged == 40

    def test_a_bank_that_wants_no_entries_gets_none(self, dual: Dual) -> None:
        dual.write_scb(scb={"send_entries": False})
        dual.open()
        dual.post_day(FIRST_DAY)
        post(dual, 1)
        assert tell(dual).acknowledged == 40
        assert dual.received() == {}

    def test_several_banks_at_once__one_that_cannot_be_reached_does_not_stop_the_others(
        self, make_dual: MakeDual
    ) -> None:
        dual = make_dual(ledgers=2)
        dual.write_scb("SCB-01", scb={"base_url": "http://127.0.0.1:9", "max_attempts": 1})
        for bank in dual.ledgers:
            dual.open(bank)
            post(dual, 2, bank, bank=bank)
        report = tell(dual)
        assert report.acknowledged == 2
        assert report.left == 2
        assert list(report.errors) == ["SCB-01"]
        assert "cannot be reached" in report.errors["SCB-01"]
        dual.assert_told("SCB-02")


class TestSeveralDispatchers:
    def test_no_row_is_ever_in_two_requests(self, make_dual: MakeDual) -> None:
        dual = make_dual(entries_per_day=300)
        dual.write_scb(scb={"batch_size": 7})
        dual.open()
        dual.post_day(FIRST_DAY)
        post(dual, 40)
        definition = dual.definition()
        with ThreadPoolExecutor(4) as pool:
            reports = list(pool.map(lambda _: tell(dual, definition, wait_s=30), range(4)))
        assert sum(one.acknowledged for one in reports) == 340
        dual.assert_told()
        # One that is sent twice would be `known` to the bank, and cost a request more.
        acknowledging = sum(one.operation == "acknowledge" for one in dual.log())
        assert acknowledging == sum(one.banks[0].requests.get("acknowledgement", 0) for one in reports)
        items = dual.query("SELECT sum(item_count) FROM dual_ledger_deliveries")
        assert items == [(340,)]

    def test_what_another_one_is_sending_is_waited_for(self, dual: Dual) -> None:
        """A sync that compares a day while another dispatcher tells of it would call it a break."""
        dual.open()
        dual.post_day(FIRST_DAY)
        dual.faults({"kind": "slow", "delay_s": 1, "operations": ["acknowledge"]})
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(tell, dual)
            while not dual.value("SELECT count(*) FROM dual_ledger_deliveries"):
                time.sleep(0.01)
            assert tell(dual).left == 0
            assert other.result().acknowledged == 40
        dual.assert_told()

    def test_entries_arrive_in_the_order_of_their_posting(self, ours: Dual) -> None:
        references = post(ours, 60)
        definition = ours.definition()
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: tell(ours, definition, wait_s=30), range(3)))
        assert list(ours.received()) == references


class TestWithoutAnAnswer:
    def test_a_lost_answer_is_asked_for_again_with_the_same_key_and_body(self, ours: Dual) -> None:
        references = post(ours, 5)
        ours.faults({"kind": "lost_answer", "count": 1})
        first = tell(ours, pauses=LATER)
        assert (first.acknowledged, first.left) == (0, 5)
        assert ours.outbox_states() == {("entry", "SENT"): 5}
        assert len(ours.received()) == 5, "the bank has them, but nobody here knows"
        keys = ours.query("SELECT idempotency_key, attempts, last_error FROM dual_ledger_deliveries")
        assert [one[1] for one in keys] == [1]
        assert tell(ours).left == 5, "not due yet"
        ours.query("UPDATE dual_ledger_deliveries SET next_attempt_at = now()")
        assert tell(ours).acknowledged == 5
        assert ours.query("SELECT idempotency_key FROM dual_ledger_deliveries") == [keys[0][:1]]
        assert list(ours.received()) == references
        ours.assert_told()

    def test_a_client_repeats_within_its_own_tries_too(self, ours: Dual) -> None:
        ours.write_scb(scb={"max_attempts": 4})
        post(ours, 5)
        ours.faults(
            {"kind": "lost_answer", "count": 1},
            {"kind": "truncated", "after": 1, "count": 1, "operations": ["push"]},
        )
        assert tell(ours).acknowledged == 5
        assert pushes(ours) == 3
        ours.assert_told()

    def test_a_bank_that_is_down_for_long_loses_nothing_and_kills_nothing(self, ours: Dual) -> None:
        ours.write_scb(scb={"max_attempts": 1, "batch_size": 10, "send_attempts": 2})
        post(ours, 35)
        ours.faults({"kind": "server_error"})
        for _ in range(12):
            report = tell(ours)
            assert (report.dead, report.failed, report.left) == (0, 0, 35)
        assert {one[3] for one in ours.outbox()} == {0}, "nobody judged them"
        ours.faults()
        assert tell(ours).acknowledged == 35
        ours.assert_told()

    def test_the_breaker_leaves_a_bank_alone__for_all_dispatchers__and_one_tries_again(
        self, ours: Dual, ledger: Connection
    ) -> None:
        ours.write_scb(scb={"max_attempts": 1, "batch_size": 1})
        post(ours, 3)
        pauses = Pauses(delivery_s=0, breaker_failures=2, breaker_s=3600)
        ours.faults({"kind": "server_error"})
        assert tell(ours, pauses=pauses).errors[BANK].count("answers 503") == 1
        report = tell(ours, pauses=pauses)
        assert pushes(ours) == 2
        report = tell(ours, pauses=pauses)
        assert pushes(ours) == 2, "it is left alone"
        assert "left alone until" in report.errors[BANK]
        assert "answers 503" in report.errors[BANK]
        assert tell(ours, pauses=pauses).left == 3
        assert pushes(ours) == 2, "nobody asks"
        assert outbox.due_banks(ledger) == []
        ours.query("UPDATE dual_ledger_banks SET open_until = now()")
        assert outbox.due_banks(ledger) == [BANK]
        tell(ours, pauses=pauses)
        assert pushes(ours) == 3, "one try, and it is left alone again"
        ours.query("UPDATE dual_ledger_banks SET open_until = now()")
        ours.faults()
        assert tell(ours, pauses=pauses).acknowledged == 3
        (state,) = outbox.banks(ledger)
        assert (state.consecutive_failures, state.open_until, state.last_error) == (0, None, None)
        assert state.last_success_at is not None

    def test_of_several_that_find_a_breaker_half_open_one_tries(self, make_dual: MakeDual) -> None:
        dual = make_dual(entries_per_day=100)
        dual.write_scb(scb={"max_attempts": 1, "batch_size": 10})
        dual.open()
        dual.post_day(FIRST_DAY)
        pauses = Pauses(delivery_s=0, breaker_failures=1, breaker_s=3600)
        dual.faults({"kind": "server_error"})
        tell(dual, pauses=pauses)
        dual.faults({"kind": "slow", "delay_s": 1}, {"kind": "server_error"})
        dual.query("UPDATE dual_ledger_banks SET open_until = now()")
        before = len(dual.log())
        definition = dual.definition()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: tell(dual, definition, pauses=pauses), range(4)))
        assert len(dual.log()) == before + 1

    def test_wrong_credentials_are_no_fault_of_the_items(
        self, ours: Dual, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post(ours, 3)
        token = ours.environment["SCB_SIMULATOR_TOKEN"]
        monkeypatch.setenv("SCB_SIMULATOR_TOKEN", "wr0ng-token")
        lines: list[str] = []
        report = tell(ours, log=lines.append)
        assert (report.dead, report.failed, report.left) == (0, 0, 3)
        assert "answers 401" in report.errors[BANK]
        assert "wr0ng-token" not in str(lines) + str(report) + str(ours.query("TABLE dual_ledger_deliveries"))
        monkeypatch.setenv("SCB_SIMULATOR_TOKEN", token)
        assert tell(ours).acknowledged == 3

    def test_a_missing_secret_is_one_sentence(self, ours: Dual, monkeypatch: pytest.MonkeyPatch) -> None:
        post(ours, 3)
        monkeypatch.delenv("SCB_SIMULATOR_TOKEN")
        report = tell(ours)
        assert report.left == 3
        assert "SCB_SIMULATOR_TOKEN is not set" in report.errors[BANK]
        assert ours.outbox_states() == {("entry", "PENDING"): 3}

    def test_a_token_that_ends_in_the_middle_is_renewed(self, ours: Dual) -> None:
        ours.write_scb(auth="oauth2", scb={"batch_size": 5, "max_attempts": 1})
        post(ours, 20)
        once = {"kind": "expired_token", "count": 1, "operations": ["push"]}
        ours.faults({**once, "after": 1}, {**once, "after": 2})
        assert tell(ours).acknowledged == 20
        assert ours.fired() == {"expired_token": 2}
        ours.assert_told()

    def test_every_fault_at_random(self, make_dual: MakeDual) -> None:
        dual = make_dual(entries_per_day=120)
        dual.write_scb(auth="oauth2", scb={"batch_size": 9, "max_attempts": 2, "retry_after_max_s": 0})
        dual.open()
        dual.post_day(FIRST_DAY)
        post(dual, 60)
        dual.faults(
            *(
                {"kind": kind, "probability": 0.15, "seed": seed}
                for seed, kind in enumerate(
                    ("throttled", "server_error", "dropped", "truncated", "lost_answer", "expired_token")
                )
            )
        )
        report = tell(dual, wait_s=120)
        assert (report.acknowledged, report.dead, report.left) == (180, 0, 0)
        assert sum(dual.fired().values()) > 5
        assert list(dual.received()) == [f"HERE-{number:04d}" for number in range(60)]
        dual.assert_told()


class TestRefusals:
    def test_an_account_that_the_bank_does_not_know_may_come_to_be(self, ours: Dual) -> None:
        first, second, *_ = shared(ours)
        ours.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('NEW', 'EUR')")
        ours.post_here("BEFORE")
        ours.post_here("STRANGE", debit="NEW", credit=first)
        ours.post_here("BEHIND", debit="NEW", credit=second)
        ours.write_scb(scb={"send_attempts": 3, "batch_size": 1})
        report = tell(ours, pauses=LATER)
        assert ours.outbox_states() == {
            ("entry", "ACKNOWLEDGED"): 1,
            ("entry", "FAILED"): 1,
            ("entry", "PENDING"): 1,
        }
        assert (report.acknowledged, report.failed, report.left) == (1, 1, 2)
        row = ours.outbox()[1]
        assert row[2:4] == ("FAILED", 1)
        assert "unknown_account: debit_account is no account" in str(row[4])

    def test_what_never_heals_is_given_up_after_its_tries__and_lets_others_pass(
        self, ours: Dual, ledger: Connection
    ) -> None:
        first, second, *_ = shared(ours)
        ours.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('NEW', 'EUR')")
        ours.post_here("STRANGE", debit="NEW", credit=first)
        ours.post_here("BEHIND", debit=first, credit=second)
        ours.write_scb(scb={"send_attempts": 3, "batch_size": 1})
        report = tell(ours)
        assert [(one[0], one[2], one[3]) for one in ours.outbox()] == [
            ("STRANGE", "DEAD", 3),
            ("BEHIND", "ACKNOWLEDGED", 1),
        ]
        assert (report.failed, report.dead) == (2, 1)
        assert outbox.retry(ledger, statuses=["DEAD"]) == 1
        assert ours.outbox()[0][2:4] == ("PENDING", 0)

    def test_what_can_never_be_taken_is_given_up_at_once(self, dual: Dual) -> None:
        dual.open()
        own = next(iter(dual.entries_there()))
        dual.post_here(own)
        dual.post_here("FINE")
        report = tell(dual)
        assert (report.acknowledged, report.dead, report.left) == (1, 1, 0)
        row = dual.outbox()[0]
        assert row[2:4] == ("DEAD", 1)
        assert str(row[4]).startswith("own_reference: ")

    def test_one_item_that_spoils_every_request_is_found(self, ours: Dual) -> None:
        """The bank refuses whole requests that are too large: one with a long narrative."""
        ours.write_scb(scb={"max_attempts": 1, "batch_size": 100})
        references = post(ours, 10, "A")
        ours.post_here("HUGE", metadata='{"text": "%s"}' % ("x" * (17 << 20)))
        references += post(
            ours, 10, "B", debit=shared(ours, "USD")[0], credit=shared(ours, "USD")[1], currency="USD"
        )
        report = tell(ours, pauses=LATER)
        assert (report.acknowledged, report.failed, report.dead) == (20, 1, 0)
        assert list(ours.received()) == references
        row = next(one for one in ours.outbox() if one[0] == "HUGE")
        assert row[2:4] == ("FAILED", 1)
        assert "answers 413" in str(row[4])
        assert pushes(ours) < 20

    def test_a_batch_that_is_too_large_is_halved_until_it_passes(self, ours: Dual) -> None:
        ours.write_scb(scb={"max_attempts": 1, "batch_size": 16})
        for number in range(16):
            ours.post_here(f"BIG-{number:02d}", metadata='{"text": "%s"}' % ("x" * (1 << 20)))
        assert tell(ours).acknowledged == 16
        assert list(ours.received()) == [f"BIG-{number:02d}" for number in range(16)]


class TestStopping:
    def test_nothing_is_sent_once_it_is_told_to_stop(self, ours: Dual) -> None:
        post(ours, 3)
        stop = threading.Event()
        stop.set()
        assert tell(ours, stop=stop).left == 3
        assert pushes(ours) == 0

    def test_it_waits_no_longer_than_something_can_become_due(self, ours: Dual) -> None:
        ours.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('NEW', 'EUR')")
        ours.post_here("STRANGE", debit="NEW", credit=shared(ours)[0])
        assert tell(ours, pauses=LATER, wait_s=600).failed == 1
