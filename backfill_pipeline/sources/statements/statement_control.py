"""Control of bank statements: that each leads from its opening to its closing balance, and follows the one before.

Belongs here: what has to be known of a statement, and which ones do not hold.
Does not: reading statements (`mt940_stream.py`, `camt_stream.py`).

A statement is judged when all of it was read, before any line of it is given. So statements are read twice: what is
kept between the two is a few words for each, and never its lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from itertools import pairwise
from typing import Final

from backfill_pipeline.definition.statements import Control
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.wording import counted

EXACT: Final = Context(prec=200)
"""Sums of amounts are exact: no amount that is read has more than 40 digits."""


@dataclass(frozen=True, slots=True)
class Balance:
    """A balance as the statement states it.

    Attributes:
        amount: below zero for a debit.
        date: ISO.
    """

    amount: Decimal
    currency: str
    date: str

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}"


@dataclass(slots=True)
class Statement:
    """What is known of a statement so far.

    Attributes:
        line: of the file, where it begins.
        number: as the bank counts; for messages and order. Empty when the bank does not say.
        sequence: of a statement in several parts.
        movement: sum of its booked lines.
        defect: why it cannot be controlled, as a sentence.
    """

    line: int
    account: str = ""
    number: str = ""
    sequence: str = ""
    opening: Balance | None = None
    closing: Balance | None = None
    movement: Decimal = field(default_factory=Decimal)
    lines: int = 0
    defect: str | None = None

    def add(self, amount: Decimal) -> None:
        """Counts a booked line; money out is below zero."""
        self.movement = EXACT.add(self.movement, amount)

    def running(self) -> Decimal | None:
        """The balance after the lines so far."""
        return None if self.opening is None else EXACT.add(self.opening.amount, self.movement)

    def spoil(self, defect: str) -> None:
        """Notes why it cannot be controlled; the first reason counts."""
        self.defect = self.defect or defect

    def __str__(self) -> str:
        part = f"/{self.sequence}" if self.sequence else ""
        number = f" {_one_line(self.number + part)}" if self.number else ""
        return (
            f"the statement{number} of account {_one_line(self.account) or '(none)'} from line {self.line} on"
        )


Verdict = tuple[RejectCode, str] | None
"""Why the lines of a statement are rejected; None: they are not."""


def judge(statements: Sequence[Statement], control: Control) -> list[Verdict]:
    """Which statements hold.

    Args:
        statements: of one file, in its order.
        control: how much must hold.
    """
    if control == "none":
        return [None] * len(statements)
    verdicts: list[Verdict] = [_balanced(statement) for statement in statements]
    if control == "balance":
        return verdicts
    chains: dict[tuple[str, str], list[int]] = {}
    for place, statement in enumerate(statements):
        if statement.opening is not None:
            chains.setdefault((statement.account, statement.opening.currency), []).append(place)
    for places in chains.values():
        places.sort(key=lambda place: _order(statements[place]))
        for before, after in pairwise(places):
            verdicts[after] = verdicts[after] or _follows(statements[before], statements[after])
    return verdicts


def _balanced(statement: Statement) -> Verdict:
    opening, closing = statement.opening, statement.closing
    if statement.defect is not None:
        reason = f"{statement} cannot be controlled: {statement.defect}"
    elif opening is None:
        reason = f"{statement} has no opening balance"
    elif closing is None:
        reason = f"{statement} has no closing balance: was the file cut short?"
    elif opening.currency != closing.currency:
        reason = f"{statement} opens with {opening} and closes with {closing}"
    elif (reached := EXACT.add(opening.amount, statement.movement)) != closing.amount:
        reason = (
            f"{statement} opens with {opening}; with its {counted(statement.lines, 'line')} that makes {reached:f},"
            f" but it closes with {closing}"
        )
    else:
        return None
    return RejectCode.STATEMENT_UNBALANCED, reason


def _follows(before: Statement, after: Statement) -> Verdict:
    assert after.opening is not None  # only such are in a chain
    if before.closing is not None and before.closing.amount == after.opening.amount:
        return None
    closed = "has no closing balance" if before.closing is None else f"closes with {before.closing}"
    return RejectCode.STATEMENT_GAP, f"{after} opens with {after.opening}, but {before} {closed}"


def _order(statement: Statement) -> tuple[str, str, int, int]:
    """Statements as they follow one another, whatever their order in the file."""
    assert statement.opening is not None
    closed = "" if statement.closing is None else statement.closing.date
    return statement.opening.date, closed, _count(statement.number), _count(statement.sequence)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:60]


def _count(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 20 else 0
