"""What comparing a day of both ledgers found, for people, tables and records.

Belongs here: the shapes of breaks and of the report, its verdict, its sentence, its rows.
Does not: comparing (`reconcile.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Final

from backfill_pipeline.dual_ledger.control_totals import ControlTotals
from backfill_pipeline.ledger.banks.dual_reconciliation import OutboxState
from backfill_pipeline.money import CURRENCY_DECIMALS

SAMPLE: Final = 20
"""Breaks of one kind that are told one by one; all are counted."""

SHOWN_CHARACTERS: Final = 300
"""Of a value in a break."""

BREAK_KINDS: Final[Mapping[str, str]] = {
    "totals": "the bank's control totals are not those of the entries that it serves",
    "missing here": "the bank has the entry, our ledger does not",
    "missing there": "our ledger has the entry as the bank's, the bank does not",
    "different": "both have the entry, and a field of it differs",
    "sent missing here": "the bank has received the entry, our ledger does not have it",
    "sent missing there": "we sent the entry and it was acknowledged, the bank does not have it",
    "sent different": "the bank has received the entry otherwise than our ledger has it",
    "no outbox row": "the entry is here, and nothing notes that the bank must know of it",
    "outbox row alone": "the outbox speaks of an entry that the ledger does not have",
    "dead": "the bank could not be told, and nobody tries any more",
    "failed": "the bank refused, and will be told again",
    "not told yet": "the bank was not told yet, or its answer is not known",
}
"""What each kind of break means."""


@dataclass(frozen=True, slots=True)
class DualBreak:
    """Something in which the two ledgers are not equal.

    Attributes:
        kind: one of BREAK_KINDS.
        reference: of the entry; None where it has none that can be read, and for totals.
        field: that differs; `outbox` for what the bank was told; None for a whole entry.
        here: what our ledger says.
        there: what the bank says.
        reason: why, where it is known: the code of a reject and its reason, or the bank's refusal.
    """

    kind: str
    reference: str | None
    field: str | None = None
    here: str | None = None
    there: str | None = None
    reason: str | None = None

    def cleaned(self) -> DualBreak:
        """The same with words of the bank as they can be kept and shown: printable, and no longer than needed."""
        return replace(
            self,
            **{name: shown(value) for name, value in asdict(self).items() if value is not None},
        )

    def as_row(self) -> dict[str, str]:
        """For a table; what is not known is empty."""
        return {name: value or "" for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class CurrencySums:
    """Sums of a day in one currency.

    Attributes:
        stated: by the bank's control totals.
        served: of what the bank serves, as the definition maps it: what should be here.
        here: of the bank's entries in our ledger.
    """

    currency: str
    stated: Decimal
    served: Decimal
    here: Decimal

    @property
    def difference(self) -> Decimal:
        """What is here and should not be; negative for what lacks."""
        return self.here - self.served


@dataclass(slots=True)
class DualReport:
    """The outcome for one day. `breaks` is a sample of each kind, counts are complete.

    Attributes:
        stated: the bank's control totals of its own entries.
        read: those of the entries that were compared, added up here.
        compared: "capture" when these were what was captured when the day was fetched, "fetched" when they were asked
            for once more, because nothing proved that the capture is what the bank has now.
        served: entries of the bank, each reference once.
        rejected: of these, entries that cannot be posted as they are.
        filtered: entries that the definition leaves out.
        equal: entries that both ledgers have with every field equal.
        here: entries of the bank that our ledger has for the day.
        sent: entries that were posted here first and that the bank must have.
        sent_equal: of these, entries that it has with every field equal.
        sent_stated: the bank's control totals of what it received; None where nothing is sent.
        sent_listed: whether that was compared entry by entry, because totals alone did not prove it.
        outbox: how the entries of the day stand in the outbox.
        untold: references of the bank's entries that are here with every field equal, and that were posted before the
            bank served them: it was not told that they are. `ledger.outbox.note_as_theirs` notes them.
    """

    source_id: str
    bank_id: str
    day: date
    stated: ControlTotals
    read: ControlTotals
    compared: str
    served: int = 0
    rejected: int = 0
    filtered: int = 0
    equal: int = 0
    here: int = 0
    sent: int = 0
    sent_equal: int = 0
    sent_stated: ControlTotals | None = None
    sent_listed: bool = False
    seconds: float = 0.0
    served_sums: dict[str, Decimal] = field(default_factory=dict)
    here_sums: dict[str, Decimal] = field(default_factory=dict)
    outbox: list[OutboxState] = field(default_factory=list)
    break_kinds: Counter[str] = field(default_factory=Counter)
    breaks: list[DualBreak] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)

    @property
    def break_count(self) -> int:
        """All breaks; an entry that differs in two fields counts twice."""
        return self.break_kinds.total()

    @property
    def matches(self) -> bool:
        """True only when nothing at all differs."""
        return not self.break_count

    @property
    def verdict(self) -> str:
        """Either match or break."""
        return "match" if self.matches else "break"

    def add(self, found: DualBreak, count: int = 1) -> None:
        """Counts a break (or `count` alike), and keeps it while there is room in the sample of its kind."""
        assert found.kind in BREAK_KINDS, found.kind
        if sum(1 for one in self.breaks if one.kind == found.kind) < SAMPLE:
            self.breaks.append(found.cleaned())
        self.break_kinds[found.kind] += count

    def add_sampled(self, found: Iterable[DualBreak], kind: str, total: int) -> None:
        """Adds breaks of one kind of which only some are given, and counts all."""
        if not total:
            return
        before = self.break_kinds[kind]
        for one in found:
            self.add(one)
        self.break_kinds[kind] = before + total

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        where = f"{self.source_id} {self.day}"
        if self.matches:
            left_out = f", {self.filtered:,} left out by the definition" if self.filtered else ""
            sent = f", {self.sent_equal:,} sent and received" if self.sent else ""
            return (
                f"{where}: both ledgers are equal: {self.equal:,} entries of {self.bank_id}{left_out}{sent}"
            )
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.break_kinds.items()))
        first = self.breaks[0]
        about = " ".join(one for one in (first.reference, first.field) if one) or "the day"
        values = (
            ""
            if first.field is None
            else f", here {first.here or 'nothing'}, there {first.there or 'nothing'}"
        )
        why = f" ({first.reason})" if first.reason else ""
        return f"{where}: the ledgers differ: {kinds}; first {about}: {first.kind}{values}{why}"

    def currencies(self) -> list[CurrencySums]:
        """Sums per currency, of both sides."""
        nothing = Decimal(0)
        return [
            CurrencySums(
                currency,
                self.stated.sums.get(currency, nothing),
                self.served_sums.get(currency, nothing),
                self.here_sums.get(currency, nothing),
            )
            for currency in sorted({*self.stated.sums, *self.served_sums, *self.here_sums})
        ]

    def currency_rows(self) -> list[dict[str, str]]:
        """The same as rows of a table."""
        return [
            {
                "currency": one.currency,
                "stated there": money_text(one.stated, one.currency),
                "served there": money_text(one.served, one.currency),
                "here": money_text(one.here, one.currency),
                "difference": money_text(one.difference, one.currency),
            }
            for one in self.currencies()
        ]

    def outbox_rows(self) -> list[dict[str, str]]:
        """How the bank was told, as rows of a table (the strategy's §6.3, for this day)."""
        return [
            {
                "kind": one.kind or "none",
                "status": one.status or "no outbox row",
                "entry": "here" if one.here else "not here",
                "count": f"{one.count:,}",
                "oldest": "" if one.oldest is None else one.oldest.isoformat(timespec="seconds"),
            }
            for one in self.outbox
        ]

    def break_rows(self) -> list[dict[str, str]]:
        """The first breaks of each kind as rows of a table."""
        return [one.as_row() for one in self.breaks]

    def details(self) -> dict[str, object]:
        """For a jsonb column."""
        return {
            "sentence": self.sentence,
            "compared": self.compared,
            "stated": self.stated.as_json(),
            "served": self.served,
            "equal": self.equal,
            "here": self.here,
            "rejected": self.rejected,
            "filtered": self.filtered,
            "sent": self.sent,
            "sent_equal": self.sent_equal,
            "currencies": self.currency_rows(),
            "outbox": self.outbox_rows(),
            "kinds": dict(self.break_kinds),
            "breaks": self.break_rows(),
        }


def money_text(amount: Decimal, currency: str) -> str:
    """An amount with all decimals of its currency, and more only where it has more: 1,234.50."""
    written = -int(amount.normalize().as_tuple().exponent)
    return f"{amount:,.{max(written, CURRENCY_DECIMALS.get(currency) or 0)}f}"


def shown(text: str) -> str:
    """Text in which everything is printable, cut to SHOWN_CHARACTERS."""
    cut = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
    return (
        cut if cut.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in cut)
    )
