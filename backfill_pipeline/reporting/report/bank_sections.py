"""The sections of a report that only banks and their days have.

Belongs here: their words and tables.
Does not: comparing both ledgers (`dual_ledger/`), what every source has (`sections.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from backfill_pipeline.ledger.banks.sync_status import SyncStatus
from backfill_pipeline.pages.parts import LONG, Safe, amount, badge, moment, table, text
from backfill_pipeline.reporting.report.facts import BankFacts
from backfill_pipeline.wording import counted

DAYS_MAX: Final = 5_000
_OPEN_DAYS: Final = 20


def days(bank: BankFacts) -> str:
    """The days of a bank: first those that are not complete."""
    if not bank.days:
        return "<p>No day was begun.</p>"
    waiting = [one for one in bank.days if not one.complete]
    complete = [one for one in bank.days if one.complete]
    said = _progress(bank)
    if waiting:
        rows = [
            (
                one.day,
                one.state,
                one.fetched or 0,
                one.posted or 0,
                one.acknowledged or 0,
                Safe(text(one.reason, LONG)),
            )
            for one in waiting[:DAYS_MAX]
        ]
        header = ("Day", "State", "Fetched", "Posted", "Told", "Why")
        said += table(header, rows, caption="Days that are not complete")
    if complete:
        table_of = table(
            (
                "Day",
                "Fetched",
                "Posted",
                "Duplicates",
                "Conflicts",
                "Rejected",
                "Filtered",
                "Told",
                "Compared",
            ),
            [_complete(one) for one in complete[:DAYS_MAX]],
            caption="Days on which both ledgers are equal",
        )
        summary = f"<summary>{counted(len(complete), 'complete day')}</summary>"
        said += f"<details{'' if len(complete) > _OPEN_DAYS else ' open'}>{summary}{table_of}</details>"
    return said


def _complete(one: SyncStatus) -> tuple[object, ...]:
    counts = (
        one.fetched,
        one.posted,
        one.duplicates,
        one.conflicts,
        one.rejected,
        one.filtered,
        one.acknowledged,
    )
    return (one.day, *(count or 0 for count in counts), moment(one.reconciled_at))


def _progress(bank: BankFacts) -> str:
    found = bank.progress
    if found is None or len(bank.days) == 1:
        return ""
    until = "no day from the first on" if found.complete_to is None else f"every day to {found.complete_to}"
    return (
        f"<p>{text(found.bank_id)}: {counted(found.complete, 'day')} of {found.days:,} complete, {found.first_day} to"
        f" {found.last_day}; complete is {until}. Of {counted(found.entries, 'entry', 'entries')}, the bank is not"
        f" known to know {found.unacknowledged:,}.</p>"
    )


def told(bank: BankFacts) -> str:
    """What the bank was told, and what not yet."""
    rows = [(one.kind, one.status, one.count, moment(one.oldest), moment(one.newest)) for one in bank.outbox]
    return table(
        ("What", "Status", "Rows", "Oldest", "Newest"), rows, caption="Rows of the outbox for this bank"
    )


def day_compared(one: SyncStatus, source_id: str) -> str:
    """What is known of one day of both ledgers."""
    proven = one.verdict == "match" and one.complete
    said = (
        f"<p>{badge('good', 'equal')} Both ledgers have the same entries, and the bank knows of each.</p>"
        if proven
        else f"<p>{badge('bad' if one.state in ('break', 'failed') else 'open', one.state)}"
        f" {text(one.reason or 'Nobody knows yet whether both ledgers are equal.', LONG)}</p>"
    )
    totals = one.control_totals or {}
    rows: list[tuple[object, ...]] = [
        ("The day, in UTC", f"{moment(one.window_from)} to {moment(one.window_to)}"),
        ("Entries that the bank served", one.fetched),
        ("Entries that it stated", totals.get("count")),
        ("Posted", one.posted),
        ("The bank knows of", one.acknowledged),
        ("Breaks", one.break_count),
        ("Compared", moment(one.reconciled_at)),
        ("Tries", one.attempts),
    ]
    said += table((), rows, caption=f"The day at {one.bank_id}")
    sums = totals.get("sums")
    if isinstance(sums, Mapping) and sums:
        stated = [(str(currency), amount(Decimal(str(total)))) for currency, total in sorted(sums.items())]
        said += table(("Currency", "Sum"), stated, caption="Control totals of the bank")
    if one.state == "break":
        bank = source_id.partition("@")[0]
        command = f"backfill sync reconcile {bank} --from {one.day} --to {one.day}"
        said += f"<p>The breaks one by one: <code>{text(command)}</code></p>"
    return said
