"""The corrections as an asset: a table of what is proposed, and of what was decided last.

Belongs here: Dagster's side of reading them. Every run of a job that changes them materializes it too.
Does not: proposing, deciding, applying (`operations/corrections.py`).
"""

from collections.abc import Iterator

import dagster as dg

from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.orchestration.assets.keys import CORRECTIONS_KEY
from backfill_pipeline.orchestration.corrections_metadata import proposals_metadata
from backfill_pipeline.orchestration.failures import TRANSIENT_RETRIES, terminal
from backfill_pipeline.orchestration.resources import LedgerResource


def corrections_asset() -> dg.AssetsDefinition:
    """Ledger-wide: corrections of all sources, and those that the audit found."""

    @dg.asset(
        key=CORRECTIONS_KEY,
        group_name="ledger",
        kinds={"postgres"},
        retry_policy=TRANSIENT_RETRIES,
        description="Proposed corrections with their reason, evidence and entries. propose_corrections finds them,"
        " approve_corrections decides about them, apply_corrections posts them. Materializing this only reads.",
    )
    def corrections(ledger: LedgerResource) -> Iterator[dg.MaterializeResult[None]]:
        with (
            terminal(),
            connect(ledger.places.ledger_url, application_name="backfill corrections") as connection,
        ):
            metadata = proposals_metadata(connection)
        yield dg.MaterializeResult(metadata=metadata)

    return corrections
