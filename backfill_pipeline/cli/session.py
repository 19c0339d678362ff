"""Sessions: the environment of a command, opened once.

Belongs here: settings, the ledger's server, its schema, and Dagster's instance when a command needs it.
Does not: commands.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfill_pipeline.cli.preload import preloading, work_from_now_on
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

    def registration(self, source_id: str) -> Registration:
        """The current registration of a source.

        Raises:
            UsageError: it was never registered.
        """
        from backfill_pipeline.definition.scb_days import split_day_source_id
        from backfill_pipeline.errors import UsageError

        registration = load(self.connection, source_id)
        if registration is None:
            day = split_day_source_id(source_id)
            start = f"run {source_id}" if day is None else f"sync run {day[0]} --from {day[1]} --to {day[1]}"
            raise UsageError(f"source {source_id} was never run here: start it with backfill {start}")
        return registration


@contextmanager
def open_session(*, migrated: bool = True, meanwhile: Sequence[str] = ()) -> Iterator[Session]:
    """Opens the ledger of the environment, starting the embedded server when there is no other.

    Args:
        migrated: bring the schema up to date first.
        meanwhile: modules that the command needs next; they are imported while the server starts.
    """
    settings = load_settings()
    settings.prepare_home()
    with ExitStack() as stack:
        with preloading(meanwhile):
            endpoint = stack.enter_context(resolve_ledger(settings))
            connection = stack.enter_context(
                connect(endpoint.ledger_url, application_name="backfill command")
            )
            if migrated:
                migrate(connection)
        work_from_now_on()
        yield Session(settings, endpoint, connection)


def named_source(name: str, *, register: bool = True) -> SourceDefinition:
    """The source of this id, or of the file at this path: found before any server is started for it.

    Args:
        name: the id or path; with `@` and a day, that day of a bank.
        register: a file given by its path is linked into the home, and is what its id means from then on.
    """
    from backfill_pipeline.definition.catalogue import resolve_source

    settings = load_settings()
    settings.prepare_home()
    before = {link.stem: link.resolve() for link in settings.registered_sources_dir.glob("*.yaml")}
    definition = resolve_source(
        name, settings.sources_dir, settings.registered_sources_dir, register=register
    )
    former = before.get(definition.id)
    if register and former is not None and former.exists() and former != definition.path.resolve():
        from backfill_pipeline.cli.output import remarks

        remarks.print(
            f"{definition.id} means {definition.path} from now on; before, it meant {former}",
            markup=False,
            soft_wrap=True,
        )
    return definition


def set_dagster_environment(session: Session) -> None:
    """Sets what this process and those that it starts need to find Dagster's instance of this home."""
    os.environ.update(prepare_dagster(session.settings, session.endpoint))
    # Fewer, larger writes of events: a range of 1,000 partitions logs 4,000 materializations.
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")


@contextmanager
def dagster_instance(session: Session) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance of this home: the one that the UI shows."""
    set_dagster_environment(session)
    # With a handler there, Dagster's warnings about its storage do not make logging set up one for standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    import dagster as dg

    from backfill_pipeline.orchestration.connections import kept_open

    with dg.DagsterInstance.get() as instance, kept_open(instance):
        yield instance
