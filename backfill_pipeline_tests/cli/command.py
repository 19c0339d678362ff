"""Driving the real `backfill` command in processes of its own.

Belongs here: how a command is started, what it did, and its databases.
Does not: processes that are cheaper to make (`forked.py`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from backfill_pipeline.local.endpoint import normalise_url
from backfill_pipeline_tests.cli.forked import can_fork, run_forked
from backfill_pipeline_tests.stages.world import CHECKOUT

MODULE = "backfill_pipeline.cli"
_SETTINGS = (
    "LEDGER_DATABASE_URL",
    "BACKFILL_DAGSTER_DATABASE_URL",
    "BACKFILL_HOME",
    "BACKFILL_SOURCES_DIR",
    "DAGSTER_HOME",
)


@dataclass(frozen=True)
class Outcome:
    """What a command did. Nobody is ever shown a traceback: making one of these insists on that."""

    code: int
    stdout: str
    stderr: str

    def __post_init__(self) -> None:
        assert "Traceback" not in self.stderr, self.stderr
        assert "Traceback" not in self.stdout, self.stdout
        assert "Warning" not in self.stderr, self.stderr

    @property
    def json(self) -> dict[str, object]:
        """The one object on standard output, on one line."""
        assert self.stdout.count("\n") == 1, self.stdout
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value

    @property
    def sentence(self) -> str:
        """The one line on standard error, after the command's name."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, self.stderr
        return lines[0]


@dataclass
class Backfill:
    """The command with an environment: a home of its own and, unless embedded, a database of its own.

    Attributes:
        home: BACKFILL_HOME.
        url: LEDGER_DATABASE_URL; None is the embedded server of the home.
        sources_dir: BACKFILL_SOURCES_DIR.
    """

    home: Path
    url: str | None
    sources_dir: Path | None = None
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
        own = {"BACKFILL_HOME": str(self.home), "COLUMNS": "200", "PYTHONPATH": str(CHECKOUT)}
        own["BACKFILL_PLOTS"] = "off"  # another process that loads matplotlib, hundreds of times, for nobody
        if self.url is not None:
            own["LEDGER_DATABASE_URL"] = self.url
        if self.sources_dir is not None:
            own["BACKFILL_SOURCES_DIR"] = str(self.sources_dir)
        return {**kept, **own, **self.extra}

    def __call__(self, *arguments: object, timeout: float = 180) -> Outcome:
        environment = self.environment
        if can_fork(environment):
            finished = run_forked(
                MODULE, [*map(str, arguments)], environment=environment, folder="/", timeout_s=timeout
            )
        else:
            finished = subprocess.run(
                self._command(arguments),
                env=environment,
                cwd="/",
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        return Outcome(finished.returncode, finished.stdout, finished.stderr)

    @contextmanager
    def started(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """The command in the background, in a process group of its own; nothing of it outlives the block."""
        process = subprocess.Popen(
            self._command(arguments),
            env=self.environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    @staticmethod
    def _command(arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", MODULE, *map(str, arguments)]

    # --- the databases --------------------------------------------------------------------------------------------

    @property
    def ledger_url(self) -> str:
        return self.url if self.url is not None else self("db", "url").stdout.strip()

    def query(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        assert self.url is not None
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement, parameters or None).fetchall()

    @property
    def dagster_url(self) -> str:
        """Dagster's database, as the product names it: beside the ledger's."""
        assert self.url is not None
        url = make_url(normalise_url(self.url, "LEDGER_DATABASE_URL"))
        return url.set(database=f"{url.database}_dagster").render_as_string(hide_password=False)

    def run_statuses(self) -> list[str]:
        """Of all of Dagster's runs, oldest first."""
        with psycopg.connect(self.dagster_url, autocommit=True) as connection:
            return [
                status for (status,) in connection.execute("SELECT status FROM runs ORDER BY id").fetchall()
            ]

    def materialized(self, source_id: str, stage: str) -> set[str]:
        """Partitions of an asset that Dagster shows as materialized."""
        with psycopg.connect(self.dagster_url, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT DISTINCT partition FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
                " AND asset_key = %s AND partition IS NOT NULL",
                [json.dumps([source_id, stage])],
            ).fetchall()
        return {partition for (partition,) in rows}


def finish(process: subprocess.Popen[str], timeout: float = 120) -> Outcome:
    """Waits for a command in the background to end."""
    stdout, stderr = process.communicate(timeout=timeout)
    return Outcome(process.returncode, stdout, stderr)


def wait_until(condition: Callable[[], bool], *, timeout: float = 90, every: float = 0.01) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every)


def count_or_zero(url: str, statement: str) -> int:
    """A count from a ledger whose tables may not be there yet."""
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(statement).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.OperationalError):
        return 0
    assert row is not None
    return int(row[0])


def batches(url: str) -> int:
    """Batches of entries that are committed."""
    return count_or_zero(url, "SELECT count(*) FROM backfill_batches WHERE kind = 'entries'")
