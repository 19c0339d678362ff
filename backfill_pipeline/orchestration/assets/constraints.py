"""The ledger-wide asset of the balance constraints.

Belongs here: Dagster's side of `ledger/constraints.py`.
Does not: SQL.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.orchestration.assets.keys import CONSTRAINTS_KEY
from backfill_pipeline.orchestration.failures import TRANSIENT_RETRIES, terminal
from backfill_pipeline.orchestration.metadata import constraint_metadata
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.wording import counted

IN_FORCE_CHECK = "constraints_in_force"


def constraints_asset(posted: Sequence[dg.AssetKey]) -> dg.AssetsDefinition:
    """Applied after any source is posted; refused, without failing the run, while accounts offend."""

    @dg.asset(
        key=CONSTRAINTS_KEY,
        deps=list(posted),
        group_name="ledger",
        kinds={"postgres"},
        check_specs=[
            dg.AssetCheckSpec(
                IN_FORCE_CHECK,
                asset=CONSTRAINTS_KEY,
                description="The four balance CHECKs and the foreign keys are applied, and a probe is refused.",
            )
        ],
        retry_policy=TRANSIENT_RETRIES,
        description="Balances are checked, then the four CHECKs and the foreign keys are applied in one transaction and"
        " probed. While an account offends, nothing is applied and the accounts are listed.",
    )
    def balance_constraints(
        context: dg.AssetExecutionContext, ledger: LedgerResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        with terminal(), connect(ledger.places.ledger_url) as connection:
            report = constraints.apply(connection)
        context.log.info(constraint_text(report))
        metadata = constraint_metadata(report)
        yield dg.MaterializeResult(
            metadata=metadata,
            # Applied again after another source, they are what they were: no reconciliation before is out of date.
            data_version=dg.DataVersion(report.state),
            check_results=[
                dg.AssetCheckResult(
                    passed=report.state == "applied",
                    check_name=IN_FORCE_CHECK,
                    severity=dg.AssetCheckSeverity.ERROR,
                    description=constraint_text(report),
                    metadata=metadata,
                )
            ],
        )

    return balance_constraints


def constraint_text(report: constraints.ConstraintReport) -> str:
    """The outcome in a sentence that says what to do."""
    if report.state == "applied":
        return f"constraints are {'now applied' if report.newly_applied else 'applied already'} and verified"
    worst = report.worst
    return (
        f"refused: {counted(report.offending, 'account')} would break a balance constraint"
        + (
            f", the worst is {worst.account_id} with {worst.available_balance} {worst.currency_code}"
            if worst
            else ""
        )
        + "; correct them by entries, then run backfill constraints apply"
    )
