"""What the graph tells at a glance: whose an asset is, its columns as pandera checks them, and where it is defined."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition, mapping_sha256
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline_tests.stages.world import World, entries


@pytest.fixture
def sources(tmp_path: Path) -> World:
    return World("postgresql:///unused", tmp_path)


def specs(path: Path) -> dict[str, dg.AssetSpec]:
    """Name → spec, of the assets of the source in this file."""
    definition = load_definition(path)
    defs = build_defs({definition.id: definition})
    dg.Definitions.validate_loadable(defs)
    found = {spec.key.path[-1]: spec for spec in defs.resolve_all_asset_specs() if len(spec.key.path) == 2}
    assert set(found) >= {"manifest", "extracted", "transformed", "validated", "posted", "reconciliation"}
    return found


def test_every_asset_says_what_it_guarantees_of_what_kind_it_is_and_whose(sources: World) -> None:
    path = sources.write("s", entries(1), owners=["team:payments", "anna.b@bank.example"])
    for spec in specs(path).values():
        assert list(spec.owners) == ["team:payments", "anna.b@bank.example"]
        assert spec.description
        assert spec.kinds
        assert spec.group_name == "s"
        assert spec.tags["backfill/source_type"] == "csv"


def test_owners_may_be_one_and_are_no_part_of_the_mapping(sources: World) -> None:
    without = mapping_sha256(load_definition(sources.write("s", entries(1))))
    definition = load_definition(sources.write("s", entries(1), owners="team:payments"))
    assert definition.owners == ("team:payments",)
    assert mapping_sha256(definition) == without


@pytest.mark.parametrize(
    "owner", ["anna", "team:", "team:a b", "a@b", "@bank.example", "", "a@bank.example\n"]
)
def test_an_owner_nobody_can_reach_is_refused_in_words(sources: World, owner: str) -> None:
    with pytest.raises(SourceDefinitionError, match="owners.*must be an e-mail address, or team: and a name"):
        load_definition(sources.write("s", entries(1), owners=[owner]))


def test_entries_show_the_columns_and_rules_that_pandera_checks(sources: World) -> None:
    found = specs(sources.write("s", entries(1)))
    for name in ("validated", "posted"):
        schema = found[name].metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchema)
        columns = {column.name: column for column in schema.columns}
        assert all(column.description for column in columns.values())
        assert columns["amount"].type == "decimal128(38, 18)"
        # Two of these three look at another column too, and belong to this one.
        assert columns["amount"].constraints.other == [
            "above 0",
            "no finer than the minor unit of its currency",
        ]
        assert "not the debit account" in columns["credit_account_id"].constraints.other
        assert "at most 255 characters" in columns["reference_id"].constraints.other
        assert [name for name, column in columns.items() if column.constraints.nullable] == [
            "fx_rate",
            "fx_rate_scale",
            "metadata",
        ]


def test_records_and_rows_before_they_are_checked_show_what_is_told_of_them_and_of_the_source(
    sources: World,
) -> None:
    found = specs(sources.write("s", entries(1)))
    columns = {}
    for name in ("extracted", "transformed"):
        schema = found[name].metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchema)
        assert all(column.description for column in schema.columns)
        assert not any(column.constraints.other for column in schema.columns), "nothing is checked yet"
        columns[name] = {column.name: column for column in schema.columns}
    extracted, transformed = columns["extracted"], columns["transformed"]
    assert [name for name, column in extracted.items() if not column.constraints.nullable] == [
        "__source_row",
        "__source_line",
        "__byte_offset",
        "__byte_length",
    ]
    assert extracted["amount"].type == "string"
    assert extracted["amount"].description == "as the source wrote it; read by fields.amount"
    assert transformed["amount"].type == "decimal128(38, 18)"
    assert transformed["amount"].constraints.nullable
    assert list(transformed)[-4:] == ["error_code", "error_field", "error_reason", "filter_reason"]


def test_assets_lead_to_the_line_of_their_source_file_that_decides(sources: World) -> None:
    path = sources.write("s", entries(1))
    lines = path.read_text().splitlines()
    found = specs(path)
    for name, key in [("manifest", "id"), ("transformed", "fields"), ("posted", "id")]:
        (line,) = [number for number, text in enumerate(lines, start=1) if text.startswith(f"{key}:")]
        assert found[name].metadata["source_file"] == dg.MetadataValue.path(f"{path}:{line}")
        references = found[name].metadata["dagster/code_references"]
        assert isinstance(references, dg.CodeReferencesMetadataValue)
        (link,) = references.code_references
        assert (link.file_path, link.line_number) == (str(path), line)
