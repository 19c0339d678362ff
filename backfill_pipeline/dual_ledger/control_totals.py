"""Control totals: what proves that a set of entries is complete and unchanged, without looking at one of them.

Belongs here: adding entries up as a bank does (docs/scb-simulator.md), and telling two totals apart.
Does not: asking a bank for its totals (`client.py`), what follows when they differ (`fetch.py`, `reconcile.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.scb import CONTROL_COLUMNS

_SUM_TYPE: Final = pa.decimal256(76, 18)
_AMOUNT: Final = r"^-?[0-9]{1,40}(\.[0-9]{1,18})?$"
"""What can be added up exactly; sums of a million million of them still fit."""
_TIME: Final = pa.timestamp("us", "UTC")
_DAY: Final = (
    r"[0-9]{4}-(((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01]))|((0[469]|11)-(0[1-9]|[12][0-9]|30))"
    r"|(02-(0[1-9]|1[0-9]|2[0-8])))|[0-9]{2}([02468][048]|[13579][26])-02-29"
)
_CLOCK: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_MOMENT: Final = rf"^({_DAY})[T ]{_CLOCK}(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
_DIGESTED_ROWS: Final = 65_536


@dataclass(frozen=True, slots=True)
class ControlTotals:
    """How many entries there are, what they sum up to, and a digest of their content.

    Attributes:
        count: entries.
        sums: currency → sum of the amounts, of currencies that have entries.
        digest: "sha256:" and 64 hexadecimal digits; None where it was not asked for.
    """

    count: int
    sums: Mapping[str, Decimal]
    digest: str | None = None

    def differences(self, other: ControlTotals) -> list[str]:
        """What is not as it should be, in words; nothing when both are the same.

        Args:
            other: as it should be. Digests are compared where both have one.
        """
        found = []
        if self.count != other.count:
            found.append(f"{self.count:,} entries, not {other.count:,}")
        for currency in sorted({*self.sums, *other.sums}):
            ours, theirs = (one.sums.get(currency, Decimal(0)) for one in (self, other))
            if ours != theirs:
                found.append(f"{currency} {ours:,f}, not {theirs:,f}")
        if not found and None not in (self.digest, other.digest) and self.digest != other.digest:
            found.append("the same count and sums, but other content by the digest")
        return found

    def as_json(self) -> dict[str, object]:
        """For a jsonb column; amounts are text."""
        return {
            "count": self.count,
            "sums": {currency: f"{amount:f}" for currency, amount in sorted(self.sums.items())},
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> ControlTotals:
        """What `as_json` gave.

        Raises:
            ValueError: it is something else.
        """
        count, sums, digest = value.get("count"), value.get("sums"), value.get("digest")
        if not isinstance(count, int) or not isinstance(sums, Mapping):
            raise ValueError("no control totals")
        return cls(
            count,
            {str(currency): Decimal(str(amount)) for currency, amount in sums.items()},
            None if digest is None else str(digest),
        )


NO_ENTRIES: Final = ControlTotals(0, {}, f"sha256:{hashlib.sha256().hexdigest()}")
"""Of a day without entries."""


def totals_of(tables: Iterable[pa.Table], *, digest: bool) -> ControlTotals:
    """Adds entries up. Holds the control columns of all of them, some 250 bytes an entry.

    An entry that is there more than once, identically, counts once: pages of a list may overlap. Amounts that are no
    plain decimal number are in no sum, and times that cannot be read are digested as they are written.

    Args:
        tables: with at least CONTROL_COLUMNS, strings as the bank wrote them; null is taken for "".
        digest: whether to digest the content, which needs the entries sorted.
    """
    whole = pa.concat_tables(
        [pa.table({name: pa.array([], pa.string()) for name in CONTROL_COLUMNS})]
        + [_control_columns(table) for table in tables]
    ).combine_chunks()
    entries = _each_once(whole)
    return ControlTotals(
        entries.num_rows, _sums(entries), _digest(entries) if digest and entries.num_rows else _none(digest)
    )


def _none(digest: bool) -> str | None:
    return NO_ENTRIES.digest if digest else None


def _control_columns(table: pa.Table) -> pa.Table:
    return pa.table({name: pc.fill_null(table.column(name), "") for name in CONTROL_COLUMNS})


def _each_once(entries: pa.Table) -> pa.Table:
    if pc.count_distinct(entries.column("reference")).as_py() == entries.num_rows:
        return entries
    return entries.group_by(list(CONTROL_COLUMNS), use_threads=False).aggregate([])


def _sums(entries: pa.Table) -> dict[str, Decimal]:
    readable = entries.filter(pc.match_substring_regex(entries.column("amount"), _AMOUNT))
    amounts = pa.table(
        {"currency": readable.column("currency"), "amount": pc.cast(readable.column("amount"), _SUM_TYPE)}
    )
    sums = amounts.group_by("currency", use_threads=False).aggregate([("amount", "sum")])
    rows = zip(sums.column("currency").to_pylist(), sums.column("amount_sum").to_pylist(), strict=True)
    return {
        currency: Decimal(f"{amount:f}".rstrip("0").removesuffix(".")) for currency, amount in sorted(rows)
    }


def _digest(entries: pa.Table) -> str:
    ordered = entries.sort_by([(name, "ascending") for name in CONTROL_COLUMNS])
    state = hashlib.sha256()
    for first in range(0, ordered.num_rows, _DIGESTED_ROWS):
        part = ordered.slice(first, _DIGESTED_ROWS).combine_chunks()
        columns = [
            _in_utc(part.column(name)) if name == "booked_at" else part.column(name)
            for name in CONTROL_COLUMNS
        ]
        lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*columns, "\t"), "", "\n")
        for chunk in lines.chunks:
            state.update(_text_of(chunk))
    return f"sha256:{state.hexdigest()}"


def _text_of(lines: pa.StringArray) -> memoryview | bytes:
    """The bytes of all values, one behind the other."""
    _, offsets, text = lines.buffers()
    if text is None or not len(lines):
        return b""
    bounds = memoryview(offsets).cast("i")
    return memoryview(text)[bounds[lines.offset] : bounds[lines.offset + len(lines)]]


def _in_utc(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """ISO 8601 with an offset, brought to UTC and written with Z; decimals of a second only where there are any."""
    readable = pc.match_substring_regex(times, _MOMENT)
    try:
        moments = pc.cast(pc.if_else(readable, times, pa.scalar(None, pa.string())), _TIME)
    except pa.ArrowInvalid:  # the 29th of February 1900
        return times
    text = pc.replace_substring(pc.cast(moments, pa.string()), " ", "T", max_replacements=1)
    text = pc.replace_substring_regex(text, r"\.?0*Z$|(\.[0-9]*[1-9])0+Z$", r"\1Z")
    return pc.if_else(readable, text, times)
