"""The seals as an asset: materializing it hashes everything that was sealed anew and names what was touched since.

Belongs here: Dagster's side of `stages/verify.py`.
Does not: hashing, comparing, sealing.
"""

from collections.abc import Iterator
from dataclasses import asdict

import dagster as dg

from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.orchestration.assets.keys import SEALS_KEY
from backfill_pipeline.orchestration.failures import TRANSIENT_RETRIES, terminal
from backfill_pipeline.orchestration.metadata import Metadata, table
from backfill_pipeline.orchestration.resources import LedgerResource, source_definition
from backfill_pipeline.stages.verify import VerificationReport, verify
from backfill_pipeline.wording import counted

INTACT_CHECK = "sealed_entries_intact"


def seals_asset() -> dg.AssetsDefinition:
    """Ledger-wide: all batches, closed periods and chains."""

    @dg.asset(
        key=SEALS_KEY,
        group_name="ledger",
        kinds={"postgres"},
        check_specs=[
            dg.AssetCheckSpec(
                INTACT_CHECK,
                asset=SEALS_KEY,
                description="Every entry of every sealed batch and closed period is as it was sealed, and no seal is"
                " missing from its chain.",
            )
        ],
        retry_policy=TRANSIENT_RETRIES,
        description="Hashes anew what was sealed, and names the batch and the entry that somebody touched since."
        " Changes nothing.",
    )
    def seals(
        context: dg.AssetExecutionContext, ledger: LedgerResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        places = ledger.places
        with terminal(), connect(places.ledger_url, application_name="backfill verify") as connection:
            report = verify(connection, places, source_definition)
        text = verification_text(report)
        context.log.info(text)
        metadata = verification_metadata(report)
        yield dg.MaterializeResult(
            metadata=metadata,
            check_results=[
                dg.AssetCheckResult(
                    passed=report.intact,
                    check_name=INTACT_CHECK,
                    severity=dg.AssetCheckSeverity.WARN if report.corrected else dg.AssetCheckSeverity.ERROR,
                    description=text,
                    metadata=metadata,
                )
            ],
        )

    return seals


def verification_text(report: VerificationReport) -> str:
    """The outcome in a sentence."""
    covered = f"{counted(report.seals, 'seal')} over {counted(report.entries, 'entry', 'entries')}"
    if report.intact:
        return f"intact: {covered}"
    if report.corrected:
        return (
            f"corrected: {counted(len(report.touched), 'batch or period', 'batches and periods')} of {covered} are what"
            " was sealed only together with the corrections made since"
        )
    first = (
        f"ledger {report.touched[0].ledger_id}, {report.touched[0].subject}"
        if report.touched
        else f"ledger {report.chain_faults[0].ledger_id}: seal {report.chain_faults[0].number}"
        f" {report.chain_faults[0].fault}"
    )
    return (
        f"touched: {counted(len(report.touched), 'batch or period', 'batches and periods')} not as sealed,"
        f" {counted(len(report.chain_faults), 'fault')} in the chain of seals, of {covered}; first {first}. Find out"
        " who did it; backfill corrections propose SOURCE proposes entries that make it right"
    )


def verification_metadata(report: VerificationReport) -> Metadata:
    """What was verified, and what differs."""
    touched = table(
        [
            {
                "ledger": one.ledger_id,
                "what": one.subject,
                "sealed": one.sealed,
                "found": one.found,
                "entries_named": one.break_count,
                "unexplained": one.unexplained,
                "corrected_by": ", ".join(str(number) for number in one.corrected_by) or None,
            }
            for one in report.touched
        ]
    )
    entries = table([{"what": one.subject, **asdict(each)} for one in report.touched for each in one.breaks])
    faults = table([asdict(one) for one in report.chain_faults])
    unsealed = report.unsealed
    return {
        "verdict": report.verdict,
        "seals": report.seals,
        "entries": report.entries,
        "touched": len(report.touched),
        "chain_faults": len(report.chain_faults),
        "seconds": round(report.seconds, 3),
        **({"touched_sample": touched} if touched else {}),
        **({"touched_entries": entries} if entries else {}),
        **({"chain_fault_sample": faults} if faults else {}),
        **(
            {
                "batches_not_sealed_yet": len(unsealed.batches),
                "periods_closed_without_seal": ", ".join(unsealed.periods) or "none",
                "live_entries_in_open_periods": unsealed.live_entries,
            }
            if unsealed is not None
            else {}
        ),
    }
