"""Metadata: what an operator sees on a materialization or a check.

Belongs here: what all of them are made of (tables of at most 20 rows, pictures, totals), manifests and constraints.
Does not: computing anything, stages (`stage_metadata.py`), reconciliations (`reconciliation_metadata.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal

import dagster as dg

from backfill_pipeline.ledger.constraints import ConstraintReport
from backfill_pipeline.ledger.figures import CurrencyTotal
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.reporting.plots import Plot

TABLE_ROWS = 20
Metadata = Mapping[str, dg.MetadataValue | str | int | float | bool]


def table(
    rows: Sequence[Mapping[str, object]], *, rows_max: int = TABLE_ROWS
) -> dg.TableMetadataValue | None:
    """The first rows as a table of text; None when there are none."""
    if not rows:
        return None
    records = [
        dg.TableRecord({key: "" if value is None else str(value) for key, value in row.items()})
        for row in rows[:rows_max]
    ]
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in rows[0]])
    return dg.MetadataValue.table(records, schema)


def pictures(plots: Mapping[str, Plot | None]) -> Metadata:
    """Plots by name, each in the metadata itself: it needs no file and no network; those that are None are left out."""
    return {
        name: dg.MetadataValue.md(f"{plot.markdown()}\n\n{plot.text}")
        for name, plot in plots.items()
        if plot is not None
    }


def totals_metadata(totals: Sequence[CurrencyTotal]) -> Metadata:
    """What entries come to: a table of all currencies, and their entries as numbers that Dagster plots over time."""
    if not totals:
        return {}
    columns = ("currency", "entries", "amount")
    records = [
        dg.TableRecord(
            {"currency": one.currency_code, "entries": str(one.entries), "amount": plain_amount(one.amount)}
        )
        for one in totals
    ]
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in columns])
    return {
        "totals": dg.MetadataValue.table(records, schema),
        **{f"entries/{one.currency_code}": one.entries for one in totals},
    }


def plain_amount(amount: Decimal) -> str:
    """An amount in digits, without an exponent and without zeros that say nothing."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def manifest_metadata(
    registration: Registration,
    repeated_rows: int | None,
    partitions_kept: int = 0,
    details: Mapping[str, int] | None = None,
) -> Metadata:
    """What a manifest found out about its source; `partitions_kept` are those that it had before it grew, `details` say
    how reading it went.
    """
    partitions = registration.partitions
    return {
        "dagster/row_count": registration.row_count,
        "file": registration.file_name,
        "size_bytes": registration.size_bytes,
        "sha256": registration.sha256,
        "mapping_sha256": registration.mapping_sha256,
        "revision": registration.revision,
        "partitions": len(partitions),
        "partition_keys": f"{partitions[0].key} … {partitions[-1].key}"
        if partitions
        else "none: the source has no rows",
        "columns": ", ".join(registration.header),
        **({"files": len(registration.files)} if registration.files else {}),
        **({"partitions_kept": partitions_kept} if partitions_kept else {}),
        **{f"read/{name}": count for name, count in (details or {}).items()},
        **({} if repeated_rows is None else {"repeated_rows": repeated_rows}),
    }


def constraint_metadata(report: ConstraintReport) -> Metadata:
    """The outcome of the constraint step: the state, and who stands against it."""
    sample = table([asdict(offender) for offender in report.sample])
    worst = report.worst
    return {
        "state": report.state,
        "offending_accounts": report.offending,
        **(
            {"worst": f"{worst.account_id}: available {worst.available_balance} {worst.currency_code}"}
            if worst
            else {}
        ),
        **({"offenders": sample} if sample else {}),
    }
