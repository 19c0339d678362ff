"""Checks of the ledger's server, the role, the schema, and what sessions and crashes left in the ledger.

Belongs here: asking over one connection, and what is good and bad of what `ledger/health.py` and its neighbours find.
Does not: SQL, verdicts on the server's settings (`server_facts.py`), Dagster's records (`leftovers.py`), starting
servers (`reach.py`).
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from psycopg.conninfo import conninfo_to_dict

from backfill_pipeline.doctor.finding import Finding, Look, looked_in_time, not_looked, ok, problem, warning
from backfill_pipeline.doctor.machine import size
from backfill_pipeline.doctor.server_facts import (
    PSQL,
    check_autovacuum,
    check_checksums,
    check_connections,
    check_durability,
    check_memory,
    clock_finding,
    span,
)
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger import constraints, data_steps, health
from backfill_pipeline.ledger.auditing.schema import missing_parts, present_objects
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.migrate import compare
from backfill_pipeline.ledger.monitoring.moment import one_moment
from backfill_pipeline.ledger.rolled_back import all_open_rollbacks
from backfill_pipeline.local.endpoint import describe_url
from backfill_pipeline.wording import counted

TIMEOUT_S: Final = 6.0
"""For all of these checks together; a healthy server needs a tenth of a second."""
IDLE_S: Final = 600.0
"""A transaction in which nothing happened for so long holds up others, and the clearing of old rows."""
LOCK_S: Final = 4 * 3_600.0
"""No run takes longer (dagster.yaml ends it), so whoever holds a source's lock for longer is none."""

_STATEMENT_TIMEOUT_S: Final = 2.0
_LOCK_TIMEOUT_S: Final = 1.0
_MAJOR_MIN: Final = 15
_MAJOR_TRIED: Final = 18
_LEDGER: Final = "ledger"
_UNREACHED: Final = "the ledger cannot be reached"
_OTHER_SCHEMA: Final = 'the schema is not that of this release: see "migrations"'


@dataclass(slots=True)
class LedgerLook:
    """One look at a ledger, over one connection.

    Attributes:
        url: of the ledger; may hold a password.
        idle_s: IDLE_S, or less.
        lock_s: LOCK_S, or less.
        timeout_s: TIMEOUT_S, or less.
    """

    url: str
    idle_s: float = IDLE_S
    lock_s: float = LOCK_S
    timeout_s: float = TIMEOUT_S
    _connection: Connection | None = field(default=None, init=False)
    _facts: health.ServerFacts | None = field(default=None, init=False)
    _skew_s: float = field(default=0.0, init=False)
    _ours: bool = field(default=False, init=False)

    def findings(self) -> list[Finding]:
        """All of them; a server that does not answer takes `timeout_s`, and no more."""
        checks: list[tuple[str, Look]] = [(_LEDGER, self._connect)]
        of_server: dict[str, Callable[[health.ServerFacts], Finding]] = {
            "clock": lambda facts: clock_finding(self._skew_s, facts.zone),
            "durability": check_durability,
            "checksums": check_checksums,
            "autovacuum": check_autovacuum,
            "connections": check_connections,
            "server memory": check_memory,
        }
        checks += [(name, self._with_facts(name, look)) for name, look in of_server.items()]
        checks += [
            ("permissions", self._with_connection("permissions", self._permissions)),
            ("migrations", self._with_connection("migrations", self._migrations)),
        ]
        of_schema = {
            "data steps": self._data_steps,
            "schema": self._schema,
            "constraints": self._constraints,
            "sources in progress": self._standstills,
            "locks": self._locks,
            "transactions": self._transactions,
            "rollbacks": self._rollbacks,
            "requests": self._requests,
        }
        checks += [(name, self._with_schema(name, look)) for name, look in of_schema.items()]
        return looked_in_time(
            checks,
            self.timeout_s,
            "backfill doctor",
            late=f"the {describe_url(self.url)} hangs, or cannot be reached from here",
            afterwards=self._close,
        )

    # --- the connection -------------------------------------------------------------------------------------------

    def _connect(self) -> Finding:
        place = describe_url(self.url)
        try:
            self._connection = connect(self.url, application_name="backfill doctor")
        except BackfillError as error:
            return unreached(_LEDGER, self.url, str(error))
        encoding = self._connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            self._close()
            return problem(
                _LEDGER,
                f"the {place} is encoded in {encoding}, which cannot hold texts of every script",
                "createdb --template=template0 --encoding=UTF8 ledger  # and name it in LEDGER_DATABASE_URL",
            )
        with one_moment(
            self._connection, statement_timeout_s=_STATEMENT_TIMEOUT_S, lock_timeout_s=_LOCK_TIMEOUT_S
        ):
            before = time.time()
            self._facts = facts = health.server_facts(self._connection)
            self._skew_s = facts.at.timestamp() - (before + time.time()) / 2
        told = f"{place}, PostgreSQL {facts.version}, {size(facts.database_bytes)}"
        if facts.major < _MAJOR_MIN:
            return problem(
                _LEDGER,
                f"{told}: the product needs PostgreSQL {_MAJOR_MIN} or newer",
                "pg_upgradecluster  # or unset LEDGER_DATABASE_URL for the embedded server",
            )
        if facts.in_recovery:
            return problem(
                _LEDGER,
                f"{told}: it is a standby, or recovering, and takes no writes",
                "echo $LEDGER_DATABASE_URL | sed 's#//.*@#//#'  # then name the primary in LEDGER_DATABASE_URL",
            )
        if facts.major > _MAJOR_TRIED:
            return warning(_LEDGER, f"{told}: newer than what was tried ({_MAJOR_TRIED})", "backfill audit")
        return ok(_LEDGER, told)

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(Exception):  # it may be gone already
                self._connection.close()

    def _with_connection(self, name: str, look: Callable[[Connection], Finding]) -> Look:
        def guarded() -> Finding:
            if self._connection is None or self._connection.closed:
                return not_looked(name, _UNREACHED)
            with one_moment(
                self._connection, statement_timeout_s=_STATEMENT_TIMEOUT_S, lock_timeout_s=_LOCK_TIMEOUT_S
            ):
                return look(self._connection)

        return guarded

    def _with_facts(self, name: str, look: Callable[[health.ServerFacts], Finding]) -> Look:
        return lambda: look(self._facts) if self._facts is not None else not_looked(name, _UNREACHED)

    def _with_schema(self, name: str, look: Callable[[Connection], Finding]) -> Look:
        inner = self._with_connection(name, look)

        def guarded() -> Finding:
            if self._connection is not None and not self._connection.closed and not self._ours:
                return not_looked(name, _OTHER_SCHEMA)
            return inner()

        return guarded

    # --- the role and the schema ----------------------------------------------------------------------------------

    @staticmethod
    def _permissions(connection: Connection) -> Finding:
        found = health.rights(connection)
        as_owner = "sudo -u postgres psql"
        if found.schema is None or not found.may_create:
            schema = found.schema or "public"
            return problem(
                "permissions",
                f"{found.role} may not make tables in schema {schema} of the ledger's database",
                f'{as_owner} -d {connection.info.dbname} -c "GRANT USAGE, CREATE ON SCHEMA {schema} TO {found.role}"',
            )
        if found.foreign_tables:
            shown = ", ".join(found.foreign_tables[:3]) + (
                " and others" if len(found.foreign_tables) > 3 else ""
            )
            return problem(
                "permissions",
                f"{found.role} does not own {shown}, so it can neither migrate them nor apply constraints, and their"
                " triggers are not its own",
                f'{as_owner} -d {connection.info.dbname} -c "REASSIGN OWNED BY OTHER_ROLE TO {found.role}"',
            )
        if not found.may_use_temporary:
            return problem(
                "permissions",
                f"{found.role} may not use temporary tables, which posting and planning need",
                f'{as_owner} -c "GRANT TEMPORARY ON DATABASE {connection.info.dbname} TO {found.role}"',
            )
        if found.read_only:
            return problem(
                "permissions",
                f"transactions of {found.role} are read-only here (default_transaction_read_only)",
                f'{as_owner} -c "ALTER DATABASE {connection.info.dbname} RESET default_transaction_read_only"'
                f' -c "ALTER ROLE {found.role} RESET default_transaction_read_only"',
            )
        more = ", as a superuser, which is more than it needs" if found.superuser else ""
        return ok("permissions", f"{found.role} may create, write and use triggers{more}")

    def _migrations(self, connection: Connection) -> Finding:
        found = compare(connection)
        self._ours = not (found.pending or found.unknown or found.changed)
        if found.unknown:
            return problem(
                "migrations",
                f"the ledger has {_first(found.unknown)}, which this release does not know: a newer one was here",
                "git fetch --tags && git log --oneline -3 origin/main  # install the newer release, then: make",
            )
        if found.changed:
            return problem(
                "migrations",
                f"{_first(found.changed)} was edited after it had been applied: no command will open this ledger",
                "git checkout -- backfill_pipeline/ledger/migrations",
            )
        if found.pending and not found.applied:
            return warning("migrations", "the database has no ledger yet", "backfill db migrate")
        if found.pending:
            return warning(
                "migrations",
                f"{counted(len(found.pending), 'migration')} not applied yet, from {found.pending[0]}; the next command"
                " applies what is missing",
                "backfill db migrate",
            )
        return ok("migrations", f"all {found.applied:,} are applied")

    @staticmethod
    def _data_steps(connection: Connection) -> Finding:
        open_steps = [one for one in data_steps.progress(connection) if not one.finished]
        if open_steps:
            one = open_steps[0]
            return warning(
                "data steps",
                f"the data step of {one.version:04d}_{one.name} is {one.share:.0%} done; postings go on, and it carries"
                " on where it stopped",
                "backfill db migrate",
            )
        return ok("data steps", "none is left to do")

    @staticmethod
    def _schema(connection: Connection) -> Finding:
        missing = missing_parts(connection, present_objects(connection))
        if missing:
            return problem(
                "schema",
                f"{counted(len(missing), 'part')} of the ledger's schema missing or switched off, so entries may move"
                " no balance or be posted twice: post nothing before it is whole",
                "backfill audit",
            )
        return ok("schema", "tables, functions and triggers are there and switched on")

    @staticmethod
    def _constraints(connection: Connection) -> Finding:
        state = constraints.state(connection)
        if state == "suspended":
            sentence = (
                "the balance constraints and foreign keys are suspended: balances below zero are let in"
            )
            return warning("constraints", sentence, "backfill constraints apply")
        if state == "refused":
            sentence = "the balance constraints were refused, because accounts break them"
            return warning("constraints", sentence, "backfill constraints verify")
        told = (
            "are in force"
            if state == "applied"
            else "were not applied yet, as in a ledger that is being filled"
        )
        return ok("constraints", f"the balance constraints and foreign keys {told}")

    # --- leftovers ------------------------------------------------------------------------------------------------

    @staticmethod
    def _standstills(connection: Connection) -> Finding:
        found = health.standstills(connection)
        if not found:
            return ok("sources in progress", "none stands still")
        source_id, _, day = found[0].source_id.partition("@")
        more = f"; and {len(found) - 1:,} more" if len(found) > 1 else ""
        return warning(
            "sources in progress",
            f"source {found[0].source_id} was begun, is not done, and nobody writes it: its last checkpoint is of"
            f" {found[0].at:%Y-%m-%d %H:%M} UTC{more}; what is committed stays",
            f"backfill sync run {source_id} --from {day} --to {day}"
            if day
            else f"backfill resume {source_id}",
        )

    def _locks(self, connection: Connection) -> Finding:
        found = health.lock_holders(connection)
        old = [one for one in found if one.seconds >= self.lock_s]
        if old:
            one = old[0]
            return warning(
                "locks",
                f'session {one.pid} ("{one.name}") has held a lock of the product for {span(one.seconds)}, longer than'
                " any run takes: nobody else can write that source",
                f'{PSQL} -c "SELECT pg_terminate_backend({one.pid})"',
            )
        if found:
            return ok(
                "locks",
                f"{counted(len(found), 'session')} at work: {', '.join(one.name for one in found[:3])}",
            )
        return ok("locks", "no source is being written")

    def _transactions(self, connection: Connection) -> Finding:
        prepared = health.prepared_transactions(connection)
        if prepared:
            name = prepared[0].replace("'", "''")
            return problem(
                "transactions",
                f'the transaction "{prepared[0]}" was prepared and never ended: it holds its locks for ever; '
                "this product prepares none, so ask whose it is",
                f"{PSQL} -c \"ROLLBACK PREPARED '{name}'\"",
            )
        idle = health.idle_transactions(connection, self.idle_s)
        if idle:
            one = idle[0]
            return warning(
                "transactions",
                f'session {one.pid} ("{one.name}") has done nothing in its transaction for {span(one.seconds)}, and'
                " holds its locks",
                f'{PSQL} -c "SELECT pg_terminate_backend({one.pid})"',
            )
        return ok("transactions", "none is left open")

    @staticmethod
    def _rollbacks(connection: Connection) -> Finding:
        found = all_open_rollbacks(connection)
        if not found:
            return ok("rollbacks", "nothing that was rolled back waits to be posted again")
        source_id, of_source = next(iter(found.items()))
        partitions = sum(one.partitions for one in of_source)
        more = f"; and {len(found) - 1:,} more sources" if len(found) > 1 else ""
        return warning(
            "rollbacks",
            f"{counted(partitions, 'partition')} of {source_id} rolled back and not posted again{more}",
            "backfill status",
        )

    @staticmethod
    def _requests(connection: Connection) -> Finding:
        found = health.waiting_requests(connection)
        if found:
            more = f"; and {len(found) - 1:,} more" if len(found) > 1 else ""
            return warning("requests", f'"{found[0]}" waits for a second person{more}', "backfill approvals")
        return ok("requests", "nothing (such as a closed or reopened period) waits for a second person")


def unreached(name: str, url: str, why: str) -> Finding:
    """What a connection that failed means.

    Args:
        name: of the check.
        url: of the database; may hold a password.
        why: the error, which holds none.
    """
    place = describe_url(url)
    if "does not exist" in why and "database" in why:
        return warning(
            name,
            f"the {place} does not exist yet: the first command makes it, if it may",
            "backfill db migrate",
        )
    if "password" in why or "authentication" in why or "pg_hba" in why:
        return problem(
            name,
            f"the {place} refuses the login ({why})",
            "export LEDGER_DATABASE_URL='postgresql://USER:PASSWORD@HOST:5432/DATABASE'  # @ in a password is %40",
        )
    if "too many" in why or "remaining connection slots" in why:
        return problem(name, f"the {place} takes no more connections ({why})", "ps -ef | grep backfill")
    parameters = {key: str(value) for key, value in conninfo_to_dict(url).items() if key in ("host", "port")}
    ask = shlex.join(["pg_isready", *(f"--{key}={value}" for key, value in parameters.items())])
    return problem(name, f"the {place} cannot be reached ({why})", ask)


def _first(names: tuple[str, ...]) -> str:
    return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
