"""Operations for whoever runs the simulation: faults, late and changed entries, the log, reset.

Belongs here: what no real bank offers.
Does not: what a client of the bank may call (`reading.py`, `telling.py`).
"""

from datetime import date
from decimal import Decimal
from typing import Final

from backfill_pipeline.errors import UsageError
from backfill_pipeline.money import minor_units
from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.changes import Change
from backfill_pipeline.scb_simulator.contract import (
    ChangeAsked,
    EntryList,
    FaultsAsked,
    FaultStates,
    Health,
    LateEntriesAsked,
    Log,
)
from backfill_pipeline.scb_simulator.faults import dumped, make_faults
from backfill_pipeline.scb_simulator.ledger import Entry
from backfill_pipeline.scb_simulator.web.calls import (
    Call,
    Operation,
    ProblemError,
    Reply,
    asked,
    json_bytes,
    model_reply,
)
from backfill_pipeline.scb_simulator.web.reading import entry_object

_MINOR_MAX: Final = 10**18


def put_faults(call: Call) -> Reply:
    """These faults and no others."""
    try:
        faults = make_faults(list(asked(call, FaultsAsked).faults), "faults")
    except UsageError as error:
        raise ProblemError(422, "invalid", str(error)) from None
    call.bank.switches.replace(faults)
    return list_faults(call)


def list_faults(call: Call) -> Reply:
    """All faults, and how often they struck."""
    found = [
        {"fault": dumped(one.fault), "seen": one.seen, "fired": one.fired}
        for one in call.bank.switches.current()
    ]
    return Reply(json_bytes({"faults": found}))


def show_log(call: Call) -> Reply:
    """The latest requests."""
    return model_reply(Log(requests=call.bank.log.lines()))


def add_late_entries(call: Call) -> Reply:
    """Further entries on a day."""
    wanted = asked(call, LateEntriesAsked)
    book = call.bank.books.get(wanted.ledger)
    if book is None:
        raise ProblemError(404, "unknown_ledger", f"ledger must be one of {', '.join(call.bank.books)}")
    ledger = book.ledger
    try:
        day = date.fromisoformat(wanted.day)
    except ValueError:
        raise ProblemError(422, "invalid", "day must be a date such as 2024-03-05") from None
    if not ledger.has_day(day) or ledger.calendar.length_s(day) <= 0:
        last = ledger.calendar.day_of(ledger.end_s - 1)
        raise ProblemError(422, "invalid", f"day must be one of the ledger's, {ledger.first_day} to {last}")
    return _entries(book.add_late(day, wanted.count, wanted.appear_after_s), 201)


def change_entry(call: Call) -> Reply:
    """Another amount or other accounts for an entry."""
    wanted = asked(call, ChangeAsked)
    for book in call.bank.books.values():
        if entry := book.find(wanted.reference):
            return _entries([book.change(entry, _change(book, entry, wanted))])
    raise ProblemError(404, "unknown_reference", "no ledger has an entry of this reference")


def reset(call: Call) -> Reply:
    """Everything as on the first day."""
    call.bank.reset()
    return Reply(json_bytes({"status": "ok"}))


def _change(book: Book, entry: Entry, wanted: ChangeAsked) -> Change:
    minor = entry.minor if wanted.amount is None else _minor(wanted.amount, entry.currency)
    debit = wanted.debit_account or entry.debit_account
    credit = wanted.credit_account or entry.credit_account
    for account_id in (debit, credit):
        account = book.ledger.account_ids.get(account_id)
        if account is None or account.currency != entry.currency:
            raise ProblemError(
                422, "invalid", f"accounts must be of ledger {book.ledger.id} and kept in {entry.currency}"
            )
    if debit == credit:
        raise ProblemError(422, "invalid", "credit_account must differ from debit_account")
    return Change(debit, credit, minor)


def _minor(amount: str, currency: str) -> int:
    scaled = Decimal(amount).scaleb(minor_units(currency) or 0)
    if scaled != int(scaled) or not 0 < scaled < _MINOR_MAX:
        raise ProblemError(
            422, "invalid", f"amount must be more than 0, with at most {minor_units(currency)} decimals"
        )
    return int(scaled)


def _entries(entries: list[Entry], status: int = 200) -> Reply:
    return Reply(json_bytes({"entries": [entry_object(entry) for entry in entries]}), status)


OPERATIONS: Final = (
    Operation(
        "faults",
        "GET",
        "/admin/faults",
        "List the faults that are switched on",
        list_faults,
        {200: FaultStates},
        guard="admin",
    ),
    Operation(
        "set_faults",
        "PUT",
        "/admin/faults",
        "Switch on these faults and no others",
        put_faults,
        {200: FaultStates},
        guard="admin",
        takes=FaultsAsked,
    ),
    Operation(
        "late_entries",
        "POST",
        "/admin/late-entries",
        "Add entries to a day, at once or after a while",
        add_late_entries,
        {201: EntryList},
        guard="admin",
        takes=LateEntriesAsked,
    ),
    Operation(
        "change_entry",
        "POST",
        "/admin/change-entry",
        "Change the amount or the accounts of an entry",
        change_entry,
        {200: EntryList},
        guard="admin",
        takes=ChangeAsked,
    ),
    Operation("log", "GET", "/admin/log", "List the latest requests", show_log, {200: Log}, guard="admin"),
    Operation(
        "reset",
        "POST",
        "/admin/reset",
        "Forget what was told, added and changed, all faults, issued tokens and the log",
        reset,
        {200: Health},
        guard="admin",
    ),
)
