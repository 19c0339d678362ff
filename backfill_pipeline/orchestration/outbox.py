"""The outbox in Dagster: a sensor that sees what is due, and the job that sends it.

Belongs here: Dagster's side of `dual_ledger/dispatch.py`: when it is looked, what is launched, what is said.
Does not: what is due (`ledger/banks/outbox.py`), sending it, trying again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import scb_of
from backfill_pipeline.dual_ledger.dispatch import DispatchReport, dispatch
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger.banks import outbox
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.endpoint import resolve_ledger
from backfill_pipeline.orchestration.failures import terminal
from backfill_pipeline.orchestration.inbox import IN_PROGRESS
from backfill_pipeline.orchestration.metadata import Metadata, table
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.settings import load_settings
from backfill_pipeline.wording import counted

JOB: Final = "dispatch_outbox"
INTERVAL_S: Final = 30
# A bank that refuses us, or a secret that is missing, is not asked for twice a minute.
PAUSE_AFTER_FAILURE_S: Final = 300


def dispatch_job(definitions: Sequence[SourceDefinition]) -> dg.JobDefinition:
    """The job that sends what is due, to all banks.

    Args:
        definitions: of type scb.
    """

    @dg.op(
        name="dispatch",
        description="Tells banks what is due: entries that were posted here first, and what became of theirs.",
    )
    def dispatch_due(context: dg.OpExecutionContext, ledger: LedgerResource) -> None:
        with terminal():
            report = dispatch(ledger.places.ledger_url, definitions, log=context.log.info)
        context.add_output_metadata(_metadata(report))
        if trouble := _trouble(report):
            raise dg.Failure(description=trouble, metadata=_metadata(report), allow_retries=False)

    @dg.job(name=JOB, description="Sends what the outbox holds for banks and is due.")
    def job() -> None:
        dispatch_due()

    return job


def outbox_sensor(definitions: Sequence[SourceDefinition], job: dg.JobDefinition) -> dg.SensorDefinition:
    """The sensor `outbox`.

    Args:
        definitions: of type scb.
        job: the one above.
    """

    @dg.sensor(
        name="outbox",
        job_name=job.name,  # with the job itself, Dagster copies the sensor and warns of an argument that it fills in
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Launches dispatch_outbox as soon as there is something to tell a bank, one run at a time. A bank"
        " that cannot be reached is left alone until its pause is over.",
    )
    def look(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            return _look(context.instance, {scb_of(one).bank_id for one in definitions})
        except BackfillError as error:
            return dg.SkipReason(str(error))

    return look


def _look(instance: dg.DagsterInstance, known: set[str]) -> dg.RunRequest | dg.SkipReason:
    with resolve_ledger(load_settings()) as endpoint, connect(endpoint.ledger_url) as connection:
        migrate(connection)
        due = outbox.due_banks(connection)
    wanted = [bank for bank in due if bank in known]
    if not wanted:
        strangers = ", ".join(bank for bank in due if bank not in known)
        return dg.SkipReason(f"no source is defined for {strangers}" if strangers else "nothing is due")
    latest = instance.get_run_records(dg.RunsFilter(job_name=JOB), limit=1)
    if latest and latest[0].dagster_run.status in IN_PROGRESS:
        return dg.SkipReason(f"run {latest[0].dagster_run.run_id[:8]} is sending")
    if latest and latest[0].dagster_run.status is dg.DagsterRunStatus.FAILURE:
        ended = latest[0].end_time or latest[0].create_timestamp.timestamp()
        if (left_s := ended + PAUSE_AFTER_FAILURE_S - _now().timestamp()) > 0:
            return dg.SkipReason(
                f"run {latest[0].dagster_run.run_id[:8]} failed and says why; the next one follows in {left_s:.0f} s"
            )
    return dg.RunRequest(tags={"backfill/launched_by": "outbox", "backfill/banks": ", ".join(wanted)})


def _trouble(report: DispatchReport) -> str:
    """Why people should look; empty when all is well."""
    told = [f"{bank}: {error}" for bank, error in report.errors.items()]
    if report.dead:
        told.insert(
            0,
            f"{counted(report.dead, 'row')} given up: backfill outbox show says why, backfill outbox retry tries again",
        )
    return "; ".join(told)


def _metadata(report: DispatchReport) -> Metadata:
    banks = table(
        [
            {
                "bank": one.bank_id,
                "acknowledged": sum(one.acknowledged.values()),
                "failed": sum(one.failed.values()),
                "dead": sum(one.dead.values()),
                "requests": sum(one.requests.values()),
                "left": one.left.rows,
                "error": one.error,
            }
            for one in report.banks
        ]
    )
    return {
        "acknowledged": report.acknowledged,
        "failed": report.failed,
        "dead": report.dead,
        "left": report.left,
        **({"banks": banks} if banks else {}),
    }


def _now() -> datetime:
    return datetime.now(UTC)
