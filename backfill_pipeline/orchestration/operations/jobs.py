"""All operations of a ledger, as jobs.

Belongs here: which there are.
Does not: what they do (the modules beside this one).
"""

from __future__ import annotations

import dagster as dg

from backfill_pipeline.orchestration.operations.corrections import correction_jobs
from backfill_pipeline.orchestration.operations.evidence import evidence_job
from backfill_pipeline.orchestration.operations.history import prune_job
from backfill_pipeline.orchestration.operations.periods import period_jobs
from backfill_pipeline.orchestration.operations.report import report_job
from backfill_pipeline.orchestration.operations.rollback import rollback_jobs
from backfill_pipeline.orchestration.operations.seals import seal_job, verify_job


def operation_jobs() -> list[dg.JobDefinition | dg.UnresolvedAssetJobDefinition]:
    """The jobs that people launch, whatever sources there are."""
    return [
        *rollback_jobs(),
        *correction_jobs(),
        *period_jobs(),
        seal_job(),
        verify_job(),
        evidence_job(),
        report_job(),
        prune_job(),
    ]
