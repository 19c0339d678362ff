"""Closing and reopening a month of a ledger, as jobs.

Belongs here: Dagster's side of `ledger/periods.py`.
Does not: what a closed month refuses.
"""

import re
from datetime import date

import dagster as dg
from pydantic import Field

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import periods
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.orchestration.metadata import Metadata, table
from backfill_pipeline.orchestration.operations.operating import (
    DecisionConfig,
    operating,
    stated,
    waiting_for_another,
)
from backfill_pipeline.orchestration.resources import LedgerResource

_MONTH = re.compile(r"\d{4}-\d{2}")


class PeriodConfig(DecisionConfig):
    """A month of a ledger, who decides about it, and why."""

    ledger_id: str = Field(description="The ledger, such as MASTER.")
    month: str = Field(description="The month in UTC, such as 2024-01.")

    @property
    def first_day(self) -> date:
        """Of the month.

        Raises:
            UsageError: it is not a month.
        """
        text = stated(self.month, "month", "write it like 2024-01")
        try:
            if _MONTH.fullmatch(text):
                return date.fromisoformat(f"{text}-01")
        except ValueError:
            pass  # the 13th month
        raise UsageError(f"month is {text} in the run's config: write it like 2024-01")


def period_jobs() -> list[dg.JobDefinition]:
    """The jobs `close_period` and `reopen_period`."""

    @dg.op(name="close", description="Closes the month and seals all its entries.")
    def close(context: dg.OpExecutionContext, config: PeriodConfig, ledger: LedgerResource) -> None:
        with operating(context, ledger) as connection:
            ledger_id = stated(config.ledger_id, "ledger_id", "name the ledger, such as MASTER")
            month, person = config.first_day, config.person
            newly = periods.close(connection, ledger_id, month, actor=person, reason=config.why)
            shown = _shown(connection, ledger_id)
        state = "is closed" if newly else "was closed already"
        outcome = f"period {month:%Y-%m} of ledger {ledger_id} {state}"
        context.log.info(outcome)
        context.add_output_metadata({"outcome": outcome, **shown})

    @dg.op(name="reopen", description="Opens the month again, once two people have asked for it.")
    def reopen(context: dg.OpExecutionContext, config: PeriodConfig, ledger: LedgerResource) -> None:
        with operating(context, ledger) as connection:
            ledger_id = stated(config.ledger_id, "ledger_id", "name the ledger, such as MASTER")
            month, person = config.first_day, config.person
            was_closed = periods.is_closed(connection, ledger_id, month)
            done = periods.reopen(connection, ledger_id, month, actor=person, reason=config.why)
            shown = _shown(connection, ledger_id)
        period = f"period {month:%Y-%m} of ledger {ledger_id}"
        if not done:
            raise waiting_for_another(f"reopening {period}")
        outcome = f"{period} is open" + ("" if was_closed else " and was so already")
        context.log.info(outcome)
        context.add_output_metadata({"outcome": outcome, **shown})

    @dg.job(
        name="close_period",
        description="Closes a month of a ledger: the database takes no entries into it any more and gives none away,"
        " and all its entries are sealed.",
    )
    def close_job() -> None:
        close()

    @dg.job(
        name="reopen_period",
        description="Opens a closed month again. Takes two people, unless four eyes are off: the first run notes the"
        " request, that of another person does it.",
    )
    def reopen_job() -> None:
        reopen()

    return [close_job, reopen_job]


def _shown(connection: Connection, ledger_id: str) -> Metadata:
    closed = periods.closed_periods(connection, ledger_id)
    found = table(
        [
            {
                "month": f"{one.month:%Y-%m}",
                "entries": one.entries,
                "closed_by": one.closed_by,
                "closed_at": one.closed_at,
                "reason": one.reason,
                "seal": one.seal,
            }
            for one in reversed(closed)
        ]
    )
    return {"closed_periods": len(closed), **({"periods": found} if found else {})}
