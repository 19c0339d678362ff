"""Commands that meet a bank: checked, previewed and planned by day, and sent to the right command otherwise."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from backfill_pipeline.cli.app import app
from backfill_pipeline.errors import UsageError
from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual, running_dual

pytestmark = pytest.mark.e2e


@pytest.fixture
def dual(backfill: Backfill, tmp_path: Path) -> Iterator[Dual]:
    """A bank with 3 days of 40 entries, its definition in the folder of sources, its credentials where commands run."""
    assert backfill.url is not None
    with running_dual(backfill.url, tmp_path) as made:
        made.write_scb()
        backfill.extra.update(made.environment)
        yield made


@pytest.mark.slow
def test_a_definition_is_checked_and_previewed_with_a_day_of_the_bank(backfill: Backfill, dual: Dual) -> None:
    checked = backfill("sources", "check", "scb_01")
    assert checked.code == 0, checked
    assert "looked at scb_01@2024-03-31" in checked.stdout  # the latest day that has entries
    assert "all 40 rows: good 40" in checked.stdout
    shown = backfill("sources", "preview", "scb_01", "--day", FIRST_DAY, "--rows", "2", "--json")
    assert shown.json["source_id"] == f"scb_01@{FIRST_DAY}"
    by_id = backfill("sources", "preview", f"scb_01@{FIRST_DAY}", "--rows", "2", "--json")
    assert by_id.stdout == shown.stdout


@pytest.mark.slow
def test_a_day_that_is_still_to_come_is_no_day_without_entries(backfill: Backfill, dual: Dual) -> None:
    for named in (("scb_01", "--day", "2999-01-01"), ("scb_01@2999-01-01",)):
        for command in ("check", "preview"):
            refused = backfill("sources", command, *named)
            assert (refused.code, refused.stdout) == (2, ""), refused
            assert "2999-01-01 is still to come in Europe/Paris, where scb_01 is" in refused.sentence
    dual.write_scb(scb={"start": "2999-01-01"})
    assert "begins on 2999-01-01 (scb.start), and it is " in backfill("sources", "check", "scb_01").sentence
    assert not dual.log()


def test_what_is_wrong_with_a_bank_is_told_before_anything_is_posted(backfill: Backfill, dual: Dual) -> None:
    del backfill.extra["SCB_SIMULATOR_TOKEN"]
    no_secret = backfill("sources", "check", "scb_01")
    assert (no_secret.code, "variable SCB_SIMULATOR_TOKEN is not set" in no_secret.stdout) == (2, True)
    assert "scb_01.yaml:" in no_secret.stdout
    for command in (("sync", "run"), ("sync", "reconcile"), ("outbox", "dispatch", "--bank")):
        not_begun = backfill(*command, "scb_01")
        assert (not_begun.code, not_begun.stdout) == (2, ""), not_begun
        assert "scb.auth.token_env is SCB_SIMULATOR_TOKEN, but" in not_begun.sentence
    backfill.extra["SCB_SIMULATOR_TOKEN"] = "hunter2-hunter2"
    refused = backfill("sources", "check", "scb_01")
    assert refused.code == 2
    assert "does not accept the credentials: check what SCB_SIMULATOR_TOKEN holds" in refused.stdout
    assert "hunter2" not in refused.stdout + refused.stderr
    backfill.extra.update(dual.environment)
    dual.write_scb(fields={**definition(dual)["fields"], "transaction_type": "kind"})
    column = backfill("sources", "check", "scb_01@2024-03-30", "--json")
    assert (column.code, column.json["rejected"]) == (3, {"transaction_type_missing": 40})


def definition(dual: Dual) -> dict[str, dict[str, object]]:
    loaded = yaml.safe_load((dual.sources_dir / "scb_01.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_a_day_is_planned_with_the_accounts_of_its_bank(backfill: Backfill, dual: Dual) -> None:
    plan = backfill("plan", "scb_01@2024-03-30", "--json")
    assert plan.code == 0, plan
    assert plan.json["counts"] == {
        "read": 40, "posted": 40, "duplicates": 0, "conflicts": 0, "rejected": 0, "filtered": 0,
    }  # fmt: skip
    assert plan.json["opening_entries"] == 40
    assert plan.json["unknown_accounts"] == 0
    assert dual.log()
    assert backfill.query("SELECT to_regclass('ledger_entries')") == [(None,)]  # and leaves nothing behind


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "scb_01"], "is a Sovereign Central Bank, which is fetched, posted, acknowledged and proven by backfill sync run scb_01"),
        (["run", "scb_01@2024-03-30"], "by backfill sync run scb_01 --from 2024-03-30 --to 2024-03-30"),
        (["resume", "scb_01"], "by backfill sync run scb_01"),
        (["plan", "scb_01"], "name one, such as backfill plan scb_01@2024-03-29"),
        (["reconcile", "scb_01"], "or use backfill sync reconcile scb_01"),
        (["reconcile", "scb_01@2024-03-30"], "was never run here: start it with backfill sync run scb_01 --from 2024-03-30 --to 2024-03-30"),
        (["rejects", "export", "scb_01"], "name one, such as backfill rejects export scb_01@2024-03-29"),
        (["rejects", "list", "scb_01"], "no day of scb_01 was fetched here yet: start with backfill sync run scb_01"),
        (["sources", "preview", "scb_01@2024-03-28"], "scb_01 begins on 2024-03-29 (scb.start), and 2024-03-28 is before that"),
        (["sources", "preview", "scb_01", "--day", "30.3.2024"], "--day 30.3.2024 is no day of the calendar"),
        (["sources", "preview", "scb_01@2024-03-30", "--day", "2024-03-31"], "leave one of them out"),
        (["sync", "run", "scb_01@2024-03-30"], "is one day of a bank: write scb_01, with --from 2024-03-30 --to 2024-03-30"),
        (["sync", "run", "other"], "there is no source other in"),
        (["sync", "run", "scb_01", "--from", "yesterday"], "--from yesterday is no day of the calendar: write it as 2024-03-01, or start"),
        (["sync", "run", "scb_01", "--from", "2024-03-01"], "--from 2024-03-01 is before that: name a later day, or --from start"),
        (["sync", "run", "scb_01", "--to", "2999-01-01"], "--to 2999-01-01 is not over yet in Europe/Paris, where scb_01 is"),
        (["sync", "run", "scb_01", "--from", "2024-03-31", "--to", "2024-03-30"], "--from 2024-03-31 is after --to 2024-03-30"),
        (["outbox", "status", "--bank", "nobody"], "there is no bank nobody (known: none)"),
        (["outbox", "show", "--status", "LOST"], "--status LOST is none of those that can be meant: PENDING, SENT"),
        (["outbox", "retry", "--status", "SENT"], "--status SENT is none of those that can be meant: "),
        (["outbox", "retry", "--status", "ACKNOWLEDGED"], "would tell every bank everything once more: name the one that lost"),
        (["outbox", "dispatch", "--watch", "--json"], "leave one of them out"),
    ],
)  # fmt: skip
def test_every_other_command_names_the_one_that_is_meant(
    backfill: Backfill, written: None, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    for name in ("LEDGER_DATABASE_URL", "BACKFILL_HOME", "BACKFILL_SOURCES_DIR"):
        monkeypatch.setenv(name, backfill.environment[name])
    with pytest.raises(UsageError) as refused:
        app(arguments, standalone_mode=False)
    assert sentence in str(refused.value)


@pytest.fixture
def written(backfill: Backfill) -> None:
    """A definition of a bank that nobody serves."""
    assert backfill.sources_dir is not None
    (backfill.sources_dir / "scb_01.yaml").write_text(
        """\
id: scb_01
type: scb
scb:
  base_url: http://127.0.0.1:9
  bank_id: SCB-01
  auth: {kind: bearer, token_env: SCB_SIMULATOR_TOKEN}
  timezone: Europe/Paris
  start: 2024-03-29
fields:
  ledger_id: {constant: OURS}
  debit_account_id: debit_account
  credit_account_id: credit_account
  amount: amount
  currency_code: currency
  transaction_type: type
  reference_id: reference
  timestamp_utc: {column: booked_at}
"""
    )


def test_a_bank_that_is_not_there_and_no_bank_at_all(backfill: Backfill, written: None) -> None:
    unset = backfill("sync", "run")
    assert (unset.code, "scb.auth.token_env is SCB_SIMULATOR_TOKEN, but the" in unset.sentence) == (2, True)
    assert backfill.sources_dir is not None
    (backfill.sources_dir / "scb_01.yaml").unlink()
    nobody = backfill("sync", "run")
    assert (nobody.code, "there is no source of type scb in" in nobody.sentence) == (2, True)


# --- backfill scb-simulator --definitions -----------------------------------------------------------------------


@contextmanager
def simulator(backfill: Backfill, *arguments: object) -> Iterator[dict[str, object]]:
    """The simulated bank as a process; yields what it says about itself."""
    with backfill.started(
        "scb-simulator", "--json", "--days", "2", "--entries-per-day", "20", *arguments
    ) as process:
        yield first_line(process)


def first_line(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()
    told = json.loads(line)
    assert isinstance(told, dict)
    return told


@pytest.mark.slow
def test_the_simulator_writes_definitions_that_are_right(backfill: Backfill, tmp_path: Path) -> None:
    folder = tmp_path / "banks"
    with simulator(backfill, "--ledgers", "SCB-01,Main_2", "--definitions", folder) as told:
        assert told["definitions"] == [str(folder / "scb_01.yaml"), str(folder / "main_2.yaml")]
        secrets = Path(str(told["credentials_file"])).read_text()
        settings = [line.removeprefix("export ").partition("=") for line in secrets.splitlines()]
        backfill.extra.update({name: value for name, _, value in settings})
        for name in ("scb_01", "main_2"):
            checked = backfill("sources", "check", folder / f"{name}.yaml", "--json")
            assert (checked.code, checked.json["good"]) == (0, 20), checked
        for line in secrets.splitlines():
            assert line.split("=", 1)[1] not in (folder / "scb_01.yaml").read_text()
    # Started again, it is somewhere else: the address follows, and what was edited stays.
    path = folder / "scb_01.yaml"
    edited = path.read_text().replace("metadata: [narrative,", "metadata: [")
    path.write_text(edited)
    with simulator(backfill, "--ledgers", "SCB-01,Main_2", "--definitions", folder) as again:
        assert path.read_text() == edited.replace(str(told["url"]), str(again["url"]))
        assert backfill("sources", "check", path).code == 0


def test_a_folder_for_definitions_that_cannot_be_meant(backfill: Backfill, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = backfill("scb-simulator", "--definitions", tmp_path / "file")
    assert nowhere.code == 2
    assert "name another folder with --definitions" in nowhere.sentence
    (tmp_path / "scb_01.yaml").write_text("id: scb_01\n")
    taken = backfill("scb-simulator", "--definitions", tmp_path)
    assert "is there already and about something else than ledger SCB-01" in taken.sentence
    assert (tmp_path / "scb_01.yaml").read_text() == "id: scb_01\n"
