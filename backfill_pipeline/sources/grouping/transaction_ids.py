"""The id of each row's transaction: one text out of one or several columns.

Belongs here: reading ids, the same way for bringing rows together and for pairing them.
Does not: either of these (`grouped_reader.py`, `mapping/legs.py`).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.schemas.row_errors import bytes_held, combined

SEPARATOR: Final = "\x1f"
"""Between the texts of several columns; escaped inside them, so that different ids stay different."""

_ESCAPE: Final = "\x1e"


def transaction_ids(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """The ids of EXTRACTED rows, without white space around the texts they are made of.

    Args:
        table: EXTRACTED.
        columns: those of the id.

    Returns:
        string per row; "" where one of the columns is empty, null in malformed records.
    """
    texts = [_trimmed(combined(table[name])) for name in columns]
    if len(texts) == 1:
        return texts[0]
    joined = pc.binary_join_element_wise(*(_unambiguous(text) for text in texts), SEPARATOR)
    empty = pc.equal(texts[0], "")
    for text in texts[1:]:
        empty = pc.or_(empty, pc.equal(text, ""))
    return pc.if_else(empty, "", joined)


def belongs_with_the_one_before(ids: pa.Array, last: str | None) -> npt.NDArray[np.bool_]:
    """Per row, whether it has the id of the row before it; rows without an id belong with no other.

    Args:
        ids: as `transaction_ids` gives them.
        last: that of the row before the first one.
    """
    before = pa.concat_arrays([pa.array([last], pa.string()), ids])[: len(ids)]
    together = pc.and_(pc.equal(ids, before), pc.not_equal(ids, ""))
    found: npt.NDArray[np.bool_] = pc.fill_null(together, False).to_numpy(zero_copy_only=False)
    return found


def shown_ids(ids: pa.Array) -> pa.Array:
    """Ids for people."""
    return pc.replace_substring(ids, SEPARATOR, " / ")


def _trimmed(text: pa.Array) -> pa.Array:
    trimmed = pc.ascii_trim_whitespace(text)
    return trimmed if pc.all(pc.string_is_ascii(trimmed)).as_py() else pc.utf8_trim_whitespace(trimmed)


def _unambiguous(text: pa.Array) -> pa.Array:
    if not bytes_held(text, f"{_ESCAPE}{SEPARATOR}".encode()):
        return text
    return pc.replace_substring(pc.replace_substring(text, _ESCAPE, f"{_ESCAPE}0"), SEPARATOR, f"{_ESCAPE}1")
