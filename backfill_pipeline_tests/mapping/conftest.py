"""Definitions and one-column chunks for the mapping's tests."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from backfill_pipeline.mapping.definition import SourceDefinition
from backfill_pipeline.mapping.load import load_definition
from backfill_pipeline.schemas.extracted import extracted_schema

YAML = """
id: bank
type: csv
file: export.csv
fields:
  ledger_id: {constant: MASTER}
  debit_account_id: debit
  credit_account_id: credit
  amount: amount
  currency_code: {column: currency, default: USD}
  transaction_type: {constant: TRANSFER}
  reference_id: ref
  timestamp_utc: {column: time}
"""


@pytest.fixture
def define(tmp_path: Path) -> Callable[..., SourceDefinition]:
    """Writes a definition, with replacements of parts and lines added, and loads it."""

    def write(more: str = "", **replace: str) -> SourceDefinition:
        path = tmp_path / "bank.yaml"
        lines = []
        for line in YAML.strip().splitlines():
            key = line.strip().split(":")[0]
            lines.append(
                f"{line[: len(line) - len(line.lstrip())]}{key}: {replace[key]}" if key in replace else line
            )
        path.write_text("\n".join(lines) + "\n" + more)
        return load_definition(path)

    return write


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
