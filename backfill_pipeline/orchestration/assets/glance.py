"""What the graph says about a source's assets at a glance: whose they are, their columns, and where they are defined.

Belongs here: owners, tags, column schemas and the way to the source file, put on the specs of all assets alike.
Does not: what an asset is and does (the modules beside this one), metadata of results (`orchestration/metadata.py`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import dagster as dg

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.schemas.columns import (
    FrameColumn,
    entry_columns,
    extracted_columns,
    transformed_columns,
)

# Which section of the source file decides about an asset: there its link leads.
_SECTIONS: Final = {"transformed": "fields", "acknowledged": "scb"}


def at_a_glance(assets: dg.AssetsDefinition, definition: SourceDefinition) -> dg.AssetsDefinition:
    """The same assets, with the source's owners, its kind as a tag, column schemas, and links to its file."""
    lines = _lines(definition.path)
    entries = _schema(entry_columns())
    schemas = {
        "extracted": _schema(extracted_columns(definition.columns_read())),
        "transformed": _schema(transformed_columns()),
        "validated": entries,
        "posted": entries,
    }

    def told(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.path[-1]
        place = f"{definition.path}:{lines.get(_SECTIONS.get(name, 'id'), 1)}"
        columns = {"dagster/column_schema": schemas[name]} if name in schemas else {}
        return spec.replace_attributes(
            owners=[*spec.owners, *definition.owners],
            tags={**spec.tags, "backfill/source_type": definition.type},
            metadata={
                **spec.metadata,
                **columns,
                "source_file": dg.MetadataValue.path(place),
                "dagster/code_references": _link(place),
            },
        )

    return assets.map_asset_specs(told)


def _schema(columns: Sequence[FrameColumn]) -> dg.TableSchema:
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                column.kind,
                description=column.meaning,
                constraints=dg.TableColumnConstraints(nullable=column.nullable, other=list(column.rules)),
            )
            for column in columns
        ]
    )


def _link(place: str) -> dg.CodeReferencesMetadataValue:
    """What the UI opens in an editor. Dagster calls these beta, so the place is there as plain metadata too."""
    path, _, line = place.rpartition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.CodeReferencesMetadataValue(
            code_references=[
                dg.LocalFileCodeReference(file_path=path, line_number=int(line), label="source file")
            ]
        )


def _lines(path: Path) -> Mapping[str, int]:
    """Key at the top of the source file → its line, from 1; empty when the file is gone."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found = (re.match(r"(\w+)\s*:", line) for line in text.splitlines())
    return {key[1]: number for number, key in enumerate(found, start=1) if key}
