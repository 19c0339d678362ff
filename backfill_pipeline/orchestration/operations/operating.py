"""What all operations have in common: who asks for it, a connection, and how a run ends that did nothing.

Belongs here: that, once.
Does not: operations.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.orchestration.failures import terminal
from backfill_pipeline.orchestration.launchpad import LaunchpadConfig
from backfill_pipeline.orchestration.resources import LedgerResource


class DecisionConfig(LaunchpadConfig):
    """Who decides, and why."""

    actor: str = Field(
        description="Who does this, for the audit log: your name, always written alike. Four eyes go by it."
    )
    reason: str = Field(default="", description="Why, for the audit log.")

    @property
    def person(self) -> str:
        """The name, which is there.

        Raises:
            UsageError: it is empty.
        """
        return stated(self.actor, "actor", "write your name, for the audit log")

    @property
    def why(self) -> str | None:
        """The reason; None when there is none."""
        return self.reason.strip() or None


def stated(value: str, key: str, remedy: str) -> str:
    """The value of a key of the config, without spaces around it.

    Raises:
        UsageError: it is empty.
    """
    if not (text := value.strip()):
        raise UsageError(f"{key} is empty in the run's config: {remedy}")
    return text


@contextmanager
def operating(context: dg.OpExecutionContext, ledger: LedgerResource) -> Iterator[Connection]:
    """A connection to the ledger for one operation. What it refuses is a failed run that says why, without retries."""
    with (
        terminal(),
        connect(ledger.places.ledger_url, application_name=f"backfill {context.job_name}"[:63]) as connection,
    ):
        yield connection


def waiting_for_another(what: str) -> dg.Failure:
    """A run that noted a request has done nothing yet, and must not look as if it had."""
    return dg.Failure(
        description=f"{what} is noted and waits for another person, who launches this job with the same config and"
        " another actor; nothing is done until then",
        metadata={"waits_for_another_person": True},
        allow_retries=False,
    )
