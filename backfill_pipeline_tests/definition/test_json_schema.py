"""The JSON Schema fits every source file there is, and no misspelt one; the committed file is the one it makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from backfill_pipeline.definition.json_schema import schema_text, source_schema
from backfill_pipeline_tests.definition.conftest import YAML
from backfill_pipeline_tests.definition.json_schema import offends

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = sorted((CHECKOUT / "data" / "sources").glob("*.yaml"))
SCHEMA = source_schema()


class _AsEditorsRead(yaml.SafeLoader):
    """YAML 1.2 as editors read it: dates are texts."""


_AsEditorsRead.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _offences(text: str) -> list[str]:
    return offends(yaml.load(text, Loader=_AsEditorsRead), SCHEMA, SCHEMA)


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.stem)
def test_every_source_file_fits(file: Path) -> None:
    assert _offences(file.read_text(encoding="utf-8")) == []


def test_short_forms_fit_and_so_do_numbers_that_are_meant_as_text() -> None:
    more = "metadata: [a, b]\naccount_map: {inline: {4711: ACC-1}}\ncsv: {quote: null, header: false, columns: [a, 1]}\n"
    assert _offences(YAML + more) == []
    rules = "rules:\n- {when: {a: x, b: [y, 1], c: {empty: true}}, filter: pending}\n"
    assert _offences(YAML + rules) == []
    assert _offences(YAML + "metadata: {text: a}\nmax_error_rate: 0.2\nonline: true\n") == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("file:", "fiel:"),
        ("{column: currency, default: USD}", "{colum: currency, default: USD}"),
        ("{constant: TRANSFER}", "{constant: TRANSFER, default: X}"),
        ("id: bank", "id: Bank-1"),
        ("  amount: amount\n", ""),
        ("amount: amount", "amount: {column: a, decimal_mark: ';'}"),
    ],
)
def test_what_is_wrong_does_not_fit(right: str, wrong: str) -> None:
    assert right in YAML
    assert _offences(YAML.replace(right, wrong)) != []


def test_keys_named_like_words_of_json_schema_stay() -> None:
    assert "default" in SCHEMA["$defs"]["TextRule"]["properties"]
    assert "description" in SCHEMA["properties"]


def test_keys_come_with_a_line_of_help() -> None:
    for key in ("id", "file", "fields", "metadata", "max_error_rate"):
        assert SCHEMA["properties"][key]["description"], key
    assert SCHEMA["$defs"]["EntryFields"]["properties"]["amount"]["description"]


def test_the_committed_file_is_up_to_date() -> None:
    committed = (CHECKOUT / "docs" / "source-definition.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), (
        "write it again: backfill sources schema > docs/source-definition.schema.json"
    )
