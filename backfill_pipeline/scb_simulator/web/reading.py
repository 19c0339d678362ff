"""Operations that read: ledgers, their accounts, entries and totals, and what the bank was told.

Belongs here: parameters in, pages out, and the faults that spoil content.
Does not: what is in a ledger (`book.py`), what was told (`told.py`).
"""

import itertools
from collections.abc import Iterable
from typing import Final

from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.changes import Change
from backfill_pipeline.scb_simulator.contract import (
    AccountList,
    AcknowledgementPage,
    EntryPage,
    LedgerList,
    ReceivedPage,
)
from backfill_pipeline.scb_simulator.contract import Totals as TotalsAnswer
from backfill_pipeline.scb_simulator.dice import Dice
from backfill_pipeline.scb_simulator.faults import (
    AnyFault,
    ChangedEntry,
    DuplicatePage,
    LateEntries,
    LoopingCursor,
    OverlappingPages,
    WrongTotals,
)
from backfill_pipeline.scb_simulator.ledger import Entry, amount_text
from backfill_pipeline.scb_simulator.told import (
    acknowledgements_after,
    received_after,
    received_lines,
    received_totals,
)
from backfill_pipeline.scb_simulator.totals import Totals, canonical_line, digest
from backfill_pipeline.scb_simulator.web.calls import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    Call,
    Operation,
    Parameter,
    ProblemError,
    Reply,
    json_bytes,
    model_reply,
)
from backfill_pipeline.scb_simulator.web.cursors import EntryCursor, entry_cursor, sequence_of, sequence_text

_MOMENT: Final = {"type": "string", "format": "date-time"}
_FROM: Final = Parameter("from", "first moment, with offset; by default the ledger's first", _MOMENT)
_TO: Final = Parameter("to", "moment before which all is booked; by default the ledger's end", _MOMENT)
_CURSOR: Final = Parameter("cursor", "next_cursor of the page before")
_LIMIT: Final = Parameter(
    "limit",
    "at most so many items",
    {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
)


def entry_object(entry: Entry) -> dict[str, object]:
    """An entry as it is sent."""
    return {
        "reference": entry.reference,
        "booked_at": entry.booked_at,
        "debit_account": entry.debit_account,
        "credit_account": entry.credit_account,
        "amount": entry.amount,
        "currency": entry.currency,
        "type": entry.type,
        "narrative": entry.narrative,
        "metadata": entry.metadata,
    }


def list_ledgers(call: Call) -> Reply:
    """All ledgers."""
    found = [
        {
            "id": ledger.id,
            "timezone": ledger.options.timezone,
            "currencies": list(ledger.options.currencies),
            "accounts": len(ledger.accounts),
            "first_day": ledger.first_day.isoformat(),
            "last_day": ledger.calendar.day_of(ledger.end_s - 1).isoformat(),
            "from": ledger.calendar.written(ledger.start_s),
            "to": ledger.calendar.written(ledger.end_s),
        }
        for ledger in (book.ledger for book in call.bank.books.values())
    ]
    return Reply(json_bytes({"ledgers": found}))


def list_accounts(call: Call) -> Reply:
    """All accounts of a ledger."""
    ledger = call.book().ledger
    found = [
        {
            "id": one.id,
            "name": one.name,
            "currency": one.currency,
            "normal_side": one.normal_side,
            "opening_balance": amount_text(one.opening_minor, one.currency),
            "shared": one.shared,
        }
        for one in ledger.accounts
    ]
    as_of = ledger.calendar.written(ledger.start_s)
    return Reply(json_bytes({"ledger": ledger.id, "as_of": as_of, "accounts": found}))


# --- entries ----------------------------------------------------------------------------------------------------


def list_entries(call: Call) -> Reply:
    """A page of entries."""
    book, limit = call.book(), call.limit()
    cursor = _cursor(call, book)
    spoiling = _strike(call, "looping_cursor", *(() if cursor.after is None else _FURTHER_PAGES))
    if isinstance(spoiling, DuplicatePage):
        entries, _ = book.page(cursor.from_s, cursor.to_s, cursor.before, limit)
        going_on: EntryCursor | None = cursor
    else:
        repeated = _repeated(book, cursor, limit, spoiling)
        fresh, more = book.page(cursor.from_s, cursor.to_s, cursor.after, limit - len(repeated))
        entries = repeated + fresh
        going_on = (
            EntryCursor(cursor.ledger, cursor.from_s, cursor.to_s, fresh[-1].place, cursor.after)
            if more
            else None
        )
    page = {
        "entries": [entry_object(entry) for entry in entries],
        "next_cursor": None if going_on is None else going_on.text(),
    }
    _happen_afterwards(call, book, cursor, entries, is_last=going_on is None)
    if isinstance(spoiling, LoopingCursor):
        page["next_cursor"] = cursor.text()
    return Reply(json_bytes(page))


_FURTHER_PAGES: Final = ("duplicate_page", "overlapping_pages")


def _cursor(call: Call, book: Book) -> EntryCursor:
    text = call.query.get("cursor")
    if text is None:
        return EntryCursor(book.ledger.id, *call.interval(book))
    cursor = entry_cursor(text, book.ledger.id)
    if call.moment_s("from") not in (None, cursor.from_s) or call.moment_s("to") not in (None, cursor.to_s):
        raise ProblemError(
            400,
            "bad_cursor",
            "cursor belongs to a listing with another from or to: leave both out, or send the same",
        )
    return cursor


def _strike(call: Call, *kinds: str) -> AnyFault | None:
    """Whether a fault of these kinds strikes now; the log will say so."""
    struck = call.bank.switches.strike("entries", kinds)
    call.struck += struck
    return struck[0] if struck else None


def _repeated(book: Book, cursor: EntryCursor, limit: int, spoiling: AnyFault | None) -> list[Entry]:
    """What a page repeats of the one before it. There is always room for a fresh entry, so that a listing ends."""
    count = min(spoiling.entries, limit - 1) if isinstance(spoiling, OverlappingPages) else 0
    if not count or cursor.after is None:
        return []
    before, _ = book.page(cursor.from_s, cursor.after.booked_s + 1, cursor.before, LIMIT_MAX)
    return [entry for entry in before if entry.place <= cursor.after][-count:]


def _happen_afterwards(
    call: Call, book: Book, cursor: EntryCursor, entries: list[Entry], *, is_last: bool
) -> None:
    """What the bank does with its books once this page is made."""
    if entries and isinstance(fault := _strike(call, "changed_entry"), ChangedEntry):
        entry = entries[Dice(fault.seed, "which").one(entries[0].place.booked_s, len(entries))]
        book.change(entry, _other(book, entry, fault))
    if is_last:
        ledger = book.ledger
        from_s, to_s = max(cursor.from_s, ledger.start_s), min(cursor.to_s, ledger.end_s)
        if from_s < to_s and isinstance(fault := _strike(call, "late_entries"), LateEntries):
            book.add_late(ledger.calendar.day_of(to_s - 1), fault.entries, fault.appear_after_s)


def _other(book: Book, entry: Entry, fault: ChangedEntry) -> Change:
    number = Dice(fault.seed, "what").one(entry.place.number, 1000)
    if fault.what == "amount":
        return Change(entry.debit_account, entry.credit_account, entry.minor + 1 + number)
    others = [
        account.id
        for account in book.ledger.accounts
        if account.currency == entry.currency
        and account.id not in (entry.debit_account, entry.credit_account)
    ]
    return Change(entry.debit_account, others[number % len(others)], entry.minor)


# --- totals -----------------------------------------------------------------------------------------------------


def list_totals(call: Call) -> Reply:
    """Totals of an interval, and of each day in it."""
    book = call.book()
    from_s, to_s = call.interval(book)
    kind = call.choice("of", "entries", "received")
    with_digest = call.choice("digest", "false", "true") == "true"
    rows = (
        _received_days(call, book, from_s, to_s, with_digest=with_digest)
        if kind == "received"
        else _own_days(book, from_s, to_s, with_digest=with_digest)
    )
    whole, days = Totals(), []
    for day, totals, content_digest in rows:
        whole.add_all(totals)
        days.append({**day, **_amounts(totals)} | ({"digest": content_digest} if with_digest else {}))
    written = book.ledger.calendar.written
    answer: dict[str, object] = {
        "ledger": book.ledger.id,
        "of": kind,
        "from": written(from_s),
        "to": written(to_s),
        **_amounts(whole),
        "days": days,
    }
    struck = call.bank.switches.strike("totals", ("wrong_totals",))
    call.struck += struck
    if struck and isinstance(fault := struck[0], WrongTotals):
        answer.update(_wrong(whole, fault))
    return Reply(json_bytes(answer))


_Day = tuple[dict[str, object], Totals, str | None]


def _own_days(book: Book, from_s: int, to_s: int, *, with_digest: bool) -> Iterable[_Day]:
    for one in book.totals(from_s, to_s, with_digest=with_digest):
        yield _day(book, one.day.isoformat(), one.from_s, one.to_s), one.totals, one.digest


def _received_days(call: Call, book: Book, from_s: int, to_s: int, *, with_digest: bool) -> Iterable[_Day]:
    calendar = book.ledger.calendar
    with call.bank.store.read() as connection:
        for one in received_totals(connection, book, from_s, to_s):
            start_s = calendar.start_s(one.day)
            part = max(from_s, start_s), min(to_s, start_s + calendar.length_s(one.day))
            lines = itertools.starmap(canonical_line, received_lines(connection, book, *part))
            yield (
                _day(book, one.day.isoformat(), *part),
                one.totals,
                digest(lines) if with_digest else None,
            )


def _day(book: Book, day: str, from_s: int, to_s: int) -> dict[str, object]:
    written = book.ledger.calendar.written
    return {"day": day, "from": written(from_s), "to": written(to_s)}


def _amounts(totals: Totals) -> dict[str, object]:
    return {
        "count": totals.count,
        "sums": {code: amount_text(minor, code) for code, minor in totals.sums().items()},
    }


def _wrong(totals: Totals, fault: WrongTotals) -> dict[str, object]:
    right = totals.sums()
    if fault.what == "count" or not right:
        return {"count": totals.count + 1}
    first = next(iter(right))
    return {"sums": {code: amount_text(minor + (code == first), code) for code, minor in right.items()}}


# --- what the bank was told -------------------------------------------------------------------------------------


def list_acknowledgements(call: Call) -> Reply:
    """A page of acknowledgements."""
    ledger, limit = call.book().ledger.id, call.limit()
    with call.bank.store.read() as connection:
        found = acknowledgements_after(connection, ledger, _sequence(call, "acknowledgements"), limit + 1)
    cursor = _next(found[:limit], len(found) > limit, "acknowledgements", ledger)
    return model_reply(AcknowledgementPage(acknowledgements=found[:limit], next_cursor=cursor))


def list_received(call: Call) -> Reply:
    """A page of received entries."""
    ledger, limit = call.book().ledger.id, call.limit()
    with call.bank.store.read() as connection:
        found = received_after(connection, ledger, _sequence(call, "received"), limit + 1)
    cursor = _next(found[:limit], len(found) > limit, "received", ledger)
    return model_reply(ReceivedPage(entries=found[:limit], next_cursor=cursor))


def _sequence(call: Call, listing: str) -> int:
    text = call.query.get("cursor")
    return 0 if text is None else sequence_of(text, listing, call.place["ledger"])


def _next(items: Iterable[object], more: bool, listing: str, ledger: str) -> str | None:
    last = [getattr(one, "sequence", 0) for one in items][-1:]
    return sequence_text(listing, ledger, last[0]) if more and last else None


OPERATIONS: Final = (
    Operation("ledgers", "GET", "/ledgers", "List the ledgers of the bank", list_ledgers, {200: LedgerList}),
    Operation(
        "entries",
        "GET",
        "/ledgers/{ledger}/entries",
        "List the entries booked in [from, to), in the order of booking",
        list_entries,
        {200: EntryPage},
        parameters=(_FROM, _TO, _CURSOR, _LIMIT),
    ),
    Operation(
        "totals",
        "GET",
        "/ledgers/{ledger}/totals",
        "Count and sum up what is booked in [from, to), whole and by the bank's days",
        list_totals,
        {200: TotalsAnswer},
        parameters=(
            _FROM,
            _TO,
            Parameter(
                "of",
                "the bank's own entries, or those it received",
                {"type": "string", "enum": ["entries", "received"], "default": "entries"},
            ),
            Parameter(
                "digest",
                "with a digest of each day's content",
                {"type": "string", "enum": ["false", "true"], "default": "false"},
            ),
        ),
    ),
    Operation(
        "accounts",
        "GET",
        "/ledgers/{ledger}/accounts",
        "List the accounts of a ledger",
        list_accounts,
        {200: AccountList},
    ),
    Operation(
        "acknowledgements",
        "GET",
        "/ledgers/{ledger}/acknowledgements",
        "List the latest acknowledgement of each entry, by the order in which they came",
        list_acknowledgements,
        {200: AcknowledgementPage},
        parameters=(_CURSOR, _LIMIT),
    ),
    Operation(
        "received",
        "GET",
        "/ledgers/{ledger}/received",
        "List the entries that the bank received, by the order in which they came",
        list_received,
        {200: ReceivedPage},
        parameters=(_CURSOR, _LIMIT),
    ),
)
