"""A transaction that only looks.

Belongs here: what every look at the ledger that is taken beside work has in common: one moment, nothing changed, nobody
kept waiting for long.
Does not: what is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from backfill_pipeline.ledger.connection import Connection, ledger_errors

IDLE_TIMEOUT_S: Final = 10.0


@contextmanager
def one_moment(
    connection: Connection,
    *,
    statement_timeout_s: float | None = None,
    lock_timeout_s: float | None = None,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
) -> Iterator[None]:
    """A read-only transaction whose queries all see the ledger of the same moment.

    Args:
        connection: not in a transaction.
        statement_timeout_s: for each query; None leaves the session's.
        lock_timeout_s: constraints are applied, and tables migrated, under locks that readers wait for.
        idle_timeout_s: between two queries. Whoever looks may be stopped (Ctrl-Z) or lost: until the server noticed,
            nobody could apply constraints or migrate.

    Raises:
        TransientLedgerError: a query took too long, or the connection was lost.
    """
    with ledger_errors("read"), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for name, timeout_s in (
            ("statement_timeout", statement_timeout_s),
            ("lock_timeout", lock_timeout_s),
            ("idle_in_transaction_session_timeout", idle_timeout_s),
        ):
            if timeout_s is not None:
                connection.execute(
                    "SELECT set_config(%s, %s, true)", [name, f"{max(1, round(timeout_s * 1000))}ms"]
                )
        yield
