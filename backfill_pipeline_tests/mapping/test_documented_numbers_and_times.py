"""The examples of numbers and times in docs/source-definition.md give what the page says."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.schemas.extracted import to_arrow
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline_tests.mapping.conftest import extracted

Define = Callable[..., SourceDefinition]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "source-definition.md"
ROW = {
    "debit": "a", "credit": "b", "amount": "10.00", "currency": "EUR", "ref": "r1", "time": "2024-01-01T00:00:00Z",
}  # fmt: skip
EXAMPLE = re.compile(
    r"^\| `(?P<rule>\{.*?\})` \| `(?P<row>\{.*?\})`.*? \| (?P<expected>[^|]+) \|$", re.MULTILINE
)


def examples(section: str) -> list[tuple[str, str, str]]:
    """The rows of the section's table of examples: rule, row of the source, what becomes of it."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n### {section}\n")[1].split("\n### ")[0]
    return [(one["rule"], one["row"], one["expected"].strip().strip("`")) for one in EXAMPLE.finditer(text)]


def outcome(definition: SourceDefinition, row: str, field: str) -> str:
    """The field's value as text, the code of the reject, or "filtered"."""
    table = extracted(**{name: [value] for name, value in (ROW | yaml.load(row, yaml.BaseLoader)).items()})
    frame = compile_mapping(definition).transform(table)
    validation = validate(frame)
    if validation.filtered:
        return "filtered"
    if len(validation.failures):
        return str(validation.failures["code"].iloc[0])
    (entry,) = to_arrow(frame, ENTRY_SCHEMA).to_pylist()
    if field == "amount":
        return f"{entry['amount']:.{entry['amount_scale']}f}"
    moment: str = entry["timestamp_utc"].replace(tzinfo=None).isoformat()
    return moment


@pytest.mark.parametrize(("rule", "row", "expected"), examples("Amounts"))
def test_amounts(define: Define, rule: str, row: str, expected: str) -> None:
    assert outcome(define(amount=rule), row, "amount") == expected


@pytest.mark.parametrize(("rule", "row", "expected"), examples("Times"))
def test_times(define: Define, rule: str, row: str, expected: str) -> None:
    assert outcome(define(timestamp_utc=rule), row, "timestamp_utc") == expected


def test_there_are_examples() -> None:
    assert len(examples("Amounts")) > 25
    assert len(examples("Times")) > 20
