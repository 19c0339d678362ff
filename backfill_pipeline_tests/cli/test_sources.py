"""`backfill sources …` and `backfill profile`, as a person or a script calls them; none needs a database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backfill_pipeline.cli.session import named_source
from backfill_pipeline.cli.sources import find_path, readable_size
from backfill_pipeline.cli.tables import printable
from backfill_pipeline.errors import UsageError
from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.stages.test_preview import CSV, YAML
from backfill_pipeline_tests.stages.world import CHECKOUT

NO_SERVER = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def command(tmp_path: Path) -> Backfill:
    """The command with a server that does not answer: whoever asks for it fails."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "bank.yaml").write_text(YAML, encoding="utf-8")
    (sources / "export.csv").write_text(CSV, encoding="utf-8")
    return Backfill(tmp_path / "home", NO_SERVER, sources)


# --- list ---------------------------------------------------------------------------------------------------------


def test_list_shows_right_and_wrong_definitions_without_any_database(tmp_path: Path) -> None:
    backfill = Backfill(tmp_path / "home", None, tmp_path)
    (tmp_path / "bank.yaml").write_text(YAML, encoding="utf-8")
    (tmp_path / "wrong.yaml").write_text("id: wrong\n", encoding="utf-8")
    (tmp_path / "export.csv").write_text(CSV, encoding="utf-8")
    outcome = backfill("sources", "list", "--json")
    assert outcome.code == 0
    bank, wrong = outcome.json["sources"]
    assert (bank["source_id"], bank["type"], bank["bytes"], bank["rows"], bank["status"]) == (
        "bank", "csv", len(CSV), None, "not run",
    )  # fmt: skip
    assert wrong["source_id"] == "wrong"
    assert "wrong.yaml" in wrong["error"]
    assert not (tmp_path / "home" / "postgres").exists()
    assert "bank" in backfill("sources", "list").stdout


def test_list_shows_definitions_when_the_server_is_down_and_says_so(command: Backfill) -> None:
    outcome = command("sources", "list")
    assert outcome.code == 1
    assert "bank" in outcome.stdout
    assert "what was run is not known" in outcome.sentence
    assert command("sources", "list", "--json").json["ledger_error"]


@pytest.mark.e2e
def test_list_knows_what_was_run(backfill: Backfill) -> None:
    assert backfill.sources_dir is not None
    (backfill.sources_dir / "bank.yaml").write_text(
        YAML + "max_error_rate: 0.9\nunknown_accounts: create\n", encoding="utf-8"
    )
    (backfill.sources_dir / "export.csv").write_text(CSV, encoding="utf-8")
    assert backfill("run", "bank").code == 3
    (bank,) = backfill("sources", "list", "--json").json["sources"]
    assert isinstance(bank, dict)
    assert (bank["rows"], bank["status"]) == (5, "COMPLETED")


# --- check --------------------------------------------------------------------------------------------------------


def test_check_tells_rows_that_would_be_rejected(command: Backfill) -> None:
    outcome = command("sources", "check", "bank")
    assert outcome.code == 3
    assert "good 2, filtered 0, rejected 3" in outcome.stdout
    assert "row 3, line 5  amount_malformed" in outcome.stdout
    found = command("sources", "check", "bank", "--json")
    assert (found.code, found.json["good"], found.json["whole_file"]) == (3, 2, True)
    assert len(found.json["sample"]) == 3


def test_check_of_a_good_source_is_clean(command: Backfill) -> None:
    assert command("sources", "check", "bank", "--rows", 1).code == 0
    sample = command("sources", "check", CHECKOUT / "data" / "sources" / "sample.yaml", "--rows", 40)
    assert sample.code == 0


def test_check_says_every_error_at_once_with_its_line(command: Backfill, tmp_path: Path) -> None:
    assert command.sources_dir is not None
    wrong = command.sources_dir / "wrong.yaml"
    wrong.write_text(YAML.replace("amount: amount", "amuont: amount") + "max_error_rate: 2\n")
    outcome = command("sources", "check", "wrong")
    assert outcome.code == 2
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith(f"{wrong}:8: fields.amuont is an unknown key: did you mean amount?")
    assert lines[1].startswith(f"{wrong}:14: max_error_rate is")
    assert lines[2] == "2 problems"
    problem, _ = command("sources", "check", "wrong", "--json").json["problems"]
    assert (problem["line"], problem["key"], problem["suggestion"]) == (8, "fields.amuont", "amount")
    assert command("sources", "check", "none").code == 2
    assert command("sources", "check", tmp_path / "none.yaml").code == 2


# --- preview ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_preview_shows_rows_on_terminals_of_any_width(command: Backfill, width: int) -> None:
    command.extra["COLUMNS"] = str(width)
    outcome = command("sources", "preview", "bank")
    assert outcome.code == 0
    for shown in ("row 2, line 3", "time_nonexistent", "two⏎lines"):
        assert shown in outcome.stdout
    assert ("2024-03-01T08:00:00+00:00" in outcome.stdout) is (width > 40)  # folded there, and never cut
    assert outcome.stdout.index("row 2, line 3") < outcome.stdout.index("time_nonexistent")


def test_preview_in_json_has_everything(command: Backfill) -> None:
    found = command("sources", "preview", "bank", "--rows", 1, "--from", 5, "--json").json
    (row,) = found["rows"]
    assert isinstance(row, dict)
    assert (row["row"], row["line"], row["outcome"], row["code"]) == (3, 5, "rejected", "amount_malformed")
    assert row["before"]["amount"] == "1e3"
    assert row["after"]["reference_id"] == "T3"


def test_preview_of_hostile_content_moves_no_cursor(command: Backfill) -> None:
    assert command.sources_dir is not None
    text = CSV + "T6,2024-03-01,\x1b[31mA,[red]B,1.00,:x: \u202eevil\n"
    (command.sources_dir / "export.csv").write_text(text, encoding="utf-8")
    outcome = command("sources", "preview", "bank")
    assert "\x1b" not in outcome.stdout
    assert "\u202e" not in outcome.stdout
    assert "[red]B" in outcome.stdout
    assert ":x:" in outcome.stdout


def test_what_cannot_be_printed_is_escaped() -> None:
    assert printable("a\nb\x1b[0m\u202e") == "a⏎b\\x1b[0m\\u202e"
    assert printable("abcdef", 4) == "abc…"
    assert [readable_size(size) for size in (0, 5000, 50_000, 50 << 20)] == [
        "0 bytes", "5,000 bytes", "48 KiB", "50 MiB",
    ]  # fmt: skip


# --- schema and profile -------------------------------------------------------------------------------------------


def test_schema_is_printed_as_committed(command: Backfill) -> None:
    outcome = command("sources", "schema")
    assert outcome.stdout == (CHECKOUT / "docs" / "source-definition.schema.json").read_text(encoding="utf-8")
    assert json.loads(outcome.stdout)["additionalProperties"] is False


def test_profile_writes_a_draft_that_previews_and_never_over_a_file(
    command: Backfill, tmp_path: Path
) -> None:
    export = tmp_path / "transfers.csv"
    export.write_text(
        "txn_id,booked_at,debit_account,credit_account,amount,currency\n"
        + "".join(f"T{n},2024-03-01T09:00:0{n}Z,A{n % 2},A{1 - n % 2},{n}.50,EUR\n" for n in range(1, 9))
    )
    draft = tmp_path / "draft.yaml"
    outcome = command("profile", export, "--out", draft)
    assert outcome.code == 0
    assert "booked_at" in outcome.stdout
    assert f"now: backfill sources preview {draft}" in outcome.stderr
    assert command("sources", "check", draft).code == 0
    again = command("profile", export, "--out", draft)
    assert again.code == 2
    assert "exists already" in again.sentence
    found = command("profile", export, "--json").json
    assert found["rows"] == 8
    assert "  reference_id: txn_id\n" in str(found["draft"])


def test_profile_of_no_table_is_one_sentence(command: Backfill, tmp_path: Path) -> None:
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04" + bytes(100))
    outcome = command("profile", tmp_path / "book.xlsx")
    assert outcome.code == 1
    assert "Excel" in outcome.sentence


def test_profile_of_what_is_no_export_says_what_to_name(command: Backfill, tmp_path: Path) -> None:
    said = {
        name: command("profile", tmp_path / name) for name in ("none.csv", "sources", "sources/bank.yaml")
    }
    assert {outcome.code for outcome in said.values()} == {2}
    assert said["none.csv"].sentence.endswith("none.csv: there is no such file")
    assert said["sources"].sentence.endswith("is a directory: name one file of it")
    assert "use backfill sources check" in said["sources/bank.yaml"].sentence


def test_an_export_in_place_of_a_definition_leads_to_the_profile(
    command: Backfill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.sources_dir is not None
    monkeypatch.chdir(command.sources_dir)
    monkeypatch.setenv("BACKFILL_HOME", str(command.home))
    for look_up in (named_source, find_path):
        with pytest.raises(UsageError, match=r"export\.csv is no source definition.* backfill profile"):
            look_up("export.csv")


def test_a_path_is_linked_for_those_who_want_it_alone(
    command: Backfill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKFILL_HOME", str(command.home))
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(YAML.replace("id: bank", "id: other"), encoding="utf-8")
    (tmp_path / "export.csv").write_text(CSV, encoding="utf-8")
    link = command.home / "sources" / "other.yaml"
    assert named_source(str(elsewhere), register=False).id == "other"
    assert not link.exists()
    assert named_source(str(elsewhere)).id == "other"
    assert link.resolve() == elsewhere
