"""`backfill doctor`: what it says, how it ends, and that it leaves everything as it was."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import typer

from backfill_pipeline.cli.doctor import doctor
from backfill_pipeline.local.generate import generate
from backfill_pipeline.orchestration.leftovers import HOST_TAG, PID_TAG, STARTED_TAG
from backfill_pipeline_tests.cli.command import Backfill, Outcome, batches, wait_until

pytestmark = pytest.mark.e2e

UNREACHABLE = "postgresql://ana:hidden-word@127.0.0.1:1/ledger"


@dataclass
class Doctor:
    """The command in this very process, as `backfill` would run it: a look costs no start of an interpreter."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, backfill: Backfill, *, json: bool = True) -> Outcome:
        for name in [name for name in os.environ if name not in backfill.environment]:
            self.monkeypatch.delenv(name)
        for name, value in backfill.environment.items():
            self.monkeypatch.setenv(name, value)
        self.capsys.readouterr()
        with pytest.raises(typer.Exit) as end:
            doctor(json=json)
        said = self.capsys.readouterr()
        return Outcome(end.value.exit_code, said.out, said.err)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(monkeypatch, capsys)


def checks(outcome: Outcome) -> dict[str, dict[str, str | None]]:
    found = outcome.json["checks"]
    assert isinstance(found, list)
    return {one["name"]: one for one in found}


def outcomes(outcome: Outcome) -> dict[str, str | None]:
    return {name: one["outcome"] for name, one in checks(outcome).items()}


def test_nothing_is_there_and_nothing_is_made(embedded: Backfill) -> None:
    found = embedded("doctor", "--json")
    assert found.code in (0, 3)  # this machine itself may give cause for a warning
    assert outcomes(found)["embedded server"] == "not looked"
    assert not embedded.home.exists()


def test_what_stands_still_is_started_and_stopped_again_and_what_runs_goes_on(
    embedded: Backfill, look: Doctor
) -> None:
    embedded("db", "migrate")
    pid_file = embedded.home / "postgres" / "data" / "postmaster.pid"
    assert not pid_file.exists()
    found = look(embedded)
    assert found.code in (0, 3)
    assert "started for this look" in str(checks(found)["embedded server"]["sentence"])
    assert {
        outcomes(found)[name] for name in ("ledger", "durability", "autovacuum", "migrations", "runs")
    } == {"ok"}
    assert not pid_file.exists()

    embedded("db", "url")  # keeps it up
    found = look(embedded)
    assert "goes on until backfill db stop" in str(checks(found)["embedded server"]["sentence"])
    running = pid_file.read_text().splitlines()[0]

    (embedded.home / "postgres.keep").unlink()
    found = look(embedded)
    assert found.code == 3
    assert "nobody uses it" in str(checks(found)["embedded server"]["sentence"])
    assert pid_file.read_text().splitlines()[0] == running

    os.kill(int(running), signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{running}").exists() or _is_zombie(running))
    before = pid_file.read_text()
    found = look(embedded)
    assert found.code == 3
    assert "was killed" in str(checks(found)["embedded server"]["sentence"])
    assert outcomes(found)["ledger"] == "not looked"
    assert pid_file.read_text() == before  # not recovered by a look

    assert embedded("status").code == 0  # the remedy
    (embedded.home / "postgres.keep").touch()  # as after a new start of the machine
    found = look(embedded)
    assert outcomes(found)["ledger"] == "ok"
    assert not pid_file.exists()


def _is_zombie(pid: str) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or while it was read
        return True


def test_a_server_that_cannot_start_says_why(embedded: Backfill, look: Doctor) -> None:
    embedded("db", "migrate")
    with (embedded.home / "postgres" / "data" / "postgresql.auto.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    found = look(embedded)
    assert found.code == 1
    assert outcomes(found)["embedded server"] == "problem"
    assert "did not start" in str(checks(found)["embedded server"]["sentence"])


@pytest.mark.slow
def test_a_run_that_was_killed_is_found_until_it_is_resumed(
    backfill: Backfill, tmp_path: Path, look: Doctor
) -> None:
    export = generate(20_000, 60, 3, 0.0, tmp_path / "export", name="books", partition_rows=5_000)
    with export.definition_file.open("a") as file:
        file.write("config: {batch_size: 200}\n")
    url = backfill.url or ""
    with backfill.started("run", export.definition_file) as process:
        wait_until(lambda: batches(url) >= 2 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: outcomes(look(backfill))["sources in progress"] == "warning", every=0.2)
    found = checks(look(backfill))
    assert found["sources in progress"]["remedy"] == "backfill resume books"
    assert found["runs"]["outcome"] == "warning"
    assert "(backfill_books) is shown as running, and nobody executes it" in str(found["runs"]["sentence"])
    assert backfill("resume", "books").code == 0
    found = checks(look(backfill))
    assert found["runs"]["outcome"] == found["sources in progress"]["outcome"] == "ok"

    plan = backfill("rollback", "books", "--plan", "--json").json
    assert backfill("rollback", "books", "--apply", "--plan-hash", plan["plan_hash"]).code == 0
    told = checks(look(backfill))["rollbacks"]
    assert (told["outcome"], told["remedy"]) == ("warning", "backfill status")
    assert "4 partitions of books rolled back" in str(told["sentence"])


def test_what_the_ui_left_behind(backfill: Backfill, look: Doctor) -> None:
    assert outcomes(look(backfill))["slots"] == "ok"
    with psycopg.connect(backfill.dagster_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO concurrency_slots (concurrency_key, run_id, step_key, deleted) VALUES ('books', 'gone', 'a', false)"
        )
        connection.execute(
            "INSERT INTO runs (run_id, pipeline_name, status, run_body, create_timestamp, update_timestamp)"
            " VALUES ('waiting', 'backfill_books', 'QUEUED', '{}', now(), now()),"
            " ('launched', 'backfill_books', 'STARTED', '{}', now(), now()),"
            " ('killed', 'backfill_books', 'STARTED', '{}', now(), now())"
        )
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        connection.cursor().executemany(
            "INSERT INTO run_tags (run_id, key, value) VALUES ('killed', %s, %s)",
            [(HOST_TAG, socket.gethostname()), (PID_TAG, str(ended.pid)), (STARTED_TAG, "1.0")],
        )
    dagster = backfill.home / "dagster"
    dagster.mkdir(parents=True)
    daemon = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(120)", "backfill_pipeline.cli.daemon"],
        env={**os.environ, "DAGSTER_HOME": str(dagster)},
    )
    try:
        found = checks(look(backfill))
        assert found["slots"]["outcome"] == "problem"
        assert "1 slot of pool books held by runs that are over" in str(found["slots"]["sentence"])
        assert "run launched (backfill_books) is shown as running" in str(found["runs"]["sentence"])
        assert "; and 1 more" in str(found["runs"]["sentence"])
        assert (found["UI"]["outcome"], found["UI"]["remedy"]) == ("warning", f"kill {daemon.pid}")
        with (dagster / "up.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = checks(look(backfill))
            assert found["UI"]["sentence"] == f"backfill up runs (process {os.getpid()})"
            assert "run killed (" in str(
                found["runs"]["sentence"]
            )  # the daemon watches what it launched itself
    finally:
        daemon.kill()
        daemon.wait()
    with psycopg.connect(backfill.dagster_url, autocommit=True) as connection:
        connection.execute("DELETE FROM runs WHERE run_id IN ('launched', 'killed')")
    found = checks(look(backfill))
    assert str(found["runs"]["sentence"]).startswith("1 run waits in the queue")
    assert found["UI"]["outcome"] == "ok"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LEDGER_DATABASE_URL", "postgresql://ana:hidden-word@second@127.0.0.1/ledger"),
        ("LEDGER_DATABASE_URL", "mysql://ana:hidden-word@127.0.0.1/ledger"),
        ("LEDGER_DATABASE_URL", "postgresql://ana:hidden-word@127.0.0.1"),
        ("LEDGER_DATABASE_URL", UNREACHABLE),
        ("BACKFILL_DAGSTER_DATABASE_URL", UNREACHABLE),
        ("BACKFILL_DAGSTER_DATABASE_URL", "postgresql://ana:hidden-word@[/ledger"),
        ("BACKFILL_HOME", "/dev/null"),
        ("BACKFILL_HOME", "/dev/null/home"),
        ("BACKFILL_INBOX_SETTLE_S", "hidden-word"),
        ("BACKFILL_ALERT_WEBHOOK_SECRET", "hidden-word"),
    ],
)
def test_it_works_where_nothing_else_does(
    backfill: Backfill, variable: str, value: str, look: Doctor
) -> None:
    backfill.extra[variable] = value
    for json in (False, True):
        found = look(backfill, json=json)
        assert found.code == 1
        assert "hidden-word" not in found.stdout + found.stderr
        assert found.stderr == ""
    assert outcomes(found)["client"] == "ok"


@pytest.mark.slow
def test_a_server_that_hangs_takes_seconds_and_not_for_ever(embedded: Backfill) -> None:
    embedded("db", "url")
    postmaster = int((embedded.home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(postmaster, signal.SIGSTOP)
    try:
        started = time.monotonic()
        found = embedded("doctor", "--json", timeout=60)
        took_s = time.monotonic() - started
    finally:
        os.kill(postmaster, signal.SIGCONT)
        embedded("db", "stop")
    assert found.code == 1
    assert "no answer within" in str(checks(found)["ledger"]["sentence"])
    assert took_s < 40  # a bound on hanging, not on speed


def test_for_people_each_problem_has_its_command_below_it(backfill: Backfill) -> None:
    found = backfill("doctor")
    lines = found.stdout.splitlines()
    assert found.code == 1  # the tests' server does not care for power cuts
    place = next(number for number, line in enumerate(lines) if line.startswith("problem"))
    assert "fsync is off" in lines[place]
    assert lines[place + 1].strip().startswith('$ psql "$(backfill db url)" -c "ALTER SYSTEM SET fsync = on"')
    assert "1 problem" in lines[-1]
