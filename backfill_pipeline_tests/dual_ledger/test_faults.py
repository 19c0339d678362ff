"""Every fault at random: nothing is lost, nothing is there twice, and what cannot be healed says why."""

from __future__ import annotations

import random

import pytest

from backfill_pipeline.dual_ledger.day_report import DayReport
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.scb_simulator.faults import KINDS
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.syncing import errors, outcomes, sync, tell
from backfill_pipeline_tests.dual_ledger.world import Dual

PROBABILITY = {
    "throttled": 0.05,
    "server_error": 0.05,
    "slow": 0.05,
    "dropped": 0.04,
    "truncated": 0.04,
    "lost_answer": 0.15,
    "down": 0.004,
    "expired_token": 0.03,
    "duplicate_page": 0.05,
    "overlapping_pages": 0.1,
    "looping_cursor": 0.02,
    "late_entries": 0.1,
    "changed_entry": 0.02,
    "wrong_totals": 0.08,
}
SETTINGS: dict[str, dict[str, object]] = {
    "throttled": {"retry_after_s": 0},
    "slow": {"delay_s": 0.03},
    "down": {"for_s": 0.2},
    "overlapping_pages": {"entries": 3},
    "late_entries": {"entries": 2},
}
PAGE = 15


def every_fault(dice: random.Random) -> list[dict[str, object]]:
    """All kinds, in an order and with seeds of the dice's choice."""
    faults: list[dict[str, object]] = [
        {"kind": kind, "probability": chance, "seed": dice.randrange(2**31), **SETTINGS.get(kind, {})}
        for kind, chance in PROBABILITY.items()
    ]
    faults.append(
        {"kind": "wrong_totals", "what": "count", "probability": 0.04, "seed": dice.randrange(2**31)}
    )
    faults.append(
        {"kind": "changed_entry", "what": "account", "probability": 0.01, "seed": dice.randrange(2**31)}
    )
    faults.append({"kind": "server_error", "status": 500, "probability": 0.02, "seed": dice.randrange(2**31)})
    dice.shuffle(faults)
    return faults


def test_no_kind_of_fault_is_forgotten() -> None:
    assert set(PROBABILITY) == set(KINDS)


def two_nights_with_faults_and_one_without(dual: Dual, dice: random.Random, secrets: list[str]) -> None:
    for _ in range(2):
        dual.faults(*every_fault(dice))
        for bank in dual.ledgers:
            if dice.random() < 0.7:
                dual.post_here(f"OURS-{bank}-{dice.randrange(10**9)}", bank=bank)
            explained(sync(dual, bank), secrets)
        tell(dual)
        assert sum(dual.fired().values()) > 0
        dual.later()
    dual.faults()
    for bank in dual.ledgers:
        tell(dual, bank)
        reports = sync(dual, bank)
        assert set(outcomes(reports)) <= {"synced", "unchanged"}, errors(reports)
        # What both ledgers disagree on are conflicts, and nothing else.
        assert {one.verdict for one in reports if not one.conflicts} <= {"match"}, errors(reports)


def explained(reports: list[DayReport], secrets: list[str]) -> None:
    for report in reports:
        if report.outcome == "failed":
            assert isinstance(report.error, BackfillError), report.error
            assert report.reason
            assert "\n" not in report.reason
            assert len(report.reason) < 1500
            assert not any(secret in report.reason for secret in secrets)
        else:
            assert report.error is None
            assert report.verdict in ("match", "break")


def run_with_every_fault(make_dual: MakeDual, seed: int, auth: str, days: int, entries: int) -> None:
    dice = random.Random(seed)
    dual = make_dual(ledgers=2, days=days, entries_per_day=entries, seed=seed)
    secrets = [one for one in dual.environment.values() if one]
    for bank in dual.ledgers:
        dual.write_scb(
            bank,
            auth=auth,
            scb={
                "page_size": PAGE,
                "batch_size": 20,
                "backoff_s": 0.01,
                "max_attempts": 6,
                "send_attempts": 20,
            },
        )
    for bank in dual.ledgers:
        dual.open(bank)
    two_nights_with_faults_and_one_without(dual, dice, secrets)
    for bank in dual.ledgers:
        dual.assert_nothing_lost(bank)
    # Bounded: every page may be asked for some times by every fetch, and a day is fetched a few times a night.
    pages = 2 * days * (entries // PAGE + 2)
    assert len(dual.log()) < 3 * 4 * 6 * pages


@pytest.mark.parametrize(("seed", "auth"), [(1, "oauth2"), (2, "bearer")])
def test_with_every_fault_at_random_nothing_is_lost_and_nothing_twice(
    make_dual: MakeDual, seed: int, auth: str
) -> None:
    run_with_every_fault(make_dual, seed, auth, days=3, entries=40)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 22))
def test_with_every_fault_at_random_many_times(make_dual: MakeDual, seed: int) -> None:
    run_with_every_fault(make_dual, seed, ("oauth2", "bearer")[seed % 2], days=8, entries=150)
