"""Dagster's tables, made once for each server that tests start; a test gets a copy.

Belongs here: how they are made, which is as the product makes them.
Does not: an instance that uses them (`orchestration/conftest.py`); the tests that begin without them
(`stages/world.whole_database` alone).
"""

import os
import subprocess
import sys
from pathlib import Path

from psycopg import conninfo

from backfill_pipeline_tests.postgresql import Server, walkable_directory

_CHECKOUT = Path(__file__).resolve().parents[1]
# In a process of its own: nobody may be connected to a database that is copied.
_MAKE = """
import os
import dagster
from backfill_pipeline.local.endpoint import prepare_dagster, resolve_ledger
from backfill_pipeline.settings import load_settings
settings = load_settings()
with resolve_ledger(settings) as endpoint:
    os.environ.update(prepare_dagster(settings, endpoint))
    with dagster.DagsterInstance.get():
        pass
"""


def dagster_tables_beside(server: Server, url: str) -> None:
    """Makes the database that the product makes beside the ledger of `url` when it runs something for the first time."""
    if server.dagster_template is None:
        with server.empty_database() as ledger:
            _make(ledger)
            server.dagster_template = _beside(ledger)
    server.copy_database(server.dagster_template, _beside(url))


def _make(ledger_url: str) -> None:
    settings = {
        name: value for name, value in os.environ.items() if not name.startswith(("BACKFILL_", "DAGSTER_"))
    }
    with walkable_directory() as home:
        own = {"LEDGER_DATABASE_URL": ledger_url, "BACKFILL_HOME": str(home), "PYTHONPATH": str(_CHECKOUT)}
        subprocess.run([sys.executable, "-c", _MAKE], env={**settings, **own}, cwd="/", check=True)


def _beside(url: str) -> str:
    return f"{conninfo.conninfo_to_dict(url)['dbname']}_dagster"
