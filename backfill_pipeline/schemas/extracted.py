"""The EXTRACTED frame: one row per record of the source, raw text, before any mapping.

Belongs here: the names and types of the columns that the reader adds, and the way between Arrow and pandas.
Does not: what the columns of a source mean (`mapping/`).
"""

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

SOURCE_ROW = "__source_row"
"""int64, 1-based number of the data record in the whole source; the header is not counted."""

SOURCE_LINE = "__source_line"
"""int64, 1-based physical line on which the record starts; a record with quoted line breaks spans several."""

BYTE_OFFSET = "__byte_offset"
"""int64, where the record starts in the file."""

BYTE_LENGTH = "__byte_length"
"""int64, bytes of the record without its line terminator."""

ERROR_CODE = "__error_code"
"""string, a `RejectCode` when the record is malformed (all source columns are null then), else null."""

ERROR_REASON = "__error_reason"
"""string, one sentence, null when the record is well-formed."""

RESERVED_FIELDS: tuple[pa.Field, ...] = (
    pa.field(SOURCE_ROW, pa.int64(), nullable=False),
    pa.field(SOURCE_LINE, pa.int64(), nullable=False),
    pa.field(BYTE_OFFSET, pa.int64(), nullable=False),
    pa.field(BYTE_LENGTH, pa.int64(), nullable=False),
    pa.field(ERROR_CODE, pa.string()),
    pa.field(ERROR_REASON, pa.string()),
)
"""The columns that the reader adds in front of the source's own."""

RESERVED_NAMES = frozenset(field.name for field in RESERVED_FIELDS)


def extracted_schema(header: Sequence[str]) -> pa.Schema:
    """The schema of EXTRACTED for a source with these columns: the reserved ones, then each column as string."""
    return pa.schema([*RESERVED_FIELDS, *(pa.field(name, pa.string()) for name in header)])


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as an Arrow-backed frame: nothing is converted, so decimals, nulls and times stay exact."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def to_arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """An Arrow-backed frame as a table of exactly this schema (columns by name).

    Raises:
        pyarrow.ArrowInvalid: a column does not fit its type.
    """
    return pa.Table.from_pandas(
        frame[schema.names], schema=schema, preserve_index=False
    ).replace_schema_metadata()
