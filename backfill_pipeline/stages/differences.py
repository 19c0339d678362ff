"""Differences between a source and the ledger, kept as entries: what corrections are proposed from.

Belongs here: which references differ, and what the source says of each.
Does not: finding them (`reconcile.py`), proposing (`corrections.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger.entries import CONTENT_COLUMNS
from backfill_pipeline.schemas.row_errors import combined
from backfill_pipeline.stages.comparison import Alignment, differing_fields


@dataclass(slots=True)
class Differences:
    """References that differ, each with what the source says of it; the first `limit`, and a complete count.

    Attributes:
        limit: at most so many are kept.
        wanted: (ledger_id, reference_id) → where it is in the source, and the entry that it should be.
        unwanted: references of the ledger that the source does not have, likewise; `wanted` goes before it.
        count: of all references that differ.
    """

    limit: int
    wanted: dict[tuple[str, str], dict[str, object]] = field(default_factory=dict)
    unwanted: dict[tuple[str, str], dict[str, object]] = field(default_factory=dict)
    count: int = 0

    def add_pairs(self, partition_key: str, aligned: Alignment) -> None:
        """Pairs of which a field differs. Of another reference, both are kept: one is missing, one unexpected."""
        if not self.limit:
            return
        found = [positions.to_numpy() for _, positions, _, _ in differing_fields(aligned)]
        if not found:
            return
        positions = pa.array(np.unique(np.concatenate(found)), pa.int64())
        expected, actual = aligned.expected.take(positions), aligned.actual.take(positions)
        self.add_wanted(partition_key, expected)
        renamed = pc.or_(
            *(
                pc.not_equal(expected.column(name), actual.column(name))
                for name in ("ledger_id", "reference_id")
            )
        )
        self.add_unwanted(partition_key, actual.filter(renamed))

    def add_wanted(self, partition_key: str, expected: pa.Table) -> None:
        """Entries that the source has (VALIDATED_SCHEMA) and the ledger not, or not so."""
        self.count += expected.num_rows
        rows = expected.slice(0, max(self.limit - len(self.wanted), 0))
        for row in _plain_times(rows).to_pylist():
            found = _place(partition_key, row)
            self.wanted[row["ledger_id"], row["reference_id"]] = {**found, "target": _target(row)}

    def add_unwanted(self, partition_key: str, actual: pa.Table) -> None:
        """Entries that the ledger has (LEDGER_SCHEMA) and the source not."""
        self.count += actual.num_rows
        rows = actual.slice(0, max(self.limit - len(self.unwanted), 0))
        for row in rows.select(["ledger_id", "reference_id", "source_row"]).to_pylist():
            self.unwanted[row["ledger_id"], row["reference_id"]] = _place(partition_key, row)

    def add_left_over(self, partition_key: str, row: dict[str, object]) -> None:
        """A reference whose correction does not fit any more; what is there now is right unless it differs as well."""
        name = (str(row["ledger_id"]), str(row["reference_id"]))
        if name not in self.wanted and name not in self.unwanted:
            self.count += 1
            if len(self.unwanted) < self.limit:
                self.unwanted[name] = {**_place(partition_key, row), "keep": True}

    def findings(self) -> list[dict[str, object]]:
        """All of them, as `ledger.corrections.propose` takes them."""
        extra = [found for name, found in self.unwanted.items() if name not in self.wanted]
        return [*self.wanted.values(), *extra][: self.limit]


def _place(partition_key: str, row: dict[str, object]) -> dict[str, object]:
    return {
        "partition_key": partition_key,
        "source_row": row["source_row"],
        "ledger_id": row["ledger_id"],
        "reference_id": row["reference_id"],
    }


def _plain_times(rows: pa.Table) -> pa.Table:
    """Times as texts in ISO 8601: Python cannot hold all that the ledger can."""
    at = rows.schema.get_field_index("timestamp_utc")
    times = pc.strftime(combined(rows.column(at)), format="%Y-%m-%dT%H:%M:%SZ")
    return rows.set_column(at, "timestamp_utc", times)


def _target(row: dict[str, object]) -> dict[str, object]:
    """The entry as JSON: numbers as texts, with the decimals that the source writes."""
    target = {name: row[name] for name in CONTENT_COLUMNS}
    for name in ("amount", "fx_rate"):
        value, scale = row[name], row[f"{name}_scale"]
        if isinstance(value, Decimal) and isinstance(scale, int):
            target[name] = f"{value:.{scale}f}"
    return target
