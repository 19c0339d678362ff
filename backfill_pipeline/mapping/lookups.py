"""Lookups: the account map, a definition's own lookups, and the small files that they and accounts are read from.

Belongs here: reading them, what is wrong with them, and looking texts up.
Does not: where in a rule that happens (`text.py`), accounts (`accounts.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.accounts import AccountMap
from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.schemas.extracted import ERROR_CODE, ERROR_REASON, SOURCE_LINE, extracted_schema
from backfill_pipeline.schemas.row_errors import combined, positions_of
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline.sources.headers import listed
from backfill_pipeline.wording import are, counted

_CHUNK_ROWS: Final = 200_000


@dataclass(frozen=True, slots=True)
class LookupTable:
    """Texts and what they become.

    Attributes:
        sources: string, unique.
        targets: string, in the same order.
        keep_missing: whether a text that is not in it stays as it is.
        default: what such a text becomes instead; None when it is kept, or an error.
    """

    sources: pa.Array
    targets: pa.Array
    keep_missing: bool
    default: str | None = None

    def look_up(self, values: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        """Looks texts up; empty and null ones stay as they are.

        Returns:
            The new texts, and where a text is not in the table and that is an error (boolean, None: nowhere). The new
            text is null there.
        """
        targets = self.targets.take(pc.index_in(values, value_set=self.sources))
        if targets.null_count == 0:
            return targets, None
        if self.keep_missing:
            return pc.coalesce(targets, values), None
        empty = pc.fill_null(pc.equal(values, ""), False)
        if pc.any(empty).as_py():
            targets = pc.if_else(empty, values, targets)
        lacking = pc.and_(pc.is_null(targets), pc.is_valid(values))
        if self.default is not None:
            return pc.if_else(lacking, self.default, targets), None
        return targets, lacking


@dataclass(frozen=True, slots=True)
class Lookups:
    """All of a definition, ready for use: the account map, if there is one, and the others by name."""

    accounts: LookupTable | None = None
    named: Mapping[str, LookupTable] = field(default_factory=dict)


def read_lookups(definition: SourceDefinition) -> Lookups:
    """Reads the account map and all lookups, from the definition or their files.

    Raises:
        SourceFileError: a file is missing or malformed, or maps one text to two.
    """
    account_map = definition.account_map
    return Lookups(
        None if account_map is None else _read(account_map, "account_map", "account"),
        {
            name: _read(lookup, f"lookups.{name}", "text", lookup.default)
            for name, lookup in definition.lookups.items()
        },
    )


def _read(section: AccountMap, key: str, noun: str, default: str | None = None) -> LookupTable:
    """A section of the definition; `key` is its place, and `noun` what it maps, for messages."""
    keep = section.missing == "keep"
    if section.inline is not None:
        inline = {source.strip(): target.strip() for source, target in section.inline.items()}
        sources, targets = (pa.array(list(texts), pa.string()) for texts in (inline, inline.values()))
        return LookupTable(sources, targets, keep, default)
    assert section.file is not None
    assert section.from_ is not None
    assert section.to is not None
    file, names = section.file, (section.from_, section.to)
    rows = Rows(read_small_file(file, section.csv, dict.fromkeys(names, key)))
    sources, targets = rows.trimmed(names[0]), rows.trimmed(names[1])
    lines = rows.table[SOURCE_LINE].to_numpy()
    for name, values in zip(names, (sources, targets), strict=True):
        if len(empty := positions_of(pc.equal(values, ""))):
            raise SourceFileError(
                f"{file}: line {lines[empty[0]]} has no {name}: every {noun} needs both columns."
            )
    pairs = (
        pa.table([sources, targets], names=["source", "target"]).group_by(["source", "target"]).aggregate([])
    )
    if pairs.num_rows > len(pc.unique(sources)):
        counts = pairs.group_by("source").aggregate([("target", "count")])
        twice = counts.filter(pc.greater(counts["target_count"], 1))["source"][0]
        raise SourceFileError(f"{file}: maps the {noun} {twice.as_py()!r} to two different {noun}s.")
    return LookupTable(combined(pairs["source"]), combined(pairs["target"]), keep, default)


def read_small_file(file: Path, dialect: CsvDialect, needed: dict[str, str]) -> pa.Table:
    """A whole helper file (accounts, account map, lookup) as one EXTRACTED table without malformed records.

    Args:
        file: absolute path.
        dialect: how it is written.
        needed: column → the key of the definition that reads it.

    Raises:
        SourceFileError: a column is missing, or a record is malformed (the first is named).
    """
    tables: list[pa.Table] = []
    manifest = CsvReader(file, dialect).survey(_CHUNK_ROWS, visit=tables.append)
    for column, key in needed.items():
        if column not in manifest.header:
            raise SourceFileError(
                f"{file}: has no column {column!r}, which {key} reads: the columns are {listed(manifest.header)}."
            )
    if not tables:
        return extracted_schema(manifest.header).empty_table()
    table = pa.concat_tables(tables).combine_chunks()
    bad = positions_of(pc.is_valid(table[ERROR_CODE]))
    if len(bad):
        line, reason = table[SOURCE_LINE][int(bad[0])].as_py(), table[ERROR_REASON][int(bad[0])].as_py()
        raise SourceFileError(
            f"{file}: line {line}: {reason}; {len(bad)} of {counted(table.num_rows, 'record')}"
            f" {are(len(bad))} malformed."
        )
    return table
