"""Metadata: what an operator sees on a materialization or a check.

Belongs here: turning the core's reports into Dagster's metadata values; tables of at most 20 rows.
Does not: computing anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import dagster as dg
import pyarrow as pa

from backfill_pipeline.ledger.constraints import ConstraintReport
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.stages.prepare import StageReport
from backfill_pipeline.stages.reconcile import ReconciliationReport, currency_rows, equation
from backfill_pipeline.stages.stated import StatedReport, step_rows

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


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """An Arrow schema as Dagster shows columns."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                field.name, str(field.type), constraints=dg.TableColumnConstraints(nullable=field.nullable)
            )
            for field in schema
        ]
    )


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


def stage_metadata(report: StageReport) -> Metadata:
    """What a stage did to one partition."""
    return {
        "dagster/partition_row_count": report.rows_out,
        "rows_in": report.rows_in,
        "rows_out": report.rows_out,
        "seconds": round(report.seconds, 3),
        **report.details,
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


def reconciliation_metadata(report: ReconciliationReport) -> Metadata:
    """The outcome of a reconciliation with its first breaks."""
    breaks = table([asdict(one) for one in report.breaks])
    accounts = table([asdict(one) for one in report.account_breaks])
    currencies = table(currency_rows(report))
    return {
        "verdict": report.verdict,
        "equation": equation(report),
        "entries_compared": report.entries_compared,
        "opening_entries_compared": report.opening_entries_compared,
        "open_partitions": report.open_partitions,
        "breaks": report.break_count,
        "account_breaks": report.account_break_count,
        "currency_breaks": len(report.currency_breaks),
        "seconds": round(report.seconds, 3),
        **({"break_sample": breaks} if breaks else {}),
        **({"account_break_sample": accounts} if accounts else {}),
        **({"currencies": currencies} if currencies else {}),
        **({} if report.stated is None else stated_metadata(report.stated)),
    }


def stated_metadata(report: StatedReport) -> Metadata:
    """How stated balances compare with the ledger's, and where they part."""
    steps = table(step_rows(report))
    return {
        "stated_balances": report.sentence,
        "stated_balances_differing": report.differing,
        **({"stated_balance_drift": steps} if steps else {}),
    }
