"""`backfill plan` in processes of its own: before, between and after runs, interrupted, and without a ledger."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import bundled_migrations, migrate
from backfill_pipeline_tests.cli.command import Backfill, batches, finish, wait_until
from backfill_pipeline_tests.stages.planning import files_below
from backfill_pipeline_tests.stages.world import CHECKOUT, World, entries, entry

pytestmark = pytest.mark.e2e

COUNTS = ("read", "posted", "duplicates", "conflicts", "rejected", "filtered")
EXPECTED = json.loads((CHECKOUT / "data" / "sample" / "expected.json").read_text())


def counts(result: dict[str, object]) -> dict[str, object]:
    return {name: result[name] for name in COUNTS}


@pytest.mark.slow
def test_the_sample_is_planned_on_an_empty_database_then_run_then_planned_again(backfill: Backfill) -> None:
    backfill.sources_dir = None
    planned = backfill("plan", "sample", "--json")
    assert planned.code == 3
    assert planned.stderr == ""
    plan = planned.json
    assert plan["is_new_ledger"] is True
    assert (
        plan["outcome"]
        == "would post 4,970 of 5,000 rows; 1 duplicate, 1 conflict, 28 rejects: a run would exit 3"
    )
    assert backfill.query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'backfill%'") == []
    assert backfill.query("SELECT to_regclass('ledger_schema_migrations')") == [(None,)]

    run = backfill("run", "sample", "--json")
    assert run.code == plan["exit_code"] == planned.code
    assert (
        plan["counts"]
        == counts(run.json)
        == {
            "read": EXPECTED["entries"],
            **{name: EXPECTED[name] for name in COUNTS[1:5]},
            "filtered": 0,
        }
    )
    assert plan["opening_entries"] == run.json["opening_entries"]

    home = files_below(backfill.home)
    again = backfill("plan", "sample", "--json")
    assert files_below(backfill.home) == home
    assert again.code == 3
    assert again.json["is_registered"] is True
    assert again.json["counts"] == counts(backfill("run", "sample", "--json").json)
    assert backfill.materialized("sample", "plan") == set()


def test_one_screen_for_people(backfill: Backfill, world: World) -> None:
    rows = [
        *entries(20),
        entry(3),
        entry(4, amount="9.99"),
        entry(50, amount="x[red]"),
        entry(51, debit="NOBODY"),
        entry(52, note="left out"),
    ]
    world.write(
        "s", rows, accounts={"A": 5, "B": 10}, max_error_rate="1",
        rules=[{"when": {"note": "left out"}, "filter": "not wanted"}],
    )  # fmt: skip
    planned = backfill("plan", "s")
    assert planned.code == 3
    lines = planned.stdout.splitlines()
    assert lines[0] == (
        "s  would post 20 of 25 rows; 1 duplicate, 1 conflict, 2 rejects, 1 filtered,"
        " constraints refused by 1 account: a run would exit 3"
    )
    assert len(lines) < 40
    text = planned.stdout
    assert "read 25 = posted 20 + duplicates 1 + conflicts 1 + rejected 2 + filtered 1" in text
    assert "partitions      3 open" in text
    assert "opening entries 2: 15 USD" in text
    assert "new accounts    3 (3 by the accounts file): A, B, OPENING-BALANCE-EQUITY-USD" in text
    assert "unknown         1 account: NOBODY" in text
    assert re.search(r"MASTER +USD +20 +230\.00 +2024-01-01 +2024-01-01", text)
    assert re.search(r"B +USD +new +-220\.00", text)
    assert "filtered: not wanted 1" in text
    assert 'row 23, line 24  amount_malformed  amount "x[red]" is not a plain decimal number' in text
    assert "row 24, line 25  unknown_account  account NOBODY does not exist" in text
    assert re.search(r"time +\d+ to \d+ s \(an estimate from the time that the plan took\)", text)


def test_a_clean_source_ends_with_zero(backfill: Backfill, world: World) -> None:
    world.write("s", entries(5), accounts={"A": 0, "B": 1000})
    assert backfill("plan", "s").code == 0
    assert backfill("run", "s").code == 0
    again = backfill("plan", "s")
    assert again.code == 0
    assert again.stdout.splitlines()[0] == "s  would post 0 of 5 rows; 5 duplicates: a run would exit 0"


def test_a_run_that_would_fail_ends_with_one_and_says_why(backfill: Backfill, world: World) -> None:
    world.write("s", [*entries(10), *entries(10, first=11, amount="x")])
    planned = backfill("plan", "s")
    assert planned.code == 1
    assert "would post 10 of 20 rows; 1 failed partition: a run would exit 1" in planned.stdout
    assert "0002: partition 0002 of s has 10 rejects in 10 rows" in planned.stdout
    assert backfill("run", "s").code == 1


def test_what_a_source_holds_cannot_move_the_cursor(backfill: Backfill, world: World) -> None:
    rows = [*entries(5), entry(6, debit="\x1b[31mRED"), entry(7, note="\x1b[2J", amount="\x1b[1m")]
    world.write("s", rows, max_error_rate="1")
    planned = backfill("plan", "s")
    assert planned.code == 3
    assert "\x1b" not in planned.stdout
    assert "account \\x1b[31mRED does not exist" in planned.stdout
    world.write("s", rows, max_error_rate="0")
    failed = backfill("plan", "s")
    assert failed.code == 1
    assert "\x1b" not in failed.stdout


def test_changed_sources(backfill: Backfill, world: World) -> None:
    path = world.write("s", entries(20), accounts={"A": 0, "B": 1000})
    assert backfill("run", "s", "--partitions", "1").code == 0
    world.write_rows("s", entries(20, amount="2.00"))
    refused = backfill("plan", "s")
    assert refused.code == 1
    assert "s changed since it was registered: the content of s.csv" in refused.sentence
    assert refused.sentence.removeprefix("backfill: ") in backfill("run", "s").stderr
    accepted = backfill("plan", path, "--accept-changed")
    assert accepted.code == 3
    assert "revision 2 of" in accepted.stdout
    assert "a new one: the content of s.csv" in accepted.stdout


def test_usage_errors_and_ledgers_that_are_not_there(backfill: Backfill, world: World) -> None:
    assert backfill("plan", "nothing").code == 2
    path = world.write("s", entries(5))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("partition_rows", "partition_row"), encoding="utf-8")
    wrong = backfill("plan", path)
    assert (wrong.code, "partition_row is an unknown key" in wrong.sentence) == (2, True)
    path.write_text(text, encoding="utf-8")
    with connect(str(backfill.url)) as connection:
        migrate(connection, bundled_migrations()[:-1])
    old = backfill("plan", "s")
    assert old.code == 1
    assert "apply them with backfill db migrate, and plan again" in old.sentence
    away = Backfill(backfill.home, "postgresql://nobody:secret@127.0.0.1:9/ledger", backfill.sources_dir)
    gone = away("plan", "s")
    assert gone.code == 1
    assert "secret" not in gone.stderr
    assert "cannot be reached" in gone.sentence


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    backfill: Backfill, world: World, tmp_path: Path, number: signal.Signals
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    backfill.extra["TMPDIR"] = str(scratch)
    world.write("s", entries(60_000), partition_rows="1000", accounts={"A": 0, "B": 10_000_000})
    assert backfill("db", "migrate").code == 0
    with backfill.started("plan", "s") as process:
        wait_until(lambda: any(scratch.glob("backfill-plan-*/intermediates/s/*/validated/*")))
        os.killpg(process.pid, number)
        done = finish(process)
    assert done.code == 130
    assert done.sentence == "backfill: interrupted; a plan leaves nothing behind"
    assert list(scratch.iterdir()) == []
    assert world.query("SELECT count(*) FROM backfill_registrations") == [(0,)]
    with psycopg.connect(str(backfill.url), autocommit=True) as connection:
        wait_until(
            lambda: (
                connection.execute(
                    "SELECT 1 FROM pg_class WHERE relname LIKE 'backfill_rehearsed%'"
                ).fetchall()
                == []
            )
        )


@pytest.mark.slow
def test_while_the_source_is_being_run(backfill: Backfill, world: World) -> None:
    """A plan reads on, says so, and the run does not notice it."""
    world.write("s", entries(40_000), partition_rows="500", accounts={"A": 0, "B": 10_000_000})
    with backfill.started("run", "s") as process:
        wait_until(lambda: batches(str(backfill.url)) > 2)
        planned = backfill("plan", "s", "--json")
        done = finish(process)
    assert done.code == 0, done.stderr
    if planned.code == 1:  # it met what the run posted in the meantime
        assert "plan it again" in planned.sentence
    else:
        assert planned.code == 0, planned.stderr
        result = planned.json
        assert result["is_running"] is True or batches(str(backfill.url)) == 80
        found = result["counts"]
        assert isinstance(found, dict)
        assert found["read"] == found["posted"] + found["duplicates"] == 40_000
