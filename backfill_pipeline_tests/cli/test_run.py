"""`backfill run` and its neighbours, as a person or a script calls them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.cli.run import choose_partitions
from backfill_pipeline.errors import UsageError
from backfill_pipeline_tests.cli.command import Backfill, Outcome
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.world import (
    AMLSIM_DIR,
    CHECKOUT,
    World,
    entries,
    entry,
    needs_amlsim,
    whole_database,
)

pytestmark = pytest.mark.e2e

EXPECTED = json.loads((CHECKOUT / "data" / "sample" / "expected.json").read_text())
KEYS_OF_RUN = {
    "source_id": str,
    "read": int,
    "posted": int,
    "duplicates": int,
    "conflicts": int,
    "rejected": int,
    "filtered": int,
    "opening_entries": int,
    "seconds": float,
    "entries_per_second": float,
    "reconciliation": str,
    "constraints": str,
    "partitions": int,
}


def balanced(result: dict[str, object]) -> bool:
    counts = [
        int(str(result[name])) for name in ("posted", "duplicates", "conflicts", "rejected", "filtered")
    ]
    return int(str(result["read"])) == sum(counts)


# --- the bundled sample -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Backfill, Outcome]]:
    """The sample, run once with --json; its tests only look."""
    with whole_database(server) as url:
        backfill = Backfill(tmp_path_factory.mktemp("sample"), url)
        yield backfill, backfill("run", "sample", "--json")


def test_the_sample_comes_to_what_its_generator_says_in_every_number(
    sample: tuple[Backfill, Outcome],
) -> None:
    backfill, outcome = sample
    result = outcome.json
    assert outcome.code == 3
    assert result["read"] == EXPECTED["entries"]
    for name in ("posted", "duplicates", "conflicts", "rejected", "opening_entries"):
        assert result[name] == EXPECTED[name], name
    assert balanced(result)
    assert (result["reconciliation"], result["constraints"]) == ("match", "applied")
    assert (result["failed_partitions"], result["errors"]) == ([], [])
    by_code = backfill("rejects", "list", "sample", "--json").json["by_code"]
    assert by_code == {**EXPECTED["rejected_by_code"], "conflict": EXPECTED["conflicts"]}


def test_run_json_is_one_object_with_every_key_of_the_right_type(sample: tuple[Backfill, Outcome]) -> None:
    result = sample[1].json
    assert list(KEYS_OF_RUN) == [key for key in result if key in KEYS_OF_RUN]
    for name, kind in KEYS_OF_RUN.items():
        assert type(result[name]) is kind, name
    assert sample[1].stderr == ""


def test_the_constraints_of_the_sample_are_in_force(sample: tuple[Backfill, Outcome]) -> None:
    backfill, _ = sample
    assert backfill("constraints", "verify").code == 0
    names = backfill.query(
        "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'bank_accounts_%balance%' AND contype = 'c'"
    )
    assert names == [(4,)]


def test_status_rejects_audit_and_reconcile_answer_in_json(sample: tuple[Backfill, Outcome]) -> None:
    backfill, _ = sample
    (source,) = backfill("status", "--json").json["sources"]
    assert isinstance(source, dict)
    assert source["status"] == "COMPLETED"
    assert source["processed"] == source["read"] == EXPECTED["entries"]
    audit = backfill("audit", "--json")
    assert audit.code == 0
    assert audit.json["entries"] == EXPECTED["posted"] + EXPECTED["opening_entries"]
    reconciled = backfill("reconcile", "sample", "--json")
    assert (reconciled.code, reconciled.json["reconciliation"]) == (0, "match")
    for arguments in (("status",), ("audit",), ("reconcile", "sample"), ("rejects", "list", "sample")):
        assert backfill(*arguments).code == 0


def test_exported_rejects_are_all_of_them_and_harmless_in_a_spreadsheet(
    sample: tuple[Backfill, Outcome], tmp_path: Path
) -> None:
    import csv

    backfill, _ = sample
    exported = backfill("rejects", "export", "sample")
    rows = list(csv.reader(exported.stdout.splitlines(keepends=True)))
    assert len(rows) == 1 + EXPECTED["rejected"] + EXPECTED["conflicts"]
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@")]
    assert backfill("rejects", "export", "sample", "--out", tmp_path / "no" / "folder.csv").code == 2


def test_a_second_run_posts_nothing_and_a_reduced_home_changes_nothing(
    sample: tuple[Backfill, Outcome],
) -> None:
    backfill, _ = sample
    again = backfill("run", "sample", "--json")
    assert again.code == 3
    assert (again.json["posted"], again.json["opening_entries"]) == (0, 0)
    assert balanced(again.json)
    assert again.json["read"] == EXPECTED["entries"]
    assert again.json["reconciliation"] == "match"
    elsewhere = Backfill(backfill.home.parent / f"{backfill.home.name}_new", backfill.url)
    anew = elsewhere("run", "sample", "--json")
    assert (anew.code, anew.json["posted"], anew.json["reconciliation"]) == (3, 0, "match")


def test_the_text_of_a_run_says_the_same(sample: tuple[Backfill, Outcome]) -> None:
    backfill, _ = sample
    outcome = backfill("resume", "sample")
    assert outcome.code in (0, 3)
    assert re.search(r"reconciliation\s+match", outcome.stdout)


def test_on_an_embedded_server_nothing_needs_to_be_set_up(embedded: Backfill) -> None:
    embedded.sources_dir = None
    outcome = embedded("run", "sample", "--json")
    assert (outcome.code, outcome.json["posted"]) == (3, EXPECTED["posted"])
    assert (embedded.home / "postgres" / "data").is_dir()
    assert not list((embedded.home / "postgres").glob("data/postmaster.pid")), "the server was left running"


@pytest.mark.slow
@pytest.mark.own_server
def test_the_sample_on_postgresql_15(postgresql_15: Server, tmp_path: Path) -> None:
    with whole_database(postgresql_15) as url:
        backfill = Backfill(tmp_path / "home", url)
        outcome = backfill("run", "sample", "--json")
        assert outcome.code == 3
        for name in ("posted", "duplicates", "conflicts", "rejected", "opening_entries"):
            assert outcome.json[name] == EXPECTED[name], name
        assert (outcome.json["reconciliation"], outcome.json["constraints"]) == ("match", "applied")


# --- AMLSim -------------------------------------------------------------------------------------------------------


@needs_amlsim
@pytest.mark.slow
def test_amlsim_posts_all_but_its_self_transfers_and_its_constraints_are_refused(
    server: Server, tmp_path: Path
) -> None:
    with whole_database(server) as url:
        backfill = Backfill(tmp_path / "home", url, extra={"AMLSIM_DIR": str(AMLSIM_DIR)})
        outcome = backfill("run", "amlsim", "--json")
        assert outcome.code == 3
        result = outcome.json
        assert (result["read"], result["posted"], result["rejected"]) == (120_558, 120_543, 15)
        assert (result["duplicates"], result["conflicts"], result["opening_entries"]) == (0, 0, 20_000)
        assert (result["reconciliation"], result["constraints"]) == ("match", "refused")
        assert backfill("status", "--json").json["constraints"] == "refused"
        refused = backfill("constraints", "apply", "--json")
        assert (refused.code, refused.json["offending"]) == (3, 8_496)
        assert backfill.query("SELECT count(*) FROM bank_accounts WHERE available_balance < 0") == [(8_496,)]
        again = backfill("run", "amlsim", "--json")
        assert (again.code, again.json["posted"], again.json["reconciliation"]) == (3, 0, "match")
        assert balanced(again.json)


# --- partitions ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_range_of_partitions_by_number_or_key_posts_these_and_no_others(
    backfill: Backfill, world: World
) -> None:
    source = world.write("s", entries(40), accounts={"A": 1, "B": 9000, "C": 1})
    first = backfill("run", source, "--partitions", "2..3", "--json")
    assert (first.code, first.json["posted"], first.json["partitions"]) == (0, 20, 2), first
    assert first.json["reconciliation"] == "match"
    assert backfill.query(
        "SELECT DISTINCT (source_row - 1) / 10 + 1 FROM ledger_entries WHERE transaction_type = 'TRANSFER' ORDER BY 1"
    ) == [(2,), (3,)]
    one = backfill("run", "s", "--partitions", "0004", "--json")
    assert (one.code, one.json["posted"]) == (0, 10)
    again = backfill("run", "s", "--partitions", "0003..4", "--json")
    assert (again.code, again.json["posted"], again.json["duplicates"]) == (0, 0, 20)
    incomplete = backfill("reconcile", "s")  # no break, but not the whole source either: never a clean exit
    assert incomplete.code == 1
    assert "1 partition is not posted yet" in incomplete.stdout
    rest = backfill("resume", "s", "--json")
    assert (rest.code, rest.json["posted"], rest.json["reconciliation"]) == (0, 10, "match")
    assert backfill("reconcile", "s").code == 0


@pytest.mark.parametrize("wrong", ["9", "3..2"])
def test_a_wrong_range_is_a_usage_error(sample: tuple[Backfill, Outcome], wrong: str) -> None:
    outcome = sample[0]("run", "sample", f"--partitions={wrong}", "--json")
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert wrong.split(".")[0] in outcome.sentence


@pytest.mark.parametrize(
    "wrong", ["0", "7", "3..2", "2..7", "..", "1..", "x..y", "1.5", "-1", "", "0001...0002", "1,2"]
)
def test_every_wrong_range_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError):
        choose_partitions([f"{number:04d}" for number in range(1, 7)], wrong)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, "123456"),
        ("1", "1"),
        ("6", "6"),
        ("2..4", "234"),
        ("0002..0004", "234"),
        ("0005..6", "56"),
        ("3..3", "3"),
    ],
)
def test_a_range_names_partitions_by_number_or_key(wanted: str | None, expected: str) -> None:
    keys = [f"{number:04d}" for number in range(1, 7)]
    assert choose_partitions(keys, wanted) == [f"{int(number):04d}" for number in expected]


# --- rejects, poison, repair --------------------------------------------------------------------------------------


def poisoned(count: int = 60) -> list[list[object]]:
    rows = entries(count)
    rows[21] = entry(22, amount="much")
    rows[24] = entry(25, time="yesterday")
    return rows


@pytest.mark.slow
def test_a_poisoned_partition_fails_the_run_alone_and_a_higher_error_rate_finishes_it(
    backfill: Backfill, world: World
) -> None:
    source = world.write("s", poisoned(), accounts={"A": 1, "B": 9000, "C": 1})
    outcome = backfill("run", source, "--json")
    assert outcome.code == 1
    result = outcome.json
    assert (result["failed_partitions"], result["posted"]) == (["0003"], 50)
    assert (result["reconciliation"], result["constraints"]) == ("not run", "not run")
    assert "0003" in outcome.sentence
    assert "line 23" in outcome.sentence
    assert balanced(result)
    keys = {f"000{number}" for number in range(1, 7)}
    assert backfill.materialized("s", "posted") == backfill.materialized("s", "validated") == keys - {"0003"}
    assert backfill.materialized("s", "extracted") == backfill.materialized("s", "transformed") == keys
    assert backfill.query(
        "SELECT count(*) FROM ledger_entries WHERE source_row BETWEEN 21 AND 30 AND transaction_type = 'TRANSFER'"
    ) == [(0,)]
    status = backfill("status", "--json").json["sources"][0]
    assert (status["status"], list(status["failed_partitions"])) == ("FAILED", ["0003"])
    assert "0003" in backfill("status").stdout

    again = backfill("resume", "s", "--json")
    assert (again.code, again.json["failed_partitions"], again.json["posted"]) == (1, ["0003"], 0)

    source.write_text(source.read_text() + "max_error_rate: 0.5\n")
    healed = backfill("resume", "s", "--json")
    assert (healed.code, healed.json["posted"], healed.json["rejected"]) == (3, 8, 2)
    assert (healed.json["reconciliation"], healed.json["constraints"]) == ("match", "applied")
    assert backfill.materialized("s", "posted") == keys


@pytest.mark.slow
def test_a_repaired_file_is_refused_until_it_is_accepted_and_posts_what_was_missing(
    backfill: Backfill, world: World
) -> None:
    source = world.write("s", poisoned(), accounts={"A": 1, "B": 9000, "C": 1})
    assert backfill("run", source).code == 1
    world.write_rows("s", entries(60))
    for command in ("run", "resume"):
        refused = backfill(command, "s")
        assert refused.code == 1
        assert "the content of s.csv" in refused.stderr
        assert "restore" in refused.stderr
    healed = backfill("run", "s", "--accept-changed", "--json")
    assert healed.code == 0, healed
    assert (healed.json["posted"], healed.json["duplicates"]) == (10, 50)
    assert (healed.json["reconciliation"], healed.json["constraints"]) == ("match", "applied")


@pytest.mark.slow
def test_two_poisoned_partitions_are_resumed_before_constraints_judge_what_is_not_whole(
    backfill: Backfill, world: World
) -> None:
    """B pays out in partition 3 what it only receives in partition 5: constraints in between would refuse it."""
    rows = entries(60)
    rows[22] = entry(23, debit="A", credit="B", amount="500.00")
    rows[44] = entry(45, debit="B", credit="A", amount="5000.00")
    bad = {21: entry(22, amount="?"), 41: entry(42, amount="?")}
    source = world.write(
        "s", [bad.get(n, row) for n, row in enumerate(rows)], accounts={"A": 9000, "B": 1600, "C": 1}
    )
    assert backfill("run", source, "--json").json["failed_partitions"] == ["0003", "0005"]
    source.write_text(source.read_text() + "max_error_rate: 0.5\n")
    healed = backfill("resume", "s", "--json")
    assert healed.code == 3, healed
    assert (healed.json["posted"], healed.json["rejected"]) == (18, 2)
    assert (healed.json["reconciliation"], healed.json["constraints"]) == ("match", "applied")


# --- what changed -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_resume_refuses_a_source_that_changed_and_names_what(backfill: Backfill, world: World) -> None:
    source = world.write("s", poisoned())
    export = world.folder / "sources" / "s.csv"
    accounts = world.folder / "sources" / "s_accounts.csv"
    backfill("run", source)

    original = export.read_text()
    changes = {
        original + original.splitlines()[1] + "\n": "the content of s.csv",  # appended
        original.replace("note 59", "note 58"): "the content of s.csv",  # the same size
    }
    for content, named in changes.items():
        export.write_text(content)
        assert named in backfill("resume", "s").stderr
    export.write_text(original)

    definition = source.read_text()
    source.write_text(definition.replace("constant: TRANSFER", "constant: PAYMENT"))
    refused = backfill("resume", "s")
    assert (refused.code, "'fields'" in refused.stderr) == (1, True)
    source.write_text(definition)

    book = accounts.read_bytes()
    accounts.write_bytes(book.replace(b"A,0", b"A,5"))
    refused = backfill("resume", "s")
    assert (refused.code, "'accounts'" in refused.stderr) == (1, True)
    accounts.write_bytes(book)

    source.write_text(definition.replace("written by a test", "another description").replace("0.01", "0.02"))
    unchanged = backfill("resume", "s", "--json")
    assert "changed since" not in unchanged.stderr
    assert unchanged.json["failed_partitions"] == ["0003"]


@pytest.mark.slow
def test_a_finished_source_takes_new_content_as_a_new_revision(backfill: Backfill, world: World) -> None:
    source = world.write("s", entries(25))
    assert backfill("run", source, "--json").json["posted"] == 25
    world.write_rows("s", entries(32))
    grown = backfill("run", "s", "--json")
    assert (grown.json["posted"], grown.json["duplicates"], grown.json["reconciliation"]) == (7, 25, "match")


# --- constraints and breaks ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_suspended_constraints_are_said_to_be_and_put_back_by_the_next_run(
    backfill: Backfill, world: World
) -> None:
    source = world.write("s", entries(20), accounts={"A": 1, "B": 9000, "C": 1})
    assert backfill("run", source, "--json").json["constraints"] == "applied"
    assert backfill("constraints", "suspend").code == 0
    assert backfill("status", "--json").json["constraints"] == "suspended"
    assert "suspended" in backfill("status").stdout
    assert backfill("constraints", "verify").code == 1
    assert backfill("run", "s", "--json").json["constraints"] == "applied"
    assert backfill("constraints", "verify").code == 0


@pytest.mark.slow
def test_refused_constraints_list_the_accounts_and_the_reconciliation_still_runs(
    backfill: Backfill, world: World
) -> None:
    source = world.write("s", entries(20), accounts={"A": 1, "B": 10, "C": 1})
    outcome = backfill("run", source, "--json")
    assert outcome.code == 3
    assert (outcome.json["constraints"], outcome.json["reconciliation"], outcome.json["rejected"]) == (
        "refused",
        "match",
        0,
    )
    assert outcome.json["errors"] == []
    listed = backfill("constraints", "apply")
    assert listed.code == 3
    assert "B" in listed.stdout
    assert backfill("constraints", "verify").code == 1


def test_a_ledger_that_left_its_source_is_exit_code_4_for_run_and_reconcile(
    backfill: Backfill, world: World
) -> None:
    source = world.write("s", entries(20), accounts={"A": 1, "B": 9000, "C": 1})
    assert backfill("run", source).code == 0
    world.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = 'R000007'")
    outcome = backfill("run", "s", "--json")
    assert (outcome.code, outcome.json["reconciliation"]) == (4, "break")
    reconciled = backfill("reconcile", "s")
    assert reconciled.code == 4
    assert "R000007" in reconciled.stdout
    assert "amount" in reconciled.stdout
    assert backfill("status", "--json").json["sources"][0]["reconciliation"] == "break"


# --- what cannot be run -------------------------------------------------------------------------------------------


def test_an_export_with_nothing_but_a_header_is_clean(backfill: Backfill, world: World) -> None:
    source = world.write("s", [], accounts={"A": 5, "B": 10})
    for opening in (2, 0):
        outcome = backfill("run", source, "--json")
        assert outcome.code == 0, outcome
        assert (outcome.json["read"], outcome.json["partitions"]) == (0, 0)
        assert outcome.json["opening_entries"] == opening
        assert (outcome.json["reconciliation"], outcome.json["constraints"]) in (
            ("match", "refused"),
            ("match", "applied"),
        )


@pytest.mark.slow
def test_what_the_source_says_is_never_read_as_markup(backfill: Backfill, world: World) -> None:
    rows = entries(10)
    rows[3] = entry(4, amount="[/red][bold]7")
    source = world.write("s", rows)
    outcome = backfill("run", source)
    assert outcome.code == 1
    assert "[/red][bold]7" in outcome.stderr
    assert "[/red][bold]7" in backfill("status").stdout
    assert "[/red][bold]7" in backfill("rejects", "list", "s").stdout


def test_a_missing_file_is_one_sentence(backfill: Backfill, world: World) -> None:
    source = world.write("s", entries(5))
    (world.folder / "sources" / "s.csv").unlink()
    outcome = backfill("run", source)
    assert outcome.code == 1
    assert "s.csv" in outcome.sentence
    assert "no such file" in outcome.sentence


def test_a_source_that_there_is_not_is_a_usage_error(backfill: Backfill, world: World) -> None:
    world.write("s", entries(5))
    for command in ("run", "resume", "reconcile"):
        outcome = backfill(command, "nothing")
        assert (outcome.code, outcome.stdout) == (2, "")
        assert "nothing" in outcome.sentence
    never = backfill("resume", "s")
    assert (never.code, "never run" in never.sentence) == (2, True)
    assert backfill("run").code == 2
    assert backfill("fly").code == 2


def test_a_broken_definition_is_one_sentence_and_takes_no_other_source_away(
    backfill: Backfill, world: World
) -> None:
    world.write("good", entries(5))
    bad = world.write("bad", entries(5))
    bad.write_text(bad.read_text().replace("amount: amount", "amout: amount"))
    outcome = backfill("run", "bad")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "bad.yaml" in outcome.sentence
    assert "amout" in outcome.sentence
    assert backfill("run", "good").code in (0, 3)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://clerk:s3cr3t@127.0.0.1:1/ledger",
        "postgresql://clerk:s3cr3t@no-such-host.invalid/ledger",
        "mysql://clerk:s3cr3t@127.0.0.1/ledger",
        "postgresql://clerk:s3cr3t@[::1/ledger",
    ],
)
@pytest.mark.parametrize("command", [("run", "sample", "--json"), ("status",)])
def test_a_server_that_cannot_be_used_is_one_sentence_without_the_password(
    tmp_path: Path, url: str, command: tuple[str, ...]
) -> None:
    outcome = Backfill(tmp_path / "home", url)(*command)
    assert outcome.code in (1, 2)
    assert outcome.stdout == ""
    assert outcome.sentence.startswith("backfill: ")
    assert "s3cr3t" not in outcome.stderr


@pytest.mark.own_server
def test_a_wrong_password_is_one_sentence_and_a_right_one_is_kept_secret(
    postgresql_15: Server, tmp_path: Path
) -> None:
    right, wrong = "tr0ub4dor-and-3", "s3cr3t"
    with whole_database(postgresql_15) as url, psycopg.connect(url, autocommit=True) as admin:
        parts = psycopg.conninfo.conninfo_to_dict(url)
        (hba,) = admin.execute("SHOW hba_file").fetchone() or ("",)
        rules = Path(hba).read_text()
        Path(hba).write_text(f"local all clerk scram-sha-256\n{rules}")
        admin.execute(f"CREATE ROLE clerk LOGIN SUPERUSER PASSWORD '{right}'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            here = {
                password: f"postgresql://clerk:{password}@/{parts['dbname']}?host={parts['host']}"
                for password in (right, wrong)
            }
            refused = Backfill(tmp_path / "home", here[wrong])("run", "sample", "--json")
            assert (refused.code, refused.stdout) == (1, "")
            assert "authentication failed" in refused.sentence
            assert wrong not in refused.stderr
            backfill = Backfill(tmp_path / "home", here[right])
            outcome = backfill("run", "sample")
            assert outcome.code == 3
            assert right not in outcome.stdout + outcome.stderr + backfill("status").stdout
            with psycopg.connect(backfill.dagster_url.replace("+psycopg2", "")) as connection:
                tables = connection.execute(
                    "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
                ).fetchall()
                for (table,) in tables:
                    found = connection.execute(
                        f"SELECT count(*) FROM {table} AS t WHERE t::text LIKE %s",
                        [f"%{right}%"],
                    ).fetchone()
                    assert found == (0,), table
            kept = [file for file in (tmp_path / "home").rglob("*") if file.is_file()]
            assert not [file for file in kept if right.encode() in file.read_bytes()]
        finally:
            Path(hba).write_text(rules)
            admin.execute("SELECT pg_reload_conf()")
    with psycopg.connect(postgresql_15.url("postgres"), autocommit=True) as admin:
        admin.execute("DROP ROLE clerk")


def test_help_is_there_at_once(tmp_path: Path) -> None:
    """Counted in modules that are imported, which nothing else on the machine changes: they take all the time."""
    assert Backfill(tmp_path, None)("--help").code == 0
    code = (
        "import sys\nfrom backfill_pipeline.cli import main\nsys.argv = ['backfill', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'dagster', 'numpy', 'pandas', 'pandera', 'psycopg', 'pyarrow', 'pydantic', 'sqlalchemy'}\n"
        "print(sorted(heavy & set(sys.modules)), len(sys.modules) < 450 or len(sys.modules), file=sys.stderr)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert loaded.stderr.strip() == "[] True"
