"""The process in which dlt loads an export; it prints the seconds of the load.

Belongs here: the pipeline at its fastest: Arrow tables stay Parquet files up to PostgreSQL, where ADBC copies them.
Its other ways there (CSV, INSERT) convert every row in between and take three times as long.
Does not: deciding when (`tools.py`).
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.csv as pa_csv

_EXACT = pa.decimal128(38, 9)  # what dlt makes of a decimal: numeric(38, 9)
_BLOCK_BYTES = 16 << 20


def read(export: str) -> Iterator[pa.Table]:
    """The export as Arrow tables, amounts and rates as decimals."""
    reader = pa_csv.open_csv(
        export,
        read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(column_types={"amount": _EXACT, "fx_rate": _EXACT}),
    )
    for batch in reader:
        yield pa.Table.from_batches([batch])


def main(export: str, schema: str, table: str) -> None:
    """Loads the export into the database whose URL is on standard input."""
    dlt = importlib.import_module("dlt")  # an extra: the product does without
    pipeline = dlt.pipeline(
        pipeline_name="rival",
        destination=dlt.destinations.postgres(credentials=sys.stdin.read()),
        dataset_name=schema,
    )
    started = time.monotonic()
    info = pipeline.run(
        read(export), table_name=table, write_disposition="append", loader_file_format="parquet"
    )
    seconds = time.monotonic() - started
    info.raise_on_failed_jobs()
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
