"""Why transactions are rejected, in words, for whole columns at once.

Belongs here: the transactions of a chunk by name, and the reasons of rejects.
Does not: finding out (`legs.py`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.mapping.exact import Exact, Integers
from backfill_pipeline.schemas.row_errors import SHOWN_CHARACTERS
from backfill_pipeline.sources.grouping.transaction_ids import shown_ids

_SUMS_SHOWN: Final = 3

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Transacted:
    """The transactions of a chunk.

    Attributes:
        codes: per row the number of its transaction in `ids`; -1 for rows that are in none.
        ids: string.
        part: per row, whether it counts; not what a rule left out, and nothing that could not be read.
    """

    codes: Integers
    ids: pa.Array
    part: Mask

    def hit_by(self, positions: Integers) -> Mask:
        """Per transaction, whether one of these rows is in it. One more, for the rows that are in none: false."""
        hit = np.zeros(len(self.ids) + 1, dtype=bool)
        hit[self.codes[positions]] = True
        hit[-1] = False
        return hit

    def names(self, codes: Integers) -> pa.Array:
        """Ids of transactions for people, in quotes."""
        shown = pc.utf8_slice_codeunits(shown_ids(self.ids.take(pa.array(codes))), 0, SHOWN_CHARACTERS)
        return pc.binary_join_element_wise('"', shown, '"', "")


def why_incomplete(
    transacted: Transacted, bad: Integers, others: Integers, rows: pa.Array, lines: pa.Array | None
) -> pa.Array:
    """Why each of the others is rejected: the first bad row of its transaction, ascending in `bad`."""
    first = np.zeros(len(transacted.ids) + 1, dtype=np.int64)
    first[transacted.codes[bad[::-1]]] = bad[::-1]
    codes = transacted.codes[others]
    named = pa.array(first[codes])
    parts: list[str | pa.Array] = ["row ", rows.take(named).cast(pa.string())]
    if lines is not None:
        parts += [" (line ", lines.take(named).cast(pa.string()), ")"]
    parts += [" of transaction ", transacted.names(codes), " is rejected"]
    return pc.binary_join_element_wise(*parts, "")


def why_unbalanced(transacted: Transacted, owners: Integers, balance: Exact, units: pa.Array) -> pa.Array:
    """Per transaction, what it comes to instead of zero; null for those that sum to zero.

    Args:
        transacted: the transactions.
        owners: per group, its transaction; in order.
        balance: per group, what it comes to.
        units: per group.
    """
    over = np.flatnonzero(balance.signs() != 0)
    owners = owners[over]
    texts = pc.binary_join_element_wise(units.take(pa.array(over)), balance.take(over).texts(), " ")
    count = np.bincount(owners, minlength=len(transacted.ids))
    starts = np.cumsum(count) - count
    place = np.arange(len(owners)) - starts[owners]
    shown = np.minimum(count, _SUMS_SHOWN)
    bounds = np.append(0, np.cumsum(shown)).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(bounds), texts.filter(pa.array(place < _SUMS_SHOWN)))
    more = pa.array(count - shown).cast(pa.string())
    more = pc.if_else(pa.array(count > shown), pc.binary_join_element_wise(" and ", more, " more", ""), "")
    codes = np.arange(len(transacted.ids))
    return pc.binary_join_element_wise(
        "transaction ",
        transacted.names(codes),
        " does not sum to zero: ",
        pc.binary_join(lists, ", "),
        more,
        "",
    )
