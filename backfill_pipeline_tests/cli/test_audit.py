"""`backfill audit`, `statement`, `audit-log`, `four-eyes` and `approvals`, as an auditor calls them."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backfill_pipeline.cli.app import app
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.auditing.audit import audit
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline_tests.cli.command import Backfill, Outcome
from backfill_pipeline_tests.cli.walkthrough import command_folder, differences, steps
from backfill_pipeline_tests.ledger.world import NOON, Entry, World
from backfill_pipeline_tests.stages.world import CHECKOUT

Command = Callable[..., Outcome]


@pytest.fixture
def ledger(ledger_url: str, connection: Connection) -> World:
    """A cash account and a customer's, three entries on three days, and one in yen."""
    world = World(ledger_url, connection)
    world.open("CASH")
    world.open("CUST", normal_side="credit")
    world.open("YEN", currency="JPY", normal_side="credit")
    world.post_one(Entry("r1", "CASH", "CUST", "10.00", at=NOON))
    world.post_one(Entry("=r2", "CUST", "CASH", "4.50", at=NOON.replace(day=2)))
    world.post_one(Entry("r3", "CASH", "YEN", "1.00", at=NOON.replace(day=3), fx_rate="162.5"))
    return world


@pytest.fixture
def command(
    ledger: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The commands in this process, which starts no interpreter for each; one test runs them as they are."""
    monkeypatch.setenv("BACKFILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Outcome:
        sentence = ""
        try:
            app(list(arguments), prog_name="backfill")
            code: object = 0
        except SystemExit as end:
            code = end.code
        except BackfillError as error:
            code, sentence = 2, str(error)
        written = capsys.readouterr()
        assert isinstance(code, int)
        return Outcome(int(code), written.out, written.err + sentence)

    return run


@pytest.mark.e2e
@pytest.mark.skipif(not shutil.which("bash"), reason="the page is run in bash")
def test_the_commands_of_the_page_do_what_it_prints(
    ledger_url: str, connection: Connection, tmp_path: Path
) -> None:
    """docs/audit.md, on the ledger of the README with a balance that somebody raised."""
    world = World(ledger_url, connection)
    world.open("ACC-1", "ACC-2", "ACC-3", "ACC-9", currency="EUR")
    world.open("OPENING-BALANCE-EQUITY-EUR", currency="EUR", normal_side="credit")
    for reference, debit, credit, amount, at in (
        ("OPENING-ACC-1", "ACC-1", "OPENING-BALANCE-EQUITY-EUR", "2000.00", "2024-02-29T23:59:59"),
        ("T1", "ACC-2", "ACC-1", "250.00", "2024-03-01T08:00:00"),
        ("T2", "ACC-3", "ACC-1", "1049.99", "2024-03-02T13:30:00"),
        ("T4", "ACC-1", "ACC-2", "20.00", "2024-04-02T06:15:00"),
        ("T5", "ACC-3", "ACC-2", "75", "2024-04-03T06:15:00"),
    ):
        moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
        world.post_one(Entry(reference, debit, credit, amount, currency="EUR", at=moment))
    constraints.apply(connection)
    connection.execute(
        "UPDATE bank_accounts SET balance = balance + 1, available_balance = available_balance + 1 WHERE id = 'ACC-2'"
    )
    environment = Backfill(tmp_path / "home", ledger_url).environment
    environment["PATH"] = f"{command_folder(tmp_path)}:{environment['PATH']}"
    wanted = steps((CHECKOUT / "docs" / "audit.md").read_text(encoding="utf-8"))
    assert len(wanted) >= 8
    found = differences(wanted, environment, tmp_path)
    assert not found, "\n\n".join(found)


class TestAudit:
    def test_of_a_ledger_that_is_right_is_clean(self, command: Command) -> None:
        outcome = command("audit", "--json")
        assert (outcome.code, outcome.json["clean"], outcome.json["entries"]) == (0, True, 3)
        assert {check["outcome"] for check in outcome.json["checks"]} == {"passed"}
        assert outcome.json["totals"] == [
            {"ledger_id": "MASTER", "currency_code": "USD", "entries": 3, "amount": "15.50", "days": 3,
             "earliest": "2024-03-01T12:00:00+00:00", "latest": "2024-03-03T12:00:00+00:00"}
        ]  # fmt: skip
        text = command("audit").stdout
        assert " found nothing, " in text
        assert "2024-03-02  MASTER     USD" in text

    def test_ends_with_the_worst_that_it_found(self, command: Command, ledger: World) -> None:
        ledger.open("IDLE")
        assert command("audit").code == 0  # a note
        ledger.post_one(Entry("over", "YEN", "CASH", "100", fx_rate="1"))
        warned = command("audit")
        assert warned.code == 3
        assert "warning  1  accounts whose balances break a balance constraint" in warned.stdout
        ledger.connection.execute("UPDATE bank_accounts SET balance = balance + 5 WHERE id = 'CUST'")
        broken = command("audit")
        assert broken.code == 4
        assert "break  1  balances and conversions that are not what the legs say" in broken.stdout
        order = [
            line.split()[0]
            for line in broken.stdout.splitlines()
            if line.startswith(("break", "warning", "note"))
        ]
        assert order == ["break", "break", "warning", "note", "note"]
        assert command("audit", "--json").code == 4

    def test_that_could_not_be_made_as_a_whole_failed(self, command: Command, ledger: World) -> None:
        ledger.connection.execute("DROP VIEW backfill_partition_outcomes")
        outcome = command("audit")
        assert outcome.code == 1
        assert "skipped  posted partitions whose rows do not add up" in outcome.stdout
        assert "there is no backfill_partition_outcomes" in outcome.stdout


class TestStatement:
    def test_as_text(self, command: Command) -> None:
        text = command("statement", "CASH").stdout
        assert "CASH  USD, debit-normal, from the beginning to the end" in text
        rows = [line.split() for line in text.splitlines()[2:]]
        assert [row[-1] for row in rows] == ["0", "10.00", "5.50", "6.50", "6.50"]
        limited = command("statement", "CASH", "--limit", "1").stdout
        assert "2 legs before the closing balance are not shown" in limited
        assert limited.splitlines()[-2].split()[-1] == "6.50"

    def test_of_days_has_the_last_one_too(self, command: Command) -> None:
        found = command("statement", "CASH", "--from", "2024-03-02", "--to", "2024-03-02", "--json").json
        assert (found["opening_balance"], found["legs"], found["closing_balance"]) == ("10.00", 1, "5.50")
        lines = found["lines"]
        assert isinstance(lines, list)
        assert [line["timestamp_utc"] for line in lines] == [
            "2024-03-02T00:00:00+00:00", "2024-03-02T12:00:00+00:00", "2024-03-03T00:00:00+00:00"
        ]  # fmt: skip
        moment = command("statement", "CASH", "--to", "2024-03-02T13:00:00+01:00", "--json").json
        assert (moment["legs"], moment["closing_balance"]) == (1, "10.00")

    def test_as_csv_is_harmless_in_a_spreadsheet_and_keeps_its_numbers(self, command: Command) -> None:
        rows = list(csv.DictReader(command("statement", "CASH", "--csv").stdout.splitlines()))
        assert [row["kind"] for row in rows] == ["opening", "leg", "leg", "leg", "closing"]
        assert (rows[2]["reference_id"], rows[2]["movement"]) == ("'=r2", "-4.50")
        yen = list(csv.DictReader(command("statement", "YEN", "--csv").stdout.splitlines()))
        assert (yen[1]["amount"], yen[1]["entry_amount"], yen[1]["entry_currency_code"]) == (
            "162",
            "1.00",
            "USD",
        )

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("NOBODY",), "account NOBODY is not in the ledger"),
            (("CASH", "--from", "yesterday"), "--from yesterday is no day and no moment"),
            (("CASH", "--to", "2024-03-01T12:00:00"), "write it as 2024-03-01 or, with its zone"),
            (("CASH", "--from", "2024-03-05", "--to", "2024-03-01"), "--from 2024-03-05 is after --to 2024-03-01"),
            (("CASH", "--json", "--csv"), "exclude one another"),
        ],
    )  # fmt: skip
    def test_that_cannot_be_meant_is_refused_in_a_sentence(
        self, command: Command, arguments: tuple[str, ...], sentence: str
    ) -> None:
        outcome = command("statement", *arguments)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert sentence in outcome.sentence


def test_four_eyes_take_two_people_to_go_and_one_to_come_back(command: Command, ledger: World) -> None:
    assert command("four-eyes", "show", "--json").json == {"four_eyes": True}
    assert command("approvals").stdout == "nothing waits for another person\n"
    asked = command("four-eyes", "off", "--by", "ann", "--reason", "month end")
    assert (asked.code, asked.stdout.startswith("asked for by ann: another person has to ask")) == (3, True)
    assert command("four-eyes", "off", "--by", "ann").code == 3
    (request,) = command("approvals", "--json").json["requests"]
    assert (request["action"], request["requested_by"], request["reason"]) == (
        "four_eyes_off",
        "ann",
        "month end",
    )
    number = str(request["id"])
    other = command("approvals", "withdraw", number, "--by", "bob")
    assert (other.code, other.stdout) == (
        3,
        f"request {number} is one of ann: only who made it withdraws it\n",
    )
    done = command("four-eyes", "off", "--by", "bob", "--json")
    assert (done.code, done.json) == (0, {"four_eyes": False, "done": True, "by": "bob"})
    assert command("four-eyes", "on", "--by", "ann").code == 0

    rows = command("audit-log", "--json").json["entries"]
    assert isinstance(rows, list)
    assert [(row["actor"], row["action"]) for row in rows] == [
        ("ann", "four_eyes_on"), ("bob", "four_eyes_off"), ("ann", "four_eyes_off_requested")
    ]  # fmt: skip
    listed = command("audit-log", "ledger", "--limit", "1").stdout
    assert "four_eyes_on" in listed
    assert "four_eyes_off" not in listed
    assert "nothing about mybank" in command("audit-log", "mybank").stdout

    whole = command("audit-log", "verify", "--json")
    assert (whole.code, whole.json["whole"], whole.json["rows"]) == (0, True, 3)
    ledger.connection.execute("SET session_replication_role = replica")
    ledger.connection.execute("DELETE FROM audit_log WHERE number = 2")
    changed = command("audit-log", "verify")
    assert changed.code == 4
    assert "row 3: rows 2 to 2 before it were removed" in changed.stdout


def test_who_asked_may_take_it_back(command: Command, ledger: World) -> None:
    command("four-eyes", "off", "--by", "ann")
    listed = command("approvals", "list").stdout
    assert listed == command("approvals").stdout
    [(number,)] = ledger.rows("SELECT id FROM ledger_approvals")
    assert f" {number}  four_eyes_off" in listed
    assert command("approvals", "withdraw", str(number), "--by", "bob", "--json").json == {
        "id": number,
        "outcome": "another person",
        "by": "ann",
    }
    done = command("approvals", "withdraw", str(number), "--by", "ann", "--reason", "the wrong ledger")
    assert (done.code, done.stdout) == (0, f"request {number} is withdrawn\n")
    assert command("approvals").stdout == "nothing waits for another person\n"
    again = command("approvals", "withdraw", str(number), "--by", "ann")
    assert again.code == 2
    assert f"there is no request {number}: backfill approvals shows those that are open" in again.stderr
    assert command("four-eyes", "off", "--by", "bob").code == 3  # a request of his own
    assert command("four-eyes", "off", "--by", "ann").code == 0
    [(confirmed,)] = ledger.rows("SELECT id FROM ledger_approvals")
    late = command("approvals", "withdraw", str(confirmed), "--by", "bob")
    assert (late.code, late.stdout) == (
        1,
        f"request {confirmed} was confirmed by ann already: it cannot be withdrawn\n",
    )


def test_the_documentation_names_every_check(ledger: World) -> None:
    text = (CHECKOUT / "docs" / "audit.md").read_text(encoding="utf-8")
    table = text.split("| check | finds | |")[1].split("\n\n")[0]
    documented = {
        (name, row.split("|")[-2].strip())
        for row in table.splitlines()[2:]
        for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])
    }
    assert documented == {(check.name, check.severity.value) for check in audit(ledger.connection).checks}
