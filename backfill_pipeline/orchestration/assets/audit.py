"""The audit as an asset: materializing it holds the whole ledger against itself, and changes nothing.

Belongs here: Dagster's side of `ledger/auditing/audit.py`.
Does not: checking anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import dagster as dg

from backfill_pipeline.ledger.auditing.audit import Audit, audit
from backfill_pipeline.ledger.auditing.findings import Check, Severity
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.orchestration.assets.keys import AUDIT_KEY
from backfill_pipeline.orchestration.failures import TRANSIENT_RETRIES, terminal
from backfill_pipeline.orchestration.metadata import Metadata, table
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.wording import counted

BREAKS_CHECK = "nothing_is_broken"
WARNINGS_CHECK = "nothing_to_look_at"
_NAMED = 5


def audit_asset() -> dg.AssetsDefinition:
    """Ledger-wide, of no source; nothing depends on it."""

    @dg.asset(
        key=AUDIT_KEY,
        group_name="ledger",
        kinds={"postgres"},
        check_specs=[
            dg.AssetCheckSpec(
                BREAKS_CHECK,
                asset=AUDIT_KEY,
                description="No balance differs from its legs, no batch from its entries, no row of the audit log from"
                " its hash, and the schema is whole. A check that could not be made fails too.",
            ),
            dg.AssetCheckSpec(
                WARNINGS_CHECK,
                asset=AUDIT_KEY,
                description="Nothing that a person should look at although the ledger is right: stalled backfills,"
                " accounts that were below zero, and the like.",
            ),
        ],
        retry_policy=TRANSIENT_RETRIES,
        description="Everything about the ledger that can be held against itself, in one snapshot: balances, batches,"
        " checkpoints, references, schema, history below zero, totals per currency and day. Changes nothing;"
        " postings go on meanwhile.",
    )
    def audit_ledger(
        context: dg.AssetExecutionContext, ledger: LedgerResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        with (
            terminal(),
            connect(ledger.places.ledger_url, application_name="backfill audit") as connection,
        ):
            report = audit(connection)
        broken = [*report.breaks, *report.skipped]
        warnings = report.findings(Severity.WARNING)
        context.log.info(said(report.checks, "nothing found"))
        yield dg.MaterializeResult(
            metadata=audit_metadata(report),
            check_results=[
                _result(BREAKS_CHECK, broken, dg.AssetCheckSeverity.ERROR),
                _result(WARNINGS_CHECK, warnings, dg.AssetCheckSeverity.WARN),
            ],
        )

    return audit_ledger


def _result(name: str, checks: Sequence[Check], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not checks,
        check_name=name,
        severity=severity,
        description=said(checks, "nothing found"),
        metadata=_samples(checks),
    )


def said(checks: Sequence[Check], otherwise: str) -> str:
    """What was found, in a sentence that says what to do about the first of it."""
    found = [check for check in checks if check.count or check.skipped is not None]
    if not found:
        return otherwise
    named = "; ".join(
        f"{check.looks_for}: {check.count:,}"
        if check.skipped is None
        else f"{check.name} skipped: {check.skipped}"
        for check in found[:_NAMED]
    )
    more = f"; and {counted(len(found) - _NAMED, 'more finding')}" if len(found) > _NAMED else ""
    return f"{named}{more}. What to do about the first: {found[0].remedy}"


def audit_metadata(report: Audit) -> Metadata:
    """Every check with its outcome, a sample of each finding, and the totals."""
    order = ["break", "skipped", "warning", "note", "passed"]
    checks = table(
        [
            {
                "check": check.name,
                "outcome": check.outcome,
                "count": check.count,
                "looks_for": check.looks_for,
                "remedy": check.remedy if check.outcome != "passed" else "",
            }
            for check in sorted(report.checks, key=lambda one: order.index(one.outcome))
        ],
        rows_max=len(report.checks),
    )
    ledgers = table([asdict(one) for one in report.totals.ledgers])
    days = table([asdict(one) for one in reversed(report.totals.days)])
    balances = table([asdict(one) for one in report.currencies])
    return {
        "outcome": said(
            [*report.breaks, *report.skipped, *report.findings(Severity.WARNING)], "nothing found"
        ),
        "entries": report.entries,
        "accounts": report.accounts,
        "breaks": len(report.breaks),
        "warnings": len(report.findings(Severity.WARNING)),
        "notes": len(report.findings(Severity.NOTE)),
        "skipped": len(report.skipped),
        "constraints": report.constraints,
        "seconds": round(report.seconds, 3),
        **({"checks": checks} if checks else {}),
        **_samples(report.checks),
        **({"totals": ledgers} if ledgers else {}),
        **({"latest_days": days} if days else {}),
        **({"trial_balance": balances} if balances else {}),
    }


def _samples(checks: Sequence[Check]) -> dict[str, dg.TableMetadataValue]:
    """The first findings of each check, as a table of its own."""
    return {f"found/{check.name}": sample for check in checks if (sample := table(check.sample)) is not None}
