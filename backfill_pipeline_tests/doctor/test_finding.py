"""Checks fail alone, hang alone, and tell no secret."""

from __future__ import annotations

import threading

import pytest

from backfill_pipeline.doctor.environment import secrets_of_environment
from backfill_pipeline.doctor.finding import Finding, Outcome, harmless, looked, looked_in_time, ok
from backfill_pipeline.errors import LedgerError


def test_whatever_a_check_raises_is_a_finding() -> None:
    def refused() -> Finding:
        raise LedgerError("the ledger is away: start it")

    def broken() -> Finding:
        raise KeyError("x")

    assert looked("a", refused, "start") == Finding(
        "a", Outcome.PROBLEM, "the ledger is away: start it", "start"
    )
    found = looked("b", broken)
    assert found.outcome is Outcome.PROBLEM
    assert "KeyError" in found.sentence


def test_a_check_that_hangs_leaves_what_was_found_before_it() -> None:
    never = threading.Event()

    def hang() -> Finding:
        never.wait()
        return ok("b", "woke up")

    checks = [("a", lambda: ok("a", "fine")), ("b", hang), ("c", lambda: ok("c", "fine"))]
    found = looked_in_time(checks, 0.05, "look", late="it hangs")
    never.set()
    assert [(one.name, one.outcome) for one in found] == [
        ("a", Outcome.OK),
        ("b", Outcome.PROBLEM),
        ("c", Outcome.NOT_LOOKED),
    ]
    assert found[1].sentence == "no answer within 0.05 s: it hangs"


def test_what_is_shown_holds_no_secret_and_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://ana:p%40ss-word@db.example.org/ledger")
    monkeypatch.setenv("OTHER_DATABASE_URL", "postgresql://ana:half@broken@db.example.org/ledger")
    monkeypatch.setenv("BACKFILL_ALERT_SLACK_WEBHOOK_URL", "https://hooks.example.org/services/T0/B0/abcdef")
    monkeypatch.setenv("BANK_TOKEN", "tok-123456")
    text = (
        "p@ss-word p%40ss-word half@broken tok-123456 services/T0/B0/abcdef mysql://root:other-secret@h/d"
        " db.example.org \x1b[31mred"
    )
    shown = harmless(Finding("a", Outcome.PROBLEM, text, text), secrets_of_environment())
    for said in (shown.sentence, shown.remedy or ""):
        for secret in ("ss-word", "broken", "tok-1", "abcdef", "other-secret", "\x1b"):
            assert secret not in said
        assert "db.example.org" in said
