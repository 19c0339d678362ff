"""Definitions and one-column chunks for the mapping's tests."""

from collections.abc import Sequence

import pyarrow as pa

from backfill_pipeline.schemas.extracted import extracted_schema
from backfill_pipeline_tests.definition.conftest import define

__all__ = ["define"]


def extracted(**columns: Sequence[str | None]) -> pa.Table:
    """An EXTRACTED table of well-formed records."""
    count = len(next(iter(columns.values())))
    rows = pa.array(range(1, count + 1), pa.int64())
    nothing = pa.nulls(count, pa.string())
    arrays = [
        rows,
        rows,
        rows,
        rows,
        nothing,
        nothing,
        *(pa.array(one, pa.string()) for one in columns.values()),
    ]
    return pa.table(arrays, schema=extracted_schema(list(columns)))
