"""The embedded server's life: shared, left, killed, deleted, by root and by an ordinary user."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.errors import EmbeddedServerError
from backfill_pipeline.local.embedded import EmbeddedServer, embedded_server
from backfill_pipeline.local.server_files import START_TIMEOUT_S
from backfill_pipeline_tests.local.conftest import CHECKOUT, RunPython

# Joins the server of a home, says who it is, and stays until its standard input ends.
_USER = """
import sys, time
from pathlib import Path
from backfill_pipeline.local.embedded import embedded_server
server = embedded_server(Path(sys.argv[1]))
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home(scratch: Path) -> Path:
    return scratch / "home"


def _value(server: EmbeddedServer, query: str) -> object:
    with psycopg.connect(server.url("postgres")) as connection:
        row = connection.execute(query).fetchone()
    return None if row is None else row[0]


def _wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or while it was read
        return False


def _other_user(home: Path) -> tuple[subprocess.Popen[str], int]:
    """Another process that uses the server, and the server's process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", _USER, str(home)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_server_is_postgresql_18_that_loses_nothing_and_speaks_utc(home: Path) -> None:
    with embedded_server(home) as server, psycopg.connect(server.url("postgres")) as connection:
        assert connection.info.server_version // 10_000 == 18
        settings = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
    for durable in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        assert settings[durable] == "on", durable
    assert settings["TimeZone"] == "UTC"
    assert settings["server_encoding"] == "UTF8"
    assert settings["listen_addresses"] == ""
    assert Path(settings["config_file"]).with_name("postgresql.auto.conf").parent.name == "data"


def test_all_settings_of_the_shipped_file_are_in_force(home: Path) -> None:
    with embedded_server(home) as server, psycopg.connect(server.url("postgres")) as connection:
        wrong = connection.execute(
            "SELECT name, setting, error FROM pg_file_settings WHERE error IS NOT NULL OR "
            "(NOT applied AND sourcefile LIKE '%server.conf')"
        ).fetchall()
    assert wrong == []


def test_last_user_that_leaves_stops_the_server(home: Path) -> None:
    first = embedded_server(home)
    second = embedded_server(home)
    assert first.pid == second.pid
    first.release()
    assert _runs(second.pid)
    assert _value(second, "SELECT 1") == 1
    second.release()
    second.release()  # the second call does nothing
    assert not _runs(second.pid)


def test_data_outlives_a_stop_and_a_new_start(home: Path) -> None:
    with embedded_server(home) as server, psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with embedded_server(home) as server:
        assert _value(server, "SELECT answer FROM kept") == 42


def test_interpreter_exit_releases_what_was_kept(home: Path) -> None:
    process, pid = _other_user(home)
    process.communicate("")
    assert process.returncode == 0
    assert not _runs(pid)


def test_two_processes_share_one_server_and_the_later_one_stops_it(home: Path) -> None:
    other, pid = _other_user(home)
    with embedded_server(home) as server:
        assert server.pid == pid
        other.communicate("")
        assert _runs(pid)
    assert not _runs(pid)


def test_killed_user_leaves_a_server_that_the_next_one_joins_and_stops(home: Path) -> None:
    other, pid = _other_user(home)
    other.kill()
    other.wait()
    assert _runs(pid)
    with embedded_server(home) as server:
        assert server.pid == pid
    assert not _runs(pid)


def test_killed_server_is_started_again_with_its_data(home: Path) -> None:
    server = embedded_server(home)
    with psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(server.pid, signal.SIGKILL)
    assert _wait_until(lambda: not _runs(server.pid))
    with embedded_server(home) as again:
        assert again.pid != server.pid
        assert _value(again, "SELECT answer FROM kept") == 42
        server.release()  # its server is gone; the new one is in use and stays
        assert _runs(again.pid)
    assert not _runs(again.pid)


def test_server_that_cannot_start_says_why_at_once(home: Path) -> None:
    with embedded_server(home) as server:
        assert _runs(server.pid)
    with (home / "postgres" / "data" / "postgresql.auto.conf").open("a") as config:
        config.write("shared_buffers = 'plenty'\n")
    started = time.monotonic()
    with pytest.raises(EmbeddedServerError, match="did not start.*postgresql.auto.conf"):
        embedded_server(home)
    assert time.monotonic() - started < START_TIMEOUT_S / 5  # it does not wait as for one that recovers


def test_server_goes_on_when_the_one_who_started_it_ends(home: Path) -> None:
    process, pid = _other_user(home)
    with embedded_server(home) as server:
        assert server.pid == pid
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
        assert _value(server, "SELECT 42") == 42
    assert not _runs(pid)


def test_address_stays_the_same_when_the_server_is_started_again(home: Path) -> None:
    with embedded_server(home) as server:
        address = server.url("postgres")
    with embedded_server(home) as server:
        assert server.url("postgres") == address
    leftovers = [path.name for path in (home / "postgres").iterdir() if path.name.startswith("run-")]
    assert leftovers == []


def test_pid_file_with_the_number_of_a_stranger_is_seen_through(home: Path) -> None:
    embedded_server(home).release()
    (home / "postgres" / "data" / "postmaster.pid").write_text(
        f"{os.getpid()}\n{home}/postgres/data\n1\n5432\n{home}/postgres/run\n\n  1 1\nready   \n"
    )
    with embedded_server(home) as server:
        assert server.pid != os.getpid()
        assert _value(server, "SELECT 1") == 1


def test_half_made_data_directory_of_a_killed_start_is_made_again(home: Path) -> None:
    partial = home / "postgres" / "data.partial"
    partial.mkdir(parents=True)
    for directory in (home, home / "postgres"):
        directory.chmod(0o711)
    (partial / "PG_VERSION").write_text("18\n")
    with embedded_server(home) as server:
        assert _value(server, "SELECT 1") == 1
    assert not partial.exists()


def test_many_come_and_go_at_once(home: Path) -> None:
    def come_and_go(_: int) -> object:
        with embedded_server(home) as server:
            return _value(server, "SELECT 1")

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(come_and_go, range(24))) == [1] * 24
    with embedded_server(home) as server:
        pid = server.pid
    assert not _runs(pid)


@pytest.mark.slow
def test_many_processes_come_and_go_at_once(home: Path) -> None:
    code = (
        "import sys, psycopg\nfrom pathlib import Path\n"
        "from backfill_pipeline.local.embedded import embedded_server\n"
        "for _ in range(4):\n"
        "    with embedded_server(Path(sys.argv[1])) as server:\n"
        "        psycopg.connect(server.url('postgres')).execute('SELECT 1')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(home)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors


def test_two_homes_do_not_disturb_each_other(scratch: Path) -> None:
    with embedded_server(scratch / "one") as one:
        with embedded_server(scratch / "two") as two:
            assert one.pid != two.pid
            with psycopg.connect(two.url("postgres")) as connection:
                connection.execute("CREATE TABLE here (i int)")
        assert not _runs(two.pid)
        assert _value(one, "SELECT to_regclass('here') IS NULL") is True


def test_path_too_long_for_a_socket_gets_one_elsewhere_and_leaves_nothing(scratch: Path) -> None:
    home = scratch / ("long" * 30) / "home"
    with embedded_server(home) as server:
        assert len(str(home)) > 107
        assert _value(server, "SELECT 1") == 1
        assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
        with embedded_server(home) as second:
            assert second.socket_dir == server.socket_dir
    assert not server.socket_dir.exists()


@pytest.mark.parametrize("name", ["with space", "comma,quote'", 'double"quote$HOME', "Zoë"])
def test_home_may_have_an_unusual_name(scratch: Path, name: str) -> None:
    with embedded_server(scratch / name) as server:
        assert _value(server, "SELECT 1") == 1
    assert not _runs(server.pid)


@pytest.mark.parametrize("length", [10, 120])
def test_deleted_home_is_a_clean_start_even_while_its_server_ran(scratch: Path, length: int) -> None:
    home = scratch / ("h" * length)
    old = embedded_server(home)
    with psycopg.connect(old.url("postgres")) as connection:
        connection.execute("CREATE TABLE gone (i int)")
    shutil.rmtree(home)
    with embedded_server(home) as new:
        assert new.pid != old.pid
        assert _value(new, "SELECT to_regclass('gone') IS NULL") is True
        old.release()  # stops the old server, and does not touch the new one
        assert _wait_until(lambda: not _runs(old.pid))
        assert _value(new, "SELECT 1") == 1
    assert not _runs(new.pid)


def test_nobody_else_can_enter_the_directories_of_the_server(home: Path) -> None:
    with embedded_server(home) as server:
        for directory in (server.socket_dir, home / "postgres" / "data", home / "postgres" / "log"):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
class TestAsRoot:
    def test_server_runs_as_an_unprivileged_user(self, home: Path) -> None:
        with embedded_server(home) as server:
            owner = Path(f"/proc/{server.pid}").stat().st_uid
        assert owner != 0
        assert pwd.getpwuid(owner).pw_name in ("ledgerbackfill", "postgres", "nobody")
        assert (home / "postgres" / "server.conf").stat().st_uid == 0

    def test_no_directory_that_existed_is_opened(self, scratch: Path) -> None:
        existing = scratch / "existing"
        existing.mkdir()
        existing.chmod(0o751)
        site = Path(psycopg.__file__).parent.parent
        watched = [existing, scratch, *scratch.parents, site, *site.parents]
        before = [path.stat().st_mode for path in watched]
        embedded_server(existing / "home").release()
        assert [path.stat().st_mode for path in watched] == before

    def test_closed_parent_is_refused_in_one_sentence(self, scratch: Path) -> None:
        closed = scratch / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(EmbeddedServerError, match=rf"cannot enter {closed} on the way .*chmod o\+x"):
            embedded_server(closed / "home")
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700

    def test_home_of_an_ordinary_user_is_refused(self, user_home: Path, run_as_user: RunPython) -> None:
        made = run_as_user(_USER, user_home / "home")
        assert made.returncode == 0, made.stderr
        with pytest.raises(EmbeddedServerError, match="belongs to user nobody"):
            embedded_server(user_home / "home")

    def test_ordinary_user_cannot_connect_to_the_server_of_root(
        self, home: Path, run_as_user: RunPython
    ) -> None:
        with embedded_server(home) as server:
            tried = run_as_user("import psycopg, sys; psycopg.connect(sys.argv[1])", server.url("postgres"))
        assert tried.returncode != 0
        assert "Permission denied" in tried.stderr


def test_ordinary_user_starts_uses_and_stops_twice(user_home: Path, run_as_user: RunPython) -> None:
    code = (
        "import sys, os, psycopg\nfrom pathlib import Path\n"
        "from backfill_pipeline.local.embedded import embedded_server\n"
        "for _ in range(2):\n"
        "    with embedded_server(Path(sys.argv[1])) as server:\n"
        "        psycopg.connect(server.url('postgres')).execute('SELECT 1')\n"
        "        assert os.stat(f'/proc/{server.pid}').st_uid == os.getuid()\n"
        "print(server.pid)\n"
    )
    done = run_as_user(code, user_home / "home")
    assert done.returncode == 0, done.stderr
    assert not _runs(int(done.stdout))


def test_home_that_may_not_be_written_is_refused_in_one_sentence(run_as_user: RunPython) -> None:
    tried = run_as_user(_USER, "/proc/home")
    assert tried.returncode != 0
    assert "set BACKFILL_HOME to a directory that you may write to" in tried.stderr
