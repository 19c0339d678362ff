"""Mapping a few rows by a definition, for tests of what it makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from backfill_pipeline.definition.load import TextLoader, load_definition
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.schemas.extracted import to_arrow
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA
from backfill_pipeline_tests.definition.conftest import YAML
from backfill_pipeline_tests.mapping.conftest import extracted

GOOD = {
    "debit": "a", "credit": "b", "amount": "10.00", "currency": "EUR", "ref": "r1", "time": "2024-01-01T00:00:00Z",
}  # fmt: skip


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both, where mappings are merged and everything else of `more` wins."""
    both = dict(base)
    for key, value in more.items():
        known = both.get(key)
        both[key] = merged(known, value) if isinstance(known, dict) and key == "fields" else value
    return both


def define_in(folder: Path, more: str) -> SourceDefinition:
    """The definition of the tests with sections replaced, and fields merged."""
    base, changes = (yaml.load(text, Loader=TextLoader) for text in (YAML, more))
    path = folder / "bank.yaml"
    path.write_text(
        yaml.safe_dump(merged(base, changes), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return load_definition(path)


def entries_of(definition: SourceDefinition, rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """What the rows become. Columns that a row does not name are empty, or as in GOOD."""
    names = dict.fromkeys([*definition.columns_read(), *(name for row in rows for name in row)])
    columns = {name: [row.get(name, GOOD.get(name, "")) for row in rows] for name in names}
    frame = compile_mapping(definition).transform(extracted(**columns))
    entries: list[dict[str, Any]] = to_arrow(frame, ENTRY_SCHEMA).to_pylist()
    return entries
