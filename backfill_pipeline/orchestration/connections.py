"""Dagster's connections to its records, kept open while one process writes a whole run.

Belongs here: pooling for the instance of the `backfill` command.
Does not: where the records are (`dagster.yaml`, `local/endpoint.py`).

Dagster's storages open a connection for every statement, which suits daemons that write now and then. A run writes
four events per partition, each with several statements: connecting took more time than writing. The pool is the one
that Dagster's webserver uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool


@contextmanager
def kept_open(instance: dg.DagsterInstance) -> Iterator[None]:
    """Keeps a connection per storage of `instance` for the length of the block, and closes them after it.

    A server that was started again meanwhile is met as without a pool: a connection that died with its predecessor is
    replaced before it is used.
    """
    engines: set[Engine] = set()

    def remember(connection: Connection) -> None:
        engines.add(connection.engine)

    event.listen(Engine, "engine_connect", remember)
    event.listen(QueuePool, "checkout", _replace_dead)
    try:
        instance.optimize_for_webserver(statement_timeout=0, pool_recycle=-1, max_overflow=-1)
        yield
    finally:
        event.remove(QueuePool, "checkout", _replace_dead)
        event.remove(Engine, "engine_connect", remember)
        for engine in engines:
            engine.dispose()


def _replace_dead(connection: DBAPIConnection, _record: object, _proxy: object) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT 1")
    except (
        Exception
    ) as error:  # whatever is wrong with it; what is wrong with the server, its successor tells
        raise DisconnectionError from error
    finally:
        cursor.close()
