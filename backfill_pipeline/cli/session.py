"""Sessions: the environment of a command, opened once.

Belongs here: settings, the ledger's server, its schema, and Dagster's instance when a command needs it.
Does not: commands.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.ledger.registrations import Registration, load
from backfill_pipeline.local.endpoint import LedgerEndpoint, prepare_dagster, resolve_ledger
from backfill_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    import dagster as dg

    from backfill_pipeline.definition.models import SourceDefinition
    from backfill_pipeline.stages.work import Places


@dataclass(frozen=True, slots=True)
class Session:
    """Settings, the ledger's address and an open connection to it."""

    settings: Settings
    endpoint: LedgerEndpoint
    connection: Connection

    @property
    def places(self) -> Places:
        """Where the stages find ledger and folders."""
        from backfill_pipeline.stages.work import Places

        return Places(self.endpoint.ledger_url, self.settings.intermediates_dir, self.settings.rejects_dir)

    def source(self, name: str) -> SourceDefinition:
        """The source of this id, or of the file at this path."""
        from backfill_pipeline.definition.catalogue import resolve_source

        return resolve_source(name, self.settings.sources_dir, self.settings.registered_sources_dir)

    def registration(self, source_id: str) -> Registration:
        """The current registration of a source.

        Raises:
            UsageError: it was never registered.
        """
        from backfill_pipeline.errors import UsageError

        registration = load(self.connection, source_id)
        if registration is None:
            raise UsageError(f"source {source_id} was never run here: start it with backfill run {source_id}")
        return registration


@contextmanager
def open_session(*, migrated: bool = True) -> Iterator[Session]:
    """Opens the ledger of the environment, starting the embedded server when there is no other.

    Args:
        migrated: bring the schema up to date first.
    """
    settings = load_settings()
    settings.prepare_home()
    with (
        resolve_ledger(settings) as endpoint,
        connect(endpoint.ledger_url, application_name="backfill command") as connection,
    ):
        if migrated:
            migrate(connection)
        yield Session(settings, endpoint, connection)


@contextmanager
def dagster_instance(session: Session) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance of this home: the one that the UI shows."""
    os.environ.update(prepare_dagster(session.settings, session.endpoint))
    # Fewer, larger writes of events: a range of 1,000 partitions logs 4,000 materializations.
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
    # With a handler there, Dagster's warnings about its storage do not make logging set up one for standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        yield instance
