"""The outcome of a report: what the facts come to, in one line, and what there is to do.

Belongs here: judging. Whatever is not known to be right is not called right.
Does not: reading facts (`facts.py`), showing them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from backfill_pipeline.ledger.banks.sync_status import SyncStatus
from backfill_pipeline.reporting.report.facts import BankFacts, Facts
from backfill_pipeline.wording import are, counted


class Level(IntEnum):
    """How bad a finding is; the worst one is that of the whole."""

    GOOD = 0
    NOTED = 1
    OPEN = 2
    FAILED = 3
    BROKEN = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not hold, or not yet. `remedy` is a command, or what there is to do."""

    level: Level
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a source comes to.

    Attributes:
        level: of the worst finding.
        word: the same in a word or two.
        sentence: the counts, and how source and ledger compare.
        findings: the worst first.
    """

    level: Level
    word: str
    sentence: str
    findings: tuple[Finding, ...]


_WORDS = {
    Level.GOOD: "complete and equal",
    Level.NOTED: "complete, with rejected rows",
    Level.OPEN: "not complete",
    Level.FAILED: "failed",
    Level.BROKEN: "does not hold",
}


def judge(facts: Facts) -> Outcome:
    """Judges the facts of a source, of a bank or of a day."""
    about_bank = () if facts.bank is None else _of_bank(facts, facts.bank)
    found = [*_of_counts(facts), *_of_reconciliation(facts), *about_bank, *_of_ledger(facts)]
    found.sort(key=lambda one: -one.level)
    level = found[0].level if found else Level.GOOD
    return Outcome(level, _WORDS[level], _sentence(facts), tuple(found))


def _sentence(facts: Facts) -> str:
    counts = facts.counts
    parts = [
        f"{counts.posted:,} posted",
        counted(counts.duplicates, "duplicate"),
        counted(counts.conflicts, "conflict"),
        f"{counts.rejected:,} rejected",
        f"{counts.filtered:,} filtered",
    ]
    read = (
        f"All {counted(counts.rows, 'row')} read"
        if not counts.not_posted
        else f"{counts.read:,} of {counted(counts.rows, 'row')} read"
    )
    if not counts.rows:
        read = "No row to read"
    return f"{read}: {', '.join(parts)}. {_compared(facts)}"


def _compared(facts: Facts) -> str:
    if facts.bank is not None:
        complete = sum(one.complete for one in facts.bank.days)
        days = len(facts.bank.days)
        if days == 1:
            return "Both ledgers are equal." if complete else "Both ledgers are not proven equal."
        return f"Both ledgers are equal on {complete:,} of {counted(days, 'day')}."
    if facts.verdict is None:
        return "The ledger was not compared with the source."
    if facts.verdict.verdict != "match":
        return "The ledger differs from the source."
    return "The ledger equalled the source." if facts.stale else "The ledger equals the source."


def _of_counts(facts: Facts) -> Iterator[Finding]:
    counts, source = facts.counts, facts.source_id
    if not counts.adds_up:
        yield Finding(
            Level.BROKEN,
            "the counts do not add up: read is not the sum of the others",
            "backfill audit names the batches",
        )
    waiting = {
        state: count for state, count in counts.partitions.items() if state not in ("posted", "failed")
    }
    failed = counts.partitions.get("failed", 0)
    # Of a bank, its days say the same, with what there is to do.
    told_by_days = facts.bank is not None and not all(one.complete for one in facts.bank.days)
    if failed and not told_by_days:
        yield Finding(
            Level.FAILED,
            f"{counted(failed, 'partition')} failed",
            f"backfill resume {source}, once the reason that is told below is gone",
        )
    if waiting and not told_by_days:
        told = ", ".join(f"{count:,} {state}" for state, count in sorted(waiting.items()))
        yield Finding(
            Level.OPEN,
            f"{counted(sum(waiting.values()), 'partition')} not posted ({told})",
            f"backfill resume {source}",
        )
    kept = facts.rejected_now
    if not waiting and not failed and kept != counts.rejected + counts.conflicts:
        yield Finding(
            Level.BROKEN,
            f"{counted(counts.rejected + counts.conflicts, 'reject')} counted, {kept:,} kept",
            "backfill audit names the partitions",
        )
    if kept:
        yield Finding(
            Level.NOTED,
            f"{counted(kept, 'row')} {are(kept)} rejected, conflicts included",
            f"backfill rejects export {source}, repair, and backfill rejects replay"
            if facts.registration is not None
            else "backfill rejects export with @ and a day, repair, and backfill rejects replay",
        )


def _of_reconciliation(facts: Facts) -> Iterator[Finding]:
    if facts.registration is None:
        return
    again = f"backfill reconcile {facts.source_id}"
    if facts.verdict is not None and facts.verdict.verdict != "match":
        yield Finding(
            Level.BROKEN,
            f"the reconciliation found {counted(facts.verdict.break_count, 'break')}",
            f"backfill corrections propose {facts.source_id}, or {again} when it was put right",
        )
    elif facts.verdict is None and facts.bank is None:
        yield Finding(Level.OPEN, "not reconciled, or rolled back since", again)
    elif facts.stale and facts.bank is None:
        yield Finding(
            Level.OPEN, "not reconciled since something of it was posted, rolled back or replayed", again
        )


def _of_bank(facts: Facts, bank: BankFacts) -> Iterator[Finding]:
    by_state: dict[str, list[SyncStatus]] = {}
    for one in bank.days:
        by_state.setdefault(one.state, []).append(one)
    source = facts.source_id.partition("@")[0]
    for state, level, what in (
        ("break", Level.BROKEN, "both ledgers differ"),
        ("failed", Level.FAILED, "failed"),
        ("open", Level.OPEN, "not finished"),
    ):
        if days := by_state.get(state):
            first, last = days[0].day, days[-1].day
            command = "reconcile" if state == "break" else "run"
            yield Finding(
                level,
                f"{counted(len(days), 'day')}: {what}, the first is {first}",
                f"backfill sync {command} {source} --from {first} --to {last}",
            )
    if bank.progress is not None and len(bank.days) > 1:
        begun = {one.day for one in bank.days}
        if never := [day for day in bank.progress.incomplete if day not in begun]:
            yield Finding(
                Level.OPEN,
                f"{counted(len(never), 'day')}: never begun, the first is {never[0]}",
                f"backfill sync run {source} --from {never[0]} --to {never[-1]}",
            )


def _of_ledger(facts: Facts) -> Iterator[Finding]:
    if facts.unbalanced:
        yield Finding(
            Level.BROKEN,
            f"debits and credits of the whole ledger differ in {', '.join(facts.unbalanced)}",
            "backfill audit names the entries",
        )
    if facts.constraints != "applied":
        offending = facts.offenders.offending if facts.offenders else 0
        against = f", {counted(offending, 'account')} against them" if offending else ""
        yield Finding(
            Level.OPEN,
            f"balance constraints are {facts.constraints}{against}",
            "backfill constraints apply",
        )
