"""The columns of a chunk while they are mapped.

Belongs here: access to columns, raw and trimmed, derived ones among them, the errors found so far, and which rows are
filtered.
Does not: rules (`transform.py`, `rules.py`).
"""

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.schemas.extracted import ERROR_CODE
from backfill_pipeline.schemas.row_errors import Positions, RowErrors, combined


class Rows:
    """The columns of one chunk while they are mapped, and the errors and filtered rows found so far."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.errors = RowErrors()
        self._derived: dict[str, pa.Array] = {}
        self._trimmed: dict[str, pa.Array] = {}
        self._filter_reasons: pa.Array | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def raw(self, column: str) -> pa.Array:
        """A derived column, or a source column as it is written; null in malformed records."""
        derived = self._derived.get(column)
        return combined(self.table[column]) if derived is None else derived

    def trimmed(self, column: str) -> pa.Array:
        """A column without white space around its values."""
        if column not in self._trimmed:
            self._trimmed[column] = trim(self.raw(column))
        return self._trimmed[column]

    def put(self, column: str, values: pa.Array) -> None:
        """Makes a derived column, which hides a source column of its name from now on."""
        self._derived[column] = values
        self._trimmed.pop(column, None)

    def at(self, positions: Positions) -> "Rows":
        """Some of the rows, with errors of their own. Columns are taken when they are asked for."""
        return _Part(self, positions)

    def filter_where(self, where: pa.Array, reason: str) -> None:
        """Leaves rows out on purpose: they become no entry and no reject, and are counted by their reason.

        A row that is filtered already keeps its first reason. Errors of a filtered row do not matter, but a record
        that the reader found malformed is always a reject: nobody can say what it would have been.

        Args:
            where: boolean per row; null counts as false.
            reason: a short name for people and counts, such as "pending".
        """
        if not pc.any(where).as_py():
            return
        chosen = pc.and_(pc.fill_null(where, False), pc.is_null(self.raw(ERROR_CODE)))
        before = self.filter_reasons
        if before.null_count < len(before):
            chosen = pc.and_(chosen, pc.is_null(before))
        self._filter_reasons = pc.if_else(chosen, reason, before)

    @property
    def filter_reasons(self) -> pa.Array:
        """Why each row is filtered, string; null for the others."""
        if self._filter_reasons is None:
            return pa.nulls(len(self), pa.string())
        return self._filter_reasons


class _Part(Rows):
    """Rows at some positions of others."""

    def __init__(self, whole: Rows, positions: Positions) -> None:
        super().__init__(whole.table)
        self._whole = whole
        self._positions = pa.array(positions)

    def __len__(self) -> int:
        return len(self._positions)

    def raw(self, column: str) -> pa.Array:
        return self._whole.raw(column).take(self._positions)

    def trimmed(self, column: str) -> pa.Array:
        return self._whole.trimmed(column).take(self._positions)


def trim(text: pa.Array) -> pa.Array:
    """Texts without white space around them."""
    text = pc.ascii_trim_whitespace(text)
    if pc.all(pc.string_is_ascii(text)).as_py():
        return text
    return pc.utf8_trim_whitespace(text)  # ten times slower; knows no-break spaces and their like
