"""Asking and telling a Sovereign Central Bank: its control totals, what it was told, and telling it more.

Belongs here: the operations of a bank beside its entries, which are read as any API's, and whether its answers hold
together.
Does not: retries, credentials and pages (`sources/http/`), what is told and when (`dispatch.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, localcontext
from typing import Final, Literal, Self
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from backfill_pipeline.definition.api import ApiSource
from backfill_pipeline.definition.scb import CONTROL_COLUMNS, ScbSection
from backfill_pipeline.definition.scb_days import day_window, days_between
from backfill_pipeline.dual_ledger.control_totals import NO_ENTRIES, ControlTotals
from backfill_pipeline.errors import TransientSourceError
from backfill_pipeline.sources.files.json_records import JsonTree
from backfill_pipeline.sources.http.client import ApiClient, RequestRefusedError
from backfill_pipeline.sources.http.failures import AnswerError, BrokenAnswerError
from backfill_pipeline.sources.http.pages import ApiPages, columns_of
from backfill_pipeline.sources.http.transport import Answer
from backfill_pipeline.sources.malformed import Problems

Kind = Literal["acknowledgement", "entry"]
"""What a bank is told: what became of an entry of its own, or an entry of ours."""

TAKEN: Final = frozenset(("accepted", "updated", "known"))
"""Results of an item that the bank has, now or since an earlier request."""

_LISTS: Final[Mapping[Kind, str]] = {"acknowledgement": "acknowledgements", "entry": "entries"}
_RESULTS: Final = TAKEN | {"conflict", "refused"}
_AMOUNT: Final = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,18})?")
_CURRENCY: Final = re.compile(r"[A-Z0-9]{2,10}")
_DIGITS: Final = 100
"""Sums of days stay exact: an amount has at most 58."""
_CODE_CHARACTERS: Final = 60
_DETAIL_CHARACTERS: Final = 300


_REFUSES_US: Final = frozenset((401, 403))


def is_away(error: Exception) -> bool:
    """Whether the bank told nothing at all: it does not answer, or not to us. The next request would fare no better."""
    return isinstance(error, TransientSourceError) or (
        isinstance(error, RequestRefusedError) and error.status in _REFUSES_US
    )


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What the bank says about one item of a request.

    Attributes:
        result: accepted, updated, known, conflict or refused.
        code: why not, in a word that does not change; None for what was taken.
        detail: the same for people.
    """

    reference: str
    result: str
    code: str | None
    detail: str | None

    @property
    def taken(self) -> bool:
        """Whether the bank has the item."""
        return self.result in TAKEN


class BankClient:
    """One ledger of one bank. Safe for several threads; close it, or use it in a `with`."""

    def __init__(self, section: ScbSection) -> None:
        """
        Args:
            section: where the bank is, and as whom and how patiently it is asked.

        Raises:
            SettingsError: an environment variable for a secret is missing.
            SourceFileError: the address or the certificates cannot be used.
        """
        self._section = section
        self._totals = ApiClient(section.listing_api("totals", "days"))
        self._listings: dict[str, tuple[ApiClient, ApiPages]] = {}
        for what, records in (("acknowledgements", "acknowledgements"), ("received", "entries")):
            api = section.listing_api(what, records)
            client = ApiClient(api, beside=self._totals)
            self._listings[what] = client, ApiPages(client, api)
        self._sends = {
            kind: ApiClient(section.listing_api(what, what), beside=self._totals)
            for kind, what in _LISTS.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        self._totals.close()

    def traffic(self) -> dict[str, int]:
        """Requests so far, how many of them were retries, and bytes received."""
        return self._totals.traffic()

    def beside(self, api: ApiSource) -> ApiClient:
        """A client for another address of the bank: connections, tokens and the pace are those of this one."""
        return ApiClient(api, beside=self._totals)

    # --- totals -------------------------------------------------------------------------------------------------

    def control_totals(
        self, first: date, last: date, *, of: Literal["entries", "received"] = "entries"
    ) -> dict[date, ControlTotals]:
        """What the bank says that each day holds. One request, whatever the number of days.

        Args:
            first: in the bank's time zone.
            last: itself included.
            of: its own entries, or those that were sent to it, by the time of their booking.

        Returns:
            Every day from the first to the last; those without entries have a count of 0. With a digest where the
            definition asks for it.

        Raises:
            SourceFileError: the bank refuses, or its answer cannot be used.
            TransientSourceError: it does not answer, or what it says contradicts itself, however often it is asked.
        """
        assert first <= last, (first, last)
        section = self._section
        begin, end = day_window(section, first)[0], day_window(section, last)[1]
        zone = ZoneInfo(section.timezone)
        params = [
            ("from", begin.astimezone(zone).isoformat()),
            ("to", end.astimezone(zone).isoformat()),
            ("of", of),
            ("digest", "true" if section.digest else "false"),
        ]
        span = first.isoformat() if first == last else f"{first} to {last}"
        return self._totals.get(
            params,
            lambda answer: self._days(_object(answer), first, last),
            part=f"control totals of {span}",
            hint="check base_url, ledger and timezone of scb",
        )

    def _days(self, body: Mapping[str, object], first: date, last: date) -> dict[date, ControlTotals]:
        days = body.get("days")
        if not isinstance(days, list):
            raise AnswerError("states no control totals: there is no list of days")
        nothing = NO_ENTRIES if self._section.digest else ControlTotals(0, {})
        found = dict.fromkeys(days_between(first, last), nothing)  # days without entries may be left out
        stated: set[date] = set()
        for one in days:
            if not isinstance(one, dict):
                raise AnswerError("states control totals in days that are no objects")
            day = _day(one.get("day"))
            if day not in found or not self._is_whole(one, day):
                raise AnswerError(
                    f"states totals of {day}, but not as that day is in {self._section.timezone}: check scb.timezone"
                )
            if day in stated:
                raise BrokenAnswerError(f"states totals of {day} twice")
            stated.add(day)
            found[day] = self._totals_of(one, f"of {day}")
        _refuse_contradiction(self._totals_of(body, "of all days", digest=False), list(found.values()))
        return found

    def _is_whole(self, one: Mapping[str, object], day: date) -> bool:
        """Whether the bank's day begins and ends when ours does, as far as it says so."""
        for key, moment in zip(("from", "to"), day_window(self._section, day), strict=True):
            said = one.get(key)
            if said is None:
                continue
            try:
                if datetime.fromisoformat(str(said)) != moment:
                    return False
            except (ValueError, TypeError):
                raise AnswerError(f"states a day that begins or ends at {str(said)[:40]!r}") from None
        return True

    def _totals_of(self, one: Mapping[str, object], where: str, *, digest: bool = True) -> ControlTotals:
        count, sums = one.get("count"), one.get("sums")
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise AnswerError(f"states no count {where}")
        if not isinstance(sums, dict):
            raise AnswerError(f"states no sums {where}")
        amounts = {}
        for currency, amount in sums.items():
            if not _CURRENCY.fullmatch(currency):
                raise AnswerError(f"states a sum {where} in {currency[:20]!r}, which is no currency")
            if not isinstance(amount, str) or not _AMOUNT.fullmatch(amount):
                raise AnswerError(f"states a sum {where} that is no exact decimal as text, such as '10.50'")
            amounts[currency] = Decimal(amount)
        said = one.get("digest") if digest and self._section.digest else None
        if digest and self._section.digest and not isinstance(said, str):
            raise AnswerError(f"states no digest {where}: if the bank has none, set scb.digest to false")
        return ControlTotals(count, amounts, None if said is None else str(said))

    # --- telling ------------------------------------------------------------------------------------------------

    def send(
        self, kind: Kind, body: bytes, idempotency_key: str, *, references: Sequence[str]
    ) -> list[ItemResult]:
        """Tells the bank something. When the answer is lost, the same is sent again with the same key.

        Args:
            kind: what the items are.
            body: the whole request: `{"acknowledgements": […]}` or `{"entries": […]}`.
            idempotency_key: by which the bank knows this very request again.
            references: of the items, in their order.

        Returns:
            What became of each item, in their order.

        Raises:
            RequestRefusedError: the bank does not take the request as a whole.
            SourceFileError: its answer cannot be used.
            TransientSourceError: it gave no whole answer. It may have taken the items.
        """
        client = self._sends[kind]
        return client.post(
            body,
            lambda answer: [_cleaned(one, client) for one in _results(_object(answer), references)],
            headers={"Idempotency-Key": idempotency_key},
            part=f"{len(references):,} {_LISTS[kind]}",
        )

    # --- what it was told ---------------------------------------------------------------------------------------

    def acknowledgements(self) -> Iterator[pa.Table]:
        """The latest acknowledgement of each entry: reference and status, as text."""
        return self._listed("acknowledgements", ("reference", "status"))

    def received(self) -> Iterator[pa.Table]:
        """The entries that the bank was sent: CONTROL_COLUMNS and type, as text."""
        return self._listed("received", (*CONTROL_COLUMNS, "type"))

    def _listed(self, what: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        tree = JsonTree(columns, "record")
        client, pages = self._listings[what]
        for page in pages.fetch():
            problems = Problems(len(page.records))
            table = columns_of(page.records, tree, problems, 0)
            bad = np.flatnonzero(~problems.none())
            if len(bad):
                reason = problems.columns()[1][int(bad[0])].as_py()
                raise client.refuse(f"gives a record that cannot be read: {reason}", f"page {page.number}")
            if len(table):
                yield table


def _object(answer: Answer) -> Mapping[str, object]:
    try:
        found: object = json.loads(answer.body, parse_float=str)
    except (ValueError, RecursionError):
        raise BrokenAnswerError("answers with broken JSON") from None
    if not isinstance(found, dict):
        raise AnswerError("answers with JSON that is no object")
    return found


def _day(value: object) -> date:
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise AnswerError(f"states control totals of {str(value)[:40]!r}, which is no day") from None


def _refuse_contradiction(whole: ControlTotals, days: Sequence[ControlTotals]) -> None:
    """Totals of all days must be those of its days: else one of the two is wrong, and nobody knows which."""
    sums: dict[str, Decimal] = {}
    with localcontext(prec=_DIGITS):
        for one in days:
            for currency, amount in one.sums.items():
                sums[currency] = sums.get(currency, Decimal(0)) + amount
    differences = whole.differences(ControlTotals(sum(one.count for one in days), sums))
    if differences:
        raise BrokenAnswerError(
            f"states control totals that contradict those of their days: {'; '.join(differences)}"
        )


def _results(body: Mapping[str, object], references: Sequence[str]) -> list[ItemResult]:
    """The results, when there is exactly one for each item; else nobody knows what became of any."""
    results = body.get("results")
    if not isinstance(results, list) or len(results) != len(references):
        raise BrokenAnswerError("does not say what became of each item")
    return [
        _result(one, index, sent) for index, (one, sent) in enumerate(zip(results, references, strict=True))
    ]


def _result(one: object, index: int, sent: str) -> ItemResult:
    if not isinstance(one, dict) or one.get("index", index) != index:
        raise BrokenAnswerError("gives results that are not in the order of the items")
    result, code, detail = one.get("result"), one.get("code"), one.get("detail")
    if one.get("reference") not in (None, sent):
        raise BrokenAnswerError("gives results of other items than those that were sent")
    if not isinstance(result, str) or result not in _RESULTS:
        raise BrokenAnswerError(f"gives the result {str(result)[:40]!r}, which says nothing of the item")
    return ItemResult(
        sent, result, None if code is None else str(code), None if detail is None else str(detail)
    )


def _cleaned(one: ItemResult, client: ApiClient) -> ItemResult:
    """Words of the bank as they can be kept and shown: short, printable, and without a secret of ours."""
    return ItemResult(
        one.reference,
        one.result,
        _shown(one.code, client, _CODE_CHARACTERS),
        _shown(one.detail, client, _DETAIL_CHARACTERS),
    )


def _shown(text: str | None, client: ApiClient, characters: int) -> str | None:
    if text is None:
        return None
    spaced = " ".join(client.hidden(text).split())
    return "".join(one if one.isprintable() else "?" for one in spaced)[:characters]
