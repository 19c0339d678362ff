"""Telling one bank: what is in the outbox goes to it, in batches, until it has it.

Belongs here: which batch is sent next, and what an answer, or none, means for its rows.
Does not: HTTP (`client.py`), SQL (`ledger/banks/`), several banks (`dispatch.py`).
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import scb_of
from backfill_pipeline.dual_ledger.account_names import AccountNames
from backfill_pipeline.dual_ledger.client import BankClient, ItemResult
from backfill_pipeline.dual_ledger.ordering import Queue
from backfill_pipeline.errors import (
    SettingsError,
    SourceDefinitionError,
    SourceFileError,
    TransientLedgerError,
    TransientSourceError,
)
from backfill_pipeline.ledger.banks import breakers, outbox, outbox_deliveries
from backfill_pipeline.ledger.banks.breakers import Breaker
from backfill_pipeline.ledger.banks.outbox import KINDS, Outstanding
from backfill_pipeline.ledger.banks.outbox_deliveries import Candidate, Delivery, Item, Kind, Verdict
from backfill_pipeline.ledger.connection import Connection, connect, ledger_errors
from backfill_pipeline.sources.http.client import RequestRefusedError

Log = Callable[[str], None]

HOPELESS: Final = frozenset(("invalid", "wrong_currency"))
"""Codes of refusals that no further try changes. A conflict is hopeless whatever its code."""

_WHOLE_REFUSED: Final = frozenset((400, 409, 413, 422))
"""Statuses that mean the batch; every other refusal means us, and says nothing about the items."""

_LOOKED_AT_MAX: Final = 50_000
"""Entries that are looked at for one batch, when most of them wait for others."""

_POLL_S: Final = (0.05, 1.0)
_LEDGER_TRIES: Final = 3

_LOOKS: Final = 3
"""In a row without anybody sending, until what is left is taken to wait for something else than its sender."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait before the next try, in seconds. Each doubles up to its limit, and is spread by half.

    Attributes:
        item_s: after the bank refused an item, or after the item could not be sent.
        delivery_s: after a request without an answer.
        breaker_failures: so many requests without an answer in a row, and the bank is left alone.
        breaker_s: for how long.
    """

    item_s: float = 60.0
    item_max_s: float = 6 * 3600.0
    delivery_s: float = 10.0
    delivery_max_s: float = 900.0
    breaker_failures: int = 3
    breaker_s: float = 30.0
    breaker_max_s: float = 900.0

    def after_item(self, attempts: int) -> float:
        """After the given number of tries, of which the last one failed."""
        return _spread(min(self.item_max_s, self.item_s * 2 ** min(attempts - 1, 30)))

    def after_delivery(self, attempts: int) -> float:
        """After the given number of tries, of which the last one failed."""
        return _spread(min(self.delivery_max_s, self.delivery_s * 2 ** min(attempts - 1, 30)))


def _spread(pause_s: float) -> float:
    return pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, keeps no secret


@dataclass(frozen=True, slots=True)
class BankReport:
    """What one dispatcher did for one bank.

    Attributes:
        acknowledged: kind → rows that the bank has now.
        failed: kind → rows that were refused and will be tried again.
        dead: kind → rows that were given up.
        requests: kind → batches that were sent, with an answer or without one.
        left: what the bank has yet to hear of.
        error: why that is so, when the bank or its definition is to blame; None otherwise.
    """

    source_id: str
    bank_id: str
    acknowledged: Mapping[Kind, int]
    failed: Mapping[Kind, int]
    dead: Mapping[Kind, int]
    requests: Mapping[Kind, int]
    left: Outstanding
    error: str | None


@dataclass(slots=True)
class BankDispatcher:
    """Tells one bank. Any number of them may be at work at once, and each may be killed at any moment.

    Attributes:
        wanted: kinds to send, as far as the definition allows them.
        stops: when one of these is set, nothing further is sent.
    """

    ledger_url: str
    definition: SourceDefinition
    wanted: Collection[Kind]
    log: Log
    stops: Sequence[threading.Event]
    pauses: Pauses
    error: str | None = None
    counts: dict[str, Counter[Kind]] = field(default_factory=dict)
    limits: dict[Kind, int] = field(default_factory=dict)
    names: AccountNames | None = None

    @property
    def bank_id(self) -> str:
        """Whom it tells."""
        return scb_of(self.definition).bank_id

    @property
    def kinds(self) -> list[Kind]:
        """What it tells."""
        section = scb_of(self.definition)
        return [one for one in KINDS if one in self.wanted and (one != "entry" or section.send_entries)]

    def run(self, deadline_s: float) -> BankReport:
        """Sends until nothing is due, or until the deadline; a ledger that vanishes is looked for a few times.

        Waits for what other dispatchers are sending, as long as a bank may take to answer.
        """
        self.counts = {one: Counter() for one in ("acknowledged", "failed", "dead", "requests")}
        self.limits = dict.fromkeys(KINDS, scb_of(self.definition).batch_size)
        for attempt in range(1, _LEDGER_TRIES + 1):
            try:
                with connect(
                    self.ledger_url, application_name=f"backfill outbox {self.bank_id}"[:63]
                ) as connection:
                    outbox_deliveries.keep_alive_closely(connection)
                    left = self._work(connection, deadline_s)
                return self._report(left)
            except TransientLedgerError as error:
                if attempt == _LEDGER_TRIES or self._stopped():
                    raise
                self.log(f"{self.bank_id}: {error} (try {attempt} of {_LEDGER_TRIES})")
                self._pause(_spread(0.5 * 2**attempt))
        raise AssertionError("unreachable: the last try returns or raises")

    def _report(self, left: Outstanding) -> BankReport:
        found = {name: dict(counter) for name, counter in self.counts.items()}
        if any(found[name] for name in ("acknowledged", "failed", "dead")) or left.rows:
            self.log(
                f"{self.bank_id}: {_number(found['acknowledged'])} acknowledged, {_number(found['failed'])} refused for"
                f" now, {_number(found['dead'])} given up, {left.rows:,} left"
            )
        return BankReport(
            self.definition.id,
            self.bank_id,
            found["acknowledged"],
            found["failed"],
            found["dead"],
            found["requests"],
            left,
            self.error if left.rows else None,
        )

    # --- what is next -------------------------------------------------------------------------------------------

    def _work(self, connection: Connection, deadline_s: float) -> Outstanding:
        try:
            client = BankClient(scb_of(self.definition))
        except (SettingsError, SourceFileError) as error:
            self._note(str(error))
            return outbox.outstanding(connection, self.bank_id, self.kinds)
        patience_s = time.monotonic() + scb_of(self.definition).answer_timeout_s
        looks = 0
        with client:
            while True:
                usable = [kind for kind in self.kinds if self._drain(connection, client, kind)]
                due_in_s = outbox.outstanding(connection, self.bank_id, usable).due_in_s
                elsewhere = due_in_s == 0 and self.error is None and looks < _LOOKS
                if elsewhere and time.monotonic() < patience_s and not self._stopped():
                    # What is due and was not sent is with another dispatcher, who may just be claiming it. Whoever
                    # asked for this one wants to know that the bank was told, not by whom.
                    looks = 0 if outbox_deliveries.under_way(connection, self.bank_id, usable) else looks + 1
                    self._pause(_POLL_S[0])
                    continue
                if self._stopped() or due_in_s is None or time.monotonic() + due_in_s >= deadline_s:
                    return outbox.outstanding(connection, self.bank_id, self.kinds)
                self._pause(min(max(due_in_s, _POLL_S[0]), _POLL_S[1]))

    def _drain(self, connection: Connection, client: BankClient, kind: Kind) -> bool:
        """Sends everything of a kind that is due, until the bank gives no answer; returns whether more can follow."""
        while not self._stopped():
            breaker = breakers.breaker(connection, self.bank_id)
            if breaker.open_until is not None:
                self.error = (
                    f"{self.bank_id} is left alone until {breaker.open_until:%Y-%m-%d %H:%M:%S} UTC, because it gives"
                    f" no answer: {breaker.last_error}"
                )
                return True
            try:
                sent = self._send_next(connection, client, kind)
                if sent == "unanswered" or (sent is None and not self._claim(connection, kind, breaker)):
                    return True
            except SourceDefinitionError as error:
                self._note(str(error))
                return False
        return True

    def _claim(self, connection: Connection, kind: Kind, breaker: Breaker) -> int:
        """Puts rows that are due into a delivery; returns how many rows were looked after, 0 when none is due."""
        if breaker.half_open and outbox_deliveries.has_open_delivery(connection, self.bank_id, kind):
            return 0  # whoever tries has something to try with
        if kind == "acknowledgement":
            return outbox_deliveries.claim_acknowledgements(connection, self.bank_id, self.limits[kind])
        with ledger_errors("claim rows of the outbox in"), connection.transaction():
            return self._claim_entries(connection)

    def _claim_entries(self, connection: Connection) -> int:
        outbox_deliveries.lock_bank(connection, self.bank_id)
        if outbox_deliveries.has_open_delivery(connection, self.bank_id, "entry"):
            return 0
        limit = self.limits["entry"]
        queue = Queue(outbox_deliveries.waiting_accounts(connection, self.bank_id))
        chosen: list[int] = []
        nameless: list[Verdict] = []
        names: dict[str, str] = {}
        after = looked_at = 0
        page: list[Candidate] | None = None
        while (page is None or len(page) == limit) and len(chosen) < limit and looked_at < _LOOKED_AT_MAX:
            page = outbox_deliveries.due_entries(connection, self.bank_id, after, limit)
            for one in page:
                after, looked_at = one.id, looked_at + 1
                if len(chosen) == limit or not queue.admit(one):
                    continue
                try:
                    names |= {
                        account: self._name(account) for account in (one.debit_account, one.credit_account)
                    }
                except LookupError as error:
                    queue.hold(one)
                    nameless.append(self._refused(one, f"not sent: {error}", heals=True))
                    continue
                chosen.append(one.id)
        if nameless:
            outbox_deliveries.judge(connection, nameless)
            self._count("entry", nameless)
            self.log(f"{self.bank_id}: {nameless[0].error}")
        if chosen:
            assert self.names is not None
            outbox_deliveries.deliver_entries(connection, self.bank_id, chosen, self.names.columns, names)
        return len(chosen) + len(nameless)

    def _name(self, account: str) -> str:
        if self.names is None:
            self.names = AccountNames(self.definition)
        return self.names.of(account)

    # --- sending ------------------------------------------------------------------------------------------------

    def _send_next(
        self, connection: Connection, client: BankClient, kind: Kind
    ) -> Literal["answered", "unanswered"] | None:
        """Sends the next delivery that is due; None when there is none, or when the bank is to be left alone."""
        with ledger_errors("send the outbox of"), connection.transaction():
            delivery = outbox_deliveries.lock_delivery(connection, self.bank_id, kind)
            if delivery is None or not breakers.may_send(connection, self.bank_id):
                return None
            if len(delivery.items) != delivery.item_count:
                # Somebody changed rows by hand; what the body says of them is not true any more.
                outbox_deliveries.release(
                    connection, delivery, "rows of it were changed: what is left is sent anew"
                )
                return "answered"
            return "answered" if self._send(connection, client, delivery) else "unanswered"

    def _send(self, connection: Connection, client: BankClient, delivery: Delivery) -> bool:
        """Sends a delivery and does what its answer asks for; returns whether there was one."""
        self.counts["requests"][delivery.kind] += 1
        try:
            results = client.send(
                delivery.kind,
                delivery.body.encode(),
                delivery.idempotency_key,
                references=[one.reference for one in delivery.items],
            )
        except RequestRefusedError as error:
            if error.status not in _WHOLE_REFUSED:
                self._unanswered(connection, delivery, str(error))
                return False
            self._refused_whole(connection, delivery, error)
        except (SourceFileError, TransientSourceError) as error:
            self._unanswered(connection, delivery, str(error))
            return False
        else:
            verdicts = [self._verdict(*one) for one in zip(delivery.items, results, strict=True)]
            outbox_deliveries.settle(connection, delivery, verdicts)
            self._count(delivery.kind, verdicts)
        breakers.note_success(connection, self.bank_id)
        self.error = None
        return True

    def _unanswered(self, connection: Connection, delivery: Delivery, error: str) -> None:
        """Nobody knows whether the bank took it, or it has nothing to do with the items: the same again, later."""
        self._note(error)
        pauses = self.pauses
        pause_s = pauses.after_delivery(delivery.attempts + 1)
        outbox_deliveries.postpone(connection, delivery, error, pause_s)
        breakers.note_failure(
            connection,
            self.bank_id,
            error,
            opens_at=pauses.breaker_failures,
            pause_s=pauses.breaker_s,
            pause_max_s=pauses.breaker_max_s,
        )

    def _refused_whole(self, connection: Connection, delivery: Delivery, error: RequestRefusedError) -> None:
        """The bank looked at none of the items: half of them may pass, or each but one."""
        count = len(delivery.items)
        if count > 1:
            self.log(f"{self.bank_id}: {error} Half as many are sent at once.")
            outbox_deliveries.halve(connection, delivery, str(error))
            if error.status == 413:
                self.limits[delivery.kind] = max(1, min(self.limits[delivery.kind], count // 2))
            return
        verdicts = [self._refused(one, str(error), heals=True) for one in delivery.items]
        outbox_deliveries.settle(connection, delivery, verdicts)
        self._count(delivery.kind, verdicts)

    # --- what an answer means -----------------------------------------------------------------------------------

    def _verdict(self, item: Item, result: ItemResult) -> Verdict:
        if result.taken:
            return Verdict(item.id, "ACKNOWLEDGED")
        error = ": ".join(one for one in (result.code or result.result, result.detail) if one)
        return self._refused(item, error, heals=result.result == "refused" and result.code not in HOPELESS)

    def _refused(self, item: Item | Candidate, error: str, *, heals: bool) -> Verdict:
        attempts = item.attempts + 1
        if heals and attempts < scb_of(self.definition).send_attempts:
            return Verdict(item.id, "FAILED", error, self.pauses.after_item(attempts))
        return Verdict(item.id, "DEAD", error)

    def _count(self, kind: Kind, verdicts: Sequence[Verdict]) -> None:
        """Counts are those of committed work, but for a ledger that vanishes at that very moment."""
        for one in verdicts:
            self.counts[one.status.lower()][kind] += 1

    def _stopped(self) -> bool:
        return any(one.is_set() for one in self.stops)

    def _pause(self, pause_s: float) -> None:
        """Waits; looks at every event now and then."""
        end_s = time.monotonic() + pause_s
        while not self._stopped() and (left_s := end_s - time.monotonic()) > 0:
            self.stops[0].wait(min(left_s, _POLL_S[1]))

    def _note(self, error: str) -> None:
        self.error = error
        self.log(f"{self.bank_id}: {error}")


def _number(by_kind: Mapping[Kind, int]) -> str:
    return f"{sum(by_kind.values()):,}"
