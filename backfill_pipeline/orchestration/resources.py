"""Resources: the ledger and the product's directories, as assets get them.

Belongs here: turning the environment into what the core needs, once per run.
Does not: run configuration (`config.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import PrivateAttr

from backfill_pipeline.definition.catalogue import resolve_source
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.allocator import give_large_blocks_back
from backfill_pipeline.local.endpoint import resolve_ledger
from backfill_pipeline.settings import load_settings
from backfill_pipeline.stages.work import Places


class LedgerResource(dg.ConfigurableResource["LedgerResource"]):
    """The ledger of the environment (LEDGER_DATABASE_URL, else the embedded one), migrated.

    Takes no configuration: secrets stay in the environment and never reach run config or the event log.
    """

    _places: Places | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["LedgerResource"]:
        """Keeps an embedded server running for as long as the run needs it."""
        give_large_blocks_back()
        settings = load_settings()
        settings.prepare_home()
        with resolve_ledger(settings) as endpoint:
            with connect(endpoint.ledger_url) as connection:
                migrate(connection)
            self._places = Places(endpoint.ledger_url, settings.intermediates_dir, settings.rejects_dir)
            yield self

    @property
    def places(self) -> Places:
        """Where ledger, intermediates and reject files are."""
        assert self._places is not None, "the resource is used outside a run"
        return self._places


def source_definition(name: str) -> SourceDefinition:
    """The source of this id, as its file says now; with @ and a day, that day of a bank.

    Raises:
        UsageError: there is none, or its definition is wrong.
    """
    settings = load_settings()
    return resolve_source(name, settings.sources_dir, settings.registered_sources_dir, register=False)
