"""What came from a bank never goes back to it as new, whatever the bank does: a round trip ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from backfill_pipeline.definition.scb_days import scb_of
from backfill_pipeline.scb_simulator.calendar import utc_text
from backfill_pipeline.scb_simulator.totals import canonical_line, digest
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.hostile import Asked, HostileBank, as_json, hostile_bank
from backfill_pipeline_tests.dual_ledger.syncing import errors, outcomes, sync, tell
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual, our_ledger


def told(dual: Dual) -> int:
    return sum(line.method == "POST" and line.operation != "token" for line in dual.log())


def test_both_ledgers_tell_each_other_once_and_then_there_is_nothing_left_to_tell(dual: Dual) -> None:
    sync(dual)
    for number in range(5):
        dual.post_here(f"OURS-{number}")
    tell(dual)
    sync(dual)
    dual.assert_equal()
    assert set(dual.received()) == {f"OURS-{number}" for number in range(5)}
    rows, requests = len(dual.outbox()), told(dual)
    for refetch in ("changed", "always", "changed"):
        reports = sync(dual, refetch=refetch)
        assert set(outcomes(reports)) == {"synced" if refetch == "always" else "unchanged"}
        assert tell(dual).left == 0
    assert (len(dual.outbox()), told(dual)) == (rows, requests)
    dual.assert_equal()


def test_entries_of_one_bank_in_the_ledger_of_another_are_told_to_that_one_alone(make_dual: MakeDual) -> None:
    """Two banks, and a session that posts what one of them booked into the ledger that is kept with the other."""
    dual = make_dual(ledgers=2, unknown_accounts="accept")
    for bank in dual.ledgers:
        sync(dual, bank)
    dual.query(
        "WITH origin AS (SELECT set_config('backfill.origin', 'SCB-01', true)) SELECT post_ledger_entry("
        " %s, e.debit_account_id, e.credit_account_id, e.amount, e.currency_code, e.asset_type, e.transaction_type,"
        " 'COPY-' || e.reference_id, NULL, NULL, e.timestamp_utc) FROM origin, (SELECT * FROM ledger_entries"
        " WHERE ledger_id = %s AND reference_id LIKE 'SCB-01-%%' ORDER BY id LIMIT 3) e",
        our_ledger("SCB-02"),
        our_ledger("SCB-01"),
    )
    tell(dual)
    for bank in dual.ledgers:
        sync(dual, bank)
    tell(dual)
    assert len(dual.received("SCB-02")) == 3
    assert dual.received("SCB-01") == {}
    assert len(dual.acknowledged("SCB-01")) == 120


# --- a bank that books what it is sent ------------------------------------------------------------------------------


class Echo:
    """A bank that lists what it was sent among its own entries, and counts it in its totals.

    Attributes:
        forgotten: references of entries that it does not know any more.
    """

    def __init__(self, dual: Dual) -> None:
        self.dual = dual
        self.forgotten: set[str] = set()
        self.http = httpx.Client(base_url=dual.simulator.base_url, timeout=30, trust_env=False)

    def __call__(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(asked.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if asked.method == "GET" and parts.path.endswith("/entries"):
            entries = [one for one in self._entries() if query["from"] <= one["at"] < query["to"]]
            for one in entries:
                one.pop("at")
            return as_json({"entries": entries, "next_cursor": None})
        if asked.method == "GET" and parts.path.endswith("/totals") and query.get("of") == "entries":
            return as_json(self._totals(query["from"], query["to"]))
        kept = {
            name: asked.headers[name]
            for name in asked.headers
            if name in ("Authorization", "Idempotency-Key", "Content-Type")
        }
        answer = self.http.request(asked.method, asked.path, content=asked.body, headers=kept)
        return answer.status_code, {"Content-Type": answer.headers["content-type"]}, answer.content

    def _entries(self) -> list[dict[str, str]]:
        own = [
            (one.reference, one.booked_at, one.debit, one.credit, str(one.amount), one.currency, one.type)
            for one in self.dual.entries_there().values()
        ]
        echoed = [
            (one.reference, datetime.fromisoformat(one.booked_at), one.debit_account, one.credit_account, one.amount, one.currency, one.type)
            for one in self.dual.received().values()
        ]  # fmt: skip
        zone = self.dual.simulator.bank.books["SCB-01"].ledger.calendar
        names = ("reference", "booked_at", "debit_account", "credit_account", "amount", "currency", "type")
        found = []
        for row in own + echoed:
            if row[0] in self.forgotten:
                continue
            written = zone.written(int(row[1].timestamp()))
            found.append({**dict(zip(names, (row[0], written, *row[2:]), strict=True)), "at": written})
        return found

    def _totals(self, begin: str, end: str) -> dict[str, object]:
        entries = self._entries()
        first, last = datetime.fromisoformat(begin), datetime.fromisoformat(end)
        days, day = [], first.date()
        calendar = self.dual.simulator.bank.books["SCB-01"].ledger.calendar
        while day < last.date():
            start, stop = (
                calendar.written(calendar.start_s(day)),
                calendar.written(calendar.start_s(day + timedelta(days=1))),
            )
            of_day = [one for one in entries if one["at"][:10] == day.isoformat()]
            lines = [
                canonical_line(
                    one["reference"],
                    utc_text(int(datetime.fromisoformat(one["at"]).timestamp())),
                    one["debit_account"],
                    one["credit_account"],
                    one["amount"],
                    one["currency"],
                )
                for one in sorted(of_day, key=lambda one: one["reference"])
            ]
            days.append(
                {"day": day.isoformat(), "from": start, "to": stop, **_sums(of_day), "digest": digest(lines)}
            )
            day += timedelta(days=1)
        every = [one for one in entries if begin[:10] <= one["at"][:10] < end[:10]]
        return {"ledger": "SCB-01", "of": "entries", "from": begin, "to": end, **_sums(every), "days": days}


def _sums(entries: list[dict[str, str]]) -> dict[str, object]:
    sums: dict[str, Decimal] = {}
    for one in entries:
        sums[one["currency"]] = sums.get(one["currency"], Decimal(0)) + Decimal(one["amount"])
    return {"count": len(entries), "sums": {currency: str(amount) for currency, amount in sums.items()}}


@pytest.fixture
def echoing(dual: Dual) -> Iterator[tuple[Dual, HostileBank]]:
    with hostile_bank() as bank:
        echo = Echo(dual)
        bank.answer = echo
        dual.write_scb(scb={"base_url": bank.url}, metadata=None)
        yield dual, bank
        echo.http.close()


def test_a_bank_that_lists_what_it_was_sent_ends_the_round_trip_too(
    echoing: tuple[Dual, HostileBank],
) -> None:
    """Our entry comes back among the bank's own: it is known here, so it is neither posted nor told again."""
    dual, bank = echoing
    assert outcomes(sync(dual)) == ["synced"] * 3
    dual.post_here("OURS-1", at=f"{FIRST_DAY}T12:00:00Z")
    tell(dual)
    assert set(dual.received()) == {"OURS-1"}
    before, rows = dual.snapshot().entries, dual.outbox()
    for _ in range(2):
        reports = sync(dual)
        assert reports[0].fetched == 41
        assert (reports[0].duplicates, reports[0].conflicts) in ((41, 0), (1, 0)), dual.query(
            "SELECT code, reason, raw FROM backfill_rejects"
        )
        assert {one.verdict for one in reports} == {"match"}, errors(reports)
        tell(dual)
    assert dual.snapshot().entries == before
    assert dual.outbox() == rows
    posted = [json.loads(one.body) for one in bank.asked if one.method == "POST"]
    sent = [item["reference"] for one in posted for items in one.values() for item in items]
    assert len(sent) == len(set(sent)) == 121
    assert scb_of(dual.definition()).send_entries


def test_an_entry_that_the_bank_does_not_know_any_more_stays_here_and_is_told(
    echoing: tuple[Dual, HostileBank],
) -> None:
    """A ledger is never unposted: a person has to decide."""
    dual, bank = echoing
    sync(dual)
    before = dual.snapshot().entries
    reference = f"SCB-01-{FIRST_DAY:%Y%m%d}-000000009"
    assert isinstance(bank.answer, Echo)
    bank.answer.forgotten.add(reference)
    for _ in range(2):
        first, *others = sync(dual)
        assert first.verdict == "break"
        assert "missing there" in str(first.reason)
        assert reference in str(first.reason)
        assert outcomes(others) == ["unchanged"] * 2
    assert dual.snapshot().entries == before
    bank.answer.forgotten.clear()
    assert sync(dual)[0].verdict == "match"
