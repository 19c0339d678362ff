"""The columns of a chunk while they are mapped.

Belongs here: access to source columns, raw and trimmed, and the errors found so far.
Does not: rules (`transform.py`).
"""

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.schemas.row_errors import RowErrors, combined


class Rows:
    """The columns of one chunk while they are mapped, and the errors found so far."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.errors = RowErrors()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def raw(self, column: str) -> pa.Array:
        """A source column as it is written; null in malformed records."""
        return combined(self.table[column])

    def trimmed(self, column: str) -> pa.Array:
        """A source column without white space around its values."""
        text = pc.ascii_trim_whitespace(self.raw(column))
        if pc.all(pc.string_is_ascii(text)).as_py():
            return text
        return pc.utf8_trim_whitespace(text)  # ten times slower; knows no-break spaces and their like
