"""A definition that tests change in parts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.models import SourceDefinition

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
