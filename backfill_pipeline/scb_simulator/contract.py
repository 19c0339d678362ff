"""What goes over the wire: the shapes of requests and answers.

Belongs here: the models that requests are checked by, and that the OpenAPI document describes answers with.
Does not: HTTP (`web/`), what is done about a request (`told.py`).
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, model_validator

from backfill_pipeline.money import minor_units
from backfill_pipeline.scb_simulator.options import Model

BATCH_MAX: Final = 10_000
"""Items that can be sent at once."""

_YEARS: Final = (1900, 2201)

AMOUNT: Final = r"[0-9]{1,20}(\.[0-9]{1,18})?"


def moment(text: str) -> datetime:
    """A moment from ISO 8601 with an offset.

    Raises:
        ValueError: anything else.
    """
    try:
        found = datetime.fromisoformat(text)
        aware = found.tzinfo is not None
        found = found.astimezone(UTC) if aware else found
    except (ValueError, OverflowError):
        raise ValueError(
            "is not a time in ISO 8601, such as 2024-03-05T00:00:00+01:00 (in an address, + is written %2B)"
        ) from None
    if not aware:
        raise ValueError("has no offset, such as +01:00 or Z")
    if not _YEARS[0] <= found.year < _YEARS[1]:
        raise ValueError(f"is not in the years {_YEARS[0]} to {_YEARS[1] - 1}")
    return found


def _moment_text(text: str) -> str:
    moment(text)
    return text


def _clean(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be printable, without spaces around it")
    return text


Moment = Annotated[str, AfterValidator(_moment_text), Field(json_schema_extra={"format": "date-time"})]
Word = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_clean)]
Amount = Annotated[str, Field(pattern=f"^{AMOUNT}$", description="an exact decimal, as text")]


class Entry(Model):
    """An entry of the bank. `amount` has all decimals of its currency; `booked_at` is in the bank's time."""

    reference: str
    booked_at: Moment
    debit_account: str
    credit_account: str
    amount: Amount
    currency: str
    type: str
    narrative: str
    metadata: dict[str, str]


class EntryPage(Model):
    """Entries in the order of their booking. `next_cursor` is null on the last page."""

    entries: list[Entry]
    next_cursor: str | None


class Ledger(Model):
    """A ledger; its entries are booked in [from, to)."""

    id: str
    timezone: str
    currencies: list[str]
    accounts: int
    first_day: str
    last_day: str
    from_: Moment = Field(alias="from")
    to: Moment


class LedgerList(Model):
    """All ledgers of the bank."""

    ledgers: list[Ledger]


class Account(Model):
    """An account. `shared`: the other side has it too. Its balance is before the first entry."""

    id: str
    name: str
    currency: str
    normal_side: Literal["debit", "credit"]
    opening_balance: Amount
    shared: bool


class AccountList(Model):
    """All accounts of a ledger."""

    ledger: str
    as_of: Moment
    accounts: list[Account]


class DayTotals(Model):
    """The part of one of the bank's days that was asked for."""

    day: str
    from_: Moment = Field(alias="from")
    to: Moment
    count: int
    sums: dict[str, Amount]
    digest: str | None = None


class Totals(Model):
    """Totals of what is booked in [from, to). `days` leaves out days without entries."""

    ledger: str
    of: Literal["entries", "received"]
    from_: Moment = Field(alias="from")
    to: Moment
    count: int
    sums: dict[str, Amount]
    days: list[DayTotals]


class AcknowledgementSent(Model):
    """What became of an entry at the other side."""

    reference: Word
    status: Literal["posted", "duplicate", "rejected", "filtered"]
    at: Moment | None = None
    detail: Annotated[str, Field(max_length=2000)] | None = None


class AcknowledgementBatch(Model):
    """At most 10,000 at once. Items are judged one by one, so the schema of an item is not the batch's."""

    acknowledgements: Annotated[list[AcknowledgementSent], Field(max_length=BATCH_MAX)]


class EntrySent(Model):
    """An entry that the other side sends. Amounts have at most the decimals of their currency.

    `fx_rate`: for an entry of which one account is kept in another currency.
    """

    reference: Word
    booked_at: Moment
    debit_account: Word
    credit_account: Word
    amount: Amount
    currency: str
    type: Word
    fx_rate: Amount | None = None
    narrative: Annotated[str, Field(max_length=2000)] = ""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            decimals = minor_units(self.currency)
        except KeyError:
            decimals = None
        if decimals is None:
            raise ValueError("currency must be the ISO 4217 code of a currency with a minor unit")
        if self.debit_account == self.credit_account:
            raise ValueError("credit_account must differ from debit_account")
        amount = Decimal(self.amount)
        if not amount:
            raise ValueError("amount must be more than 0")
        if -int(amount.normalize().as_tuple().exponent) > decimals:
            raise ValueError(f"amount must have at most {decimals} decimals in {self.currency}")
        return self

    @property
    def minor(self) -> int:
        """The amount in minor units."""
        return int(Decimal(self.amount).scaleb(minor_units(self.currency) or 0))


class EntryBatch(Model):
    """At most 10,000 at once. Items are judged one by one."""

    entries: Annotated[list[EntrySent], Field(max_length=BATCH_MAX)]


class Outcome(Model):
    """What became of one item.

    `accepted` (201) and `updated` (200) took effect; `known` (200) was there already, identically; `conflict` (409) and
    `refused` (422 and 404) did nothing.
    """

    index: int
    reference: str | None
    result: Literal["accepted", "updated", "known", "conflict", "refused"]
    status: int
    code: str | None = None
    detail: str | None = None


class Outcomes(Model):
    """All items, in the order in which they were sent, and how many ended how."""

    results: list[Outcome]
    accepted: int
    updated: int
    known: int
    conflict: int
    refused: int


class AcknowledgementKept(Model):
    """The latest acknowledgement of an entry. `sequence` grows with every one that the bank accepts."""

    sequence: int
    reference: str
    status: Literal["posted", "duplicate", "rejected", "filtered"]
    at: Moment | None
    detail: str | None
    received_at: Moment


class AcknowledgementPage(Model):
    """Acknowledgements by sequence."""

    acknowledgements: list[AcknowledgementKept]
    next_cursor: str | None


class EntryReceived(EntrySent):
    """An entry as it was received; the amount has all decimals of its currency, the time is in UTC."""

    sequence: int
    received_at: Moment


class ReceivedPage(Model):
    """Received entries by sequence."""

    entries: list[EntryReceived]
    next_cursor: str | None


class Token(Model):
    """A token for `Authorization: Bearer`."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int


class Health(Model):
    """Whether it serves."""

    status: Literal["ok"]


class Problem(Model):
    """What is wrong with a request (RFC 9457). `code` does not change; `detail` is for people."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str


# --- admin ------------------------------------------------------------------------------------------------------


class LateEntriesAsked(Model):
    """Adds entries to a day that was served already."""

    ledger: Word
    day: Annotated[str, Field(json_schema_extra={"format": "date"})]
    count: Annotated[int, Field(ge=1, le=10_000)] = 1
    appear_after_s: Annotated[float, Field(ge=0, le=31_536_000)] = 0.0


class ChangeAsked(Model):
    """Changes an entry; what is not given stays."""

    reference: Word
    amount: Amount | None = None
    debit_account: Word | None = None
    credit_account: Word | None = None


class FaultsAsked(Model):
    """All faults from now on, in their order; each has a `kind` and its settings."""

    faults: list[dict[str, JsonValue]]


class EntryList(Model):
    """Entries as they are now."""

    entries: list[Entry]


class FaultState(Model):
    """A fault, how many requests it saw, and how many of them it struck."""

    fault: dict[str, JsonValue]
    seen: int
    fired: int


class FaultStates(Model):
    """All faults in their order."""

    faults: list[FaultState]


class LogLine(Model):
    """One request: what was asked, what was answered, and the faults that struck. `status` is null without answer."""

    number: int
    at: Moment
    method: str
    path: str
    query: str
    operation: str | None
    status: int | None
    body_bytes: int
    faults: list[str]


class Log(Model):
    """The latest requests, oldest first."""

    requests: list[LogLine]
