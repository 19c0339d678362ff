"""A real MariaDB server for tests, on a loopback port of its own.

Belongs here: starting and stopping it, and databases on it.
Does not: what is in a database (the tests).
"""

import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql

from backfill_pipeline.local.host import server_account
from backfill_pipeline_tests.postgresql import walkable_directory

PROGRAM = shutil.which("mariadbd", path=f"/usr/sbin:/usr/bin:{os.defpath}")
INSTALL = shutil.which("mariadb-install-db", path=f"/usr/bin:{os.defpath}")
USER, PASSWORD = "reader", "s3cret/p@ss"
_START_S = 60


class MariaDb:
    """One running server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._numbers = itertools.count(1)

    def connect(self, database: str | None = None) -> pymysql.Connection:
        """As the administrator."""
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database=database, autocommit=True
        )

    def execute(self, statement: str, *parameters: object, database: str | None = None) -> None:
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)

    def url(self, database: str, *, password: str = PASSWORD) -> str:
        """Of the user that sources are read as."""
        quoted = password.replace("/", "%2F").replace("@", "%40")
        return f"mysql://{USER}:{quoted}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a new, empty database, dropped afterwards."""
        name = f"t{os.getpid()}_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        self.execute(f"GRANT SELECT ON {name}.* TO '{USER}'@'%'")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name}")


@contextmanager
def running_mariadb() -> Iterator[MariaDb]:
    """A server with an empty data directory, as an unprivileged user when we are root."""
    assert PROGRAM is not None
    assert INSTALL is not None
    with walkable_directory() as directory:
        data = directory / "data"
        account = server_account(directory, data)
        account.make_private_dir(data)
        made = account.run(
            [INSTALL, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal",
             "--skip-test-db", "--skip-name-resolve"],
            cwd=directory, timeout_s=120,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        port = _free_port()
        server = account.start(
            [PROGRAM, "--no-defaults", f"--datadir={data}", "--bind-address=127.0.0.1", f"--port={port}",
             f"--socket={data}/sock", f"--pid-file={data}/pid", "--skip-name-resolve",
             # Nothing a test does has to survive a power cut, and nothing should depend on the server's own zone.
             "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M",
             "--default-time-zone=+05:30"],
            cwd=directory, env={}, log=data / "log",
        )  # fmt: skip
        try:
            running = MariaDb(port)
            _wait_for(running, data / "log")
            running.execute(f"CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'")
            yield running
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _wait_for(server: MariaDb, log: Path) -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            server.connect().close()
            return
        except pymysql.err.OperationalError:
            assert time.monotonic() < until, log.read_text(errors="replace")[-3000:]
            time.sleep(0.1)
