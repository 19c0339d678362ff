"""Checks of what Dagster's records and processes of the UI show as going on.

Belongs here: what is good and bad of what `orchestration/leftovers.py` finds.
Does not: the ledger's leftovers (`server.py`), mending them (`backfill up` does).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from backfill_pipeline.doctor.finding import Finding, Look, looked_in_time, not_looked, ok, problem, warning
from backfill_pipeline.doctor.reach import lock_holders
from backfill_pipeline.doctor.server import TIMEOUT_S, unreached
from backfill_pipeline.local.endpoint import describe_url
from backfill_pipeline.local.ui_processes import left_processes
from backfill_pipeline.orchestration.leftovers import has_records, runs_left, slots_left
from backfill_pipeline.settings import Settings
from backfill_pipeline.wording import counted

_RECORDS: Final = "Dagster's records"
_UP: Final = "backfill up"
_CONNECT_TIMEOUT_S: Final = 5
_RUN_ID_SHOWN: Final = 8


def check_up(settings: Settings) -> Finding:
    """The UI and its daemon: running as a whole, or not at all."""
    holders = lock_holders(settings.dagster_dir / "up.lock")
    if holders is None:
        return not_looked("UI", "this system does not say who holds a lock")
    if holders:
        return ok("UI", f"backfill up runs (process {holders[0]})")
    orphans = [process.pid for process in left_processes(settings.dagster_dir)]
    if orphans:
        numbers = " ".join(map(str, orphans))
        return warning(
            "UI",
            f"backfill up is gone, and {counted(len(orphans), 'process', 'processes')} of it still run{_s(orphans)}"
            f" ({numbers}): they go on launching what is due, until the next backfill up ends them",
            f"kill {numbers}",
        )
    return ok("UI", "backfill up does not run")


def _s(orphans: list[int]) -> str:
    return "s" if len(orphans) == 1 else ""


@dataclass(slots=True)
class RecordsLook:
    """One look at Dagster's records.

    Attributes:
        url: of their database; may hold a password.
        settings: whose UI may run.
        timeout_s: for all of it.
    """

    url: str
    settings: Settings
    timeout_s: float = TIMEOUT_S
    _connection: psycopg.Connection[TupleRow] | None = field(default=None, init=False)
    _there: bool = field(default=False, init=False)

    def findings(self) -> list[Finding]:
        """All of them; a server that does not answer takes `timeout_s`, and no more."""
        checks: list[tuple[str, Look]] = [
            (_RECORDS, self._connect),
            ("runs", self._with_records("runs", self._runs)),
            ("slots", self._with_records("slots", self._slots)),
        ]
        return looked_in_time(
            checks,
            self.timeout_s,
            "backfill doctor",
            late=f"the {describe_url(self.url)} hangs, or cannot be reached from here",
            afterwards=self._close,
        )

    def _connect(self) -> Finding:
        try:
            self._connection = psycopg.connect(
                self.url,
                autocommit=True,
                connect_timeout=_CONNECT_TIMEOUT_S,
                application_name="backfill doctor",
                options="-c default_transaction_read_only=on -c statement_timeout=2000 -c lock_timeout=1000",
            )
        except psycopg.OperationalError as error:
            return unreached(_RECORDS, self.url, " ".join(str(error).split()))
        place = describe_url(self.url)
        self._there = has_records(self._connection)
        if not self._there:
            return ok(_RECORDS, f"{place}, without runs so far")
        return ok(_RECORDS, place)

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(Exception):  # it may be gone already
                self._connection.close()

    def _with_records(self, name: str, look: Callable[[psycopg.Connection[TupleRow]], Finding]) -> Look:
        def guarded() -> Finding:
            if self._connection is None or self._connection.closed:
                return not_looked(name, "Dagster's records cannot be reached")
            return look(self._connection) if self._there else ok(name, "there were none so far")

        return guarded

    def _runs(self, connection: psycopg.Connection[TupleRow]) -> Finding:
        up = bool(lock_holders(self.settings.dagster_dir / "up.lock"))
        found = runs_left(connection, daemon_runs=up)
        orphans = [one for one in found if one.orphan]
        if orphans:
            more = f"; and {len(orphans) - 1:,} more" if len(orphans) > 1 else ""
            return warning(
                "runs",
                f"run {orphans[0].run_id[:_RUN_ID_SHOWN]} ({orphans[0].job}) is shown as running, and nobody executes"
                f" it{more}; what it committed stays",
                _UP,
            )
        queued = [one for one in found if one.queued]
        if queued and not up:
            waits = "waits" if len(queued) == 1 else "wait"
            sentence = f"{counted(len(queued), 'run')} {waits} in the queue, and no daemon takes from it"
            return warning("runs", sentence, _UP)
        return ok("runs", f"{counted(len(found), 'run')} going on" if found else "none is going on")

    @staticmethod
    def _slots(connection: psycopg.Connection[TupleRow]) -> Finding:
        found = slots_left(connection)
        if found:
            return problem(
                "slots",
                f"{counted(len(found), 'slot')} of pool {found[0].pool} held by runs that are over, such as"
                f" {found[0].run_id[:_RUN_ID_SHOWN]}: later runs wait for them for ever while no daemon runs",
                _UP,
            )
        return ok("slots", "none is held by a run that is over")
