"""Checks of the ledger as a whole, of no source.

Belongs here: whether constraints are in force now, whoever lifted them.
Does not: applying them (`assets/constraints.py`), the audit (`assets/audit.py`).
"""

from collections.abc import Iterator
from typing import Final

import dagster as dg

from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.orchestration.assets.constraints import constraint_text
from backfill_pipeline.orchestration.assets.keys import CONSTRAINTS_KEY
from backfill_pipeline.orchestration.checks.verdicts import Looked, Verdict, results
from backfill_pipeline.orchestration.metadata import constraint_metadata
from backfill_pipeline.orchestration.resources import LedgerResource

STILL_IN_FORCE: Final = "constraints_still_in_force"


def ledger_checks() -> dg.AssetChecksDefinition:
    """The check of the constraints that can be made without applying them."""
    checked = Looked(
        dg.AssetCheckSpec(
            STILL_IN_FORCE,
            asset=CONSTRAINTS_KEY,
            description="The four balance CHECKs and the foreign keys are in force at this moment, and a probe is"
            " refused; applies nothing. An error.",
        ),
        _in_force,
    )

    @dg.multi_asset_check(
        name="constraints_check",
        specs=[checked.spec],
        description="Looks at the ledger, and changes nothing.",
    )
    def look(ledger: LedgerResource) -> Iterator[dg.AssetCheckResult]:
        yield from results(ledger.places.ledger_url, [checked], lambda _: True)

    return look


def _in_force(connection: Connection) -> Verdict:
    report = constraints.verify(connection)
    if report.state == "applied":
        return Verdict(True, "constraints are in force, and probes are refused")
    offending = constraints.offenders(connection)
    if offending.offending:
        return Verdict(False, constraint_text(offending), metadata=constraint_metadata(offending))
    return Verdict(
        False,
        f"{report.state}: {', '.join(report.missing)} is not in force, and no account stands against it. What to do:"
        " materialize balance_constraints, or backfill constraints apply",
        metadata=constraint_metadata(report),
    )
