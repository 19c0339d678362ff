"""The account map and other helper files of a source, which are small enough to be read whole.

Belongs here: reading them, and what is wrong with them.
Does not: mapping rows (`transform.py`), accounts (`accounts.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.accounts import AccountMap
from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.schemas.extracted import ERROR_CODE, ERROR_REASON, SOURCE_LINE, extracted_schema
from backfill_pipeline.schemas.row_errors import combined, positions_of
from backfill_pipeline.sources.csv_reader import CsvReader

_CHUNK_ROWS: Final = 200_000


@dataclass(frozen=True, slots=True)
class AccountLookup:
    """The account map, ready for use.

    Attributes:
        sources: string, the source's identifiers, unique.
        targets: string, the ledger's, in the same order.
        keep_missing: whether an identifier that is not in the map stays as it is.
    """

    sources: pa.Array
    targets: pa.Array
    keep_missing: bool


def read_account_map(account_map: AccountMap | None) -> AccountLookup | None:
    """Reads the account map, from the definition or its file.

    Raises:
        SourceFileError: the file is missing or malformed, or maps one identifier to two accounts.
    """
    if account_map is None:
        return None
    keep = account_map.missing == "keep"
    if account_map.inline is not None:
        inline = {source.strip(): target.strip() for source, target in account_map.inline.items()}
        return AccountLookup(
            pa.array(list(inline), pa.string()), pa.array(list(inline.values()), pa.string()), keep
        )
    assert account_map.file is not None
    assert account_map.from_ is not None
    assert account_map.to is not None
    file, names = account_map.file, (account_map.from_, account_map.to)
    rows = Rows(read_small_file(file, account_map.csv, dict.fromkeys(names, "account_map")))
    sources, targets = rows.trimmed(names[0]), rows.trimmed(names[1])
    lines = rows.table[SOURCE_LINE].to_numpy()
    for name, values in zip(names, (sources, targets), strict=True):
        if len(empty := positions_of(pc.equal(values, ""))):
            raise SourceFileError(
                f"{file}: line {lines[empty[0]]} has no {name}: every account needs both columns."
            )
    pairs = (
        pa.table([sources, targets], names=["source", "target"]).group_by(["source", "target"]).aggregate([])
    )
    if pairs.num_rows > len(pc.unique(sources)):
        counts = pairs.group_by("source").aggregate([("target", "count")])
        twice = counts.filter(pc.greater(counts["target_count"], 1))["source"][0]
        raise SourceFileError(f"{file}: maps the account {twice.as_py()!r} to two different accounts.")
    return AccountLookup(combined(pairs["source"]), combined(pairs["target"]), keep)


def read_small_file(file: Path, dialect: CsvDialect, needed: dict[str, str]) -> pa.Table:
    """A whole helper file (accounts, account map) as one EXTRACTED table without malformed records.

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
                f"{file}: has no column {column!r}, which {key} reads: the columns are {', '.join(manifest.header)}."
            )
    if not tables:
        return extracted_schema(manifest.header).empty_table()
    table = pa.concat_tables(tables).combine_chunks()
    bad = positions_of(pc.is_valid(table[ERROR_CODE]))
    if len(bad):
        line, reason = table[SOURCE_LINE][int(bad[0])].as_py(), table[ERROR_REASON][int(bad[0])].as_py()
        raise SourceFileError(
            f"{file}: line {line}: {reason}; {len(bad)} of {table.num_rows} records are malformed."
        )
    return table
