"""`backfill status --watch` on a terminal: a run is seen as it happens, the ledger may go away, and no trace is left."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql
from rich.cells import cell_len

from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline_tests.cli.command import MODULE, Backfill, finish
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.world import World, entries, entry

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ALTERNATE_SCREEN, _HOME, _LEFT = "\x1b[?1049h", "\x1b[H", "\x1b[?25h\x1b[?1049l"


class Terminal:
    """A terminal with a command on it: what it wrote, its size, its keys."""

    def __init__(self, command: list[str], environment: dict[str, str], columns: int, rows: int) -> None:
        self._end, theirs = pty.openpty()
        self.resize(columns, rows)
        self.text = ""
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
            # Ctrl-C is for whose terminal this is.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def wait_for(self, wanted: Callable[[list[str]], bool], since: int = 0, timeout: float = 60) -> list[str]:
        """The first screen, of those drawn whole after so many characters, of which something holds."""
        deadline = time.monotonic() + timeout
        while True:
            frames = self.text[since:].split(_HOME)[1:-1]
            for frame in frames:
                lines = [line.rstrip() for line in _ESCAPE.sub("", frame).split("\r\n")]
                if wanted(lines):
                    return lines
            assert time.monotonic() < deadline, "\n".join(lines) if frames else self.text
            assert self._read(deadline - time.monotonic()), self.text[-2000:]

    def end(self, timeout: float = 30) -> int:
        """Reads what is left, and the exit code."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            assert time.monotonic() < deadline
        return self.process.wait(timeout)

    def _read(self, timeout: float) -> bool:
        if not select.select([self._end], [], [], max(0.0, timeout))[0]:
            return True
        try:
            piece = os.read(self._end, 1 << 16)
        except OSError:  # as Linux tells that nobody has the terminal open any more
            return False
        self.text += piece.decode(errors="replace")
        return bool(piece)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._end)


@contextmanager
def watching(backfill: Backfill, columns: int = 100, rows: int = 30) -> Iterator[Terminal]:
    environment = {
        name: value for name, value in backfill.environment.items() if name not in ("COLUMNS", "LINES")
    }
    command = [sys.executable, "-m", MODULE, "status", "--watch", "--interval", "0.5"]
    terminal = Terminal(command, environment, columns, rows)
    try:
        yield terminal
    finally:
        terminal.close()


def migrated(world: World) -> None:
    with connect(world.url) as connection:
        migrate(connection)


def has(*said: str) -> Callable[[list[str]], bool]:
    return lambda lines: all(any(one in line for line in lines) for one in said)


def assert_left_clean(terminal: Terminal) -> None:
    assert "Traceback" not in terminal.text
    before, _, after = terminal.text.partition(_ALTERNATE_SCREEN)
    assert before == ""
    assert after.endswith(_LEFT), after[-200:]


@contextmanager
def refusing_connections(server: Server, url: str) -> Iterator[None]:
    """As a ledger that is down: who is connected is thrown out, and nobody gets in."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    allow = "ALTER DATABASE {} ALLOW_CONNECTIONS {}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL(allow).format(sql.Identifier(str(name)), sql.SQL("false")))
        try:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            yield
        finally:
            admin.execute(sql.SQL(allow).format(sql.Identifier(str(name)), sql.SQL("true")))


def test_a_run_is_watched_while_the_terminal_changes_and_the_ledger_goes_away(
    backfill: Backfill, world: World, server: Server
) -> None:
    rows = entries(30)
    rows[24] = entry(25, amount="[bold]x[/bold]\x1b[2J")
    path = world.write("bank", rows, max_error_rate="0")
    migrated(world)
    with watching(backfill) as terminal:
        terminal.wait_for(has("no source was run yet: backfill run SOURCE"))
        with backfill.started("run", path) as run:
            with psycopg.connect(world.url) as other:
                other.execute("LOCK TABLE ledger_entries IN ACCESS EXCLUSIVE MODE")
                terminal.wait_for(has("bank  running", "0 of 30 rows", "ETA unknown", "1 running"))
                other.rollback()
            _, remarks = run.communicate(timeout=60)
        assert (run.returncode, "0003" in remarks) == (1, True)
        seen = terminal.wait_for(
            has("bank  FAILED", "20 of 30 rows", "1 failed", "last failures", "bank 0003")
        )
        assert any("partitions: 2 posted, 1 failed" in line for line in seen)

        drawn = len(terminal.text)
        terminal.resize(60, 8)
        small = terminal.wait_for(lambda lines: len(lines) <= 8 and has("bank", "FAILED")(lines), drawn)
        assert max(map(cell_len, small)) <= 60

        drawn = len(terminal.text)
        with refusing_connections(server, world.url):
            away = terminal.wait_for(has("NO ANSWER since"), drawn)
            assert has("bank", "FAILED")(away), "what was known stays"
        drawn = len(terminal.text)
        terminal.wait_for(lambda lines: has("FAILED")(lines) and not has("NO ANSWER")(lines), drawn)
        assert "\x1b[2J" not in terminal.text.partition(_ALTERNATE_SCREEN)[2]

        terminal.type(b"\x03")
        assert terminal.end() == 0
        assert_left_clean(terminal)


@pytest.mark.slow
def test_a_server_that_hangs_holds_up_neither_the_screen_nor_its_end(backfill: Backfill) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        away = replace(backfill, url=f"postgresql://reader:geheim@127.0.0.1:{port}/ledger")
        with watching(away) as terminal:
            terminal.wait_for(has("looking at the ledger"))
            terminal.wait_for(has("NO ANSWER since", "has not answered yet"))
            terminal.process.send_signal(signal.SIGTERM)
            assert terminal.end() == 0
            assert_left_clean(terminal)
            assert "geheim" not in terminal.text


def test_a_line_of_json_for_each_look_until_it_is_stopped(
    backfill: Backfill, world: World, server: Server
) -> None:
    migrated(world)
    world.post(world.write("bank", entries(5)))
    with backfill.started("status", "--watch", "--json", "--interval", "0.5") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["answers"] is True
        [bank] = first["sources"]
        assert (bank["source"], bank["state"], bank["decided"]) == ("bank", "COMPLETED", 5)
        with refusing_connections(server, world.url):
            while (line := json.loads(process.stdout.readline()))["answers"]:
                pass
            assert set(line) == {"answers", "at", "since", "why"}
        process.send_signal(signal.SIGTERM)
        outcome = finish(process)
    assert (outcome.code, outcome.stderr) == (0, "")


def test_whoever_reads_it_may_leave(backfill: Backfill, world: World) -> None:
    migrated(world)
    world.post(world.write("bank", entries(5)))
    with backfill.started("status", "--watch", "--json", "--interval", "0.5") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--watch"], "needs a terminal"),
        (["--interval", "5"], "add --watch"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(
    backfill: Backfill, arguments: list[str], said: str
) -> None:
    outcome = backfill("status", *arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said in outcome.sentence
