"""Reports say what the ledger says, to everybody, and never more than that."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import constraints, overview
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.corrections import corrections
from backfill_pipeline.reporting.report.outcome import Level
from backfill_pipeline.reporting.report.write import refuse_other_files
from backfill_pipeline_tests.pages.test_parts import HOSTILE
from backfill_pipeline_tests.reporting.report.conftest import Reported
from backfill_pipeline_tests.stages.correcting import propose, replace_entry
from backfill_pipeline_tests.stages.rolling_back import roll_back
from backfill_pipeline_tests.stages.world import World, entries, entry

ACCOUNTS = {"A": "1000", "B": "1000", "C": "1000"}
MIXED = [
    *entries(30),
    entry(1),  # a duplicate
    entry(2, amount="99.00"),  # a conflict
    entry(40, amount="much"),
    entry(41, amount="nothing"),
    entry(42, debit="nobody"),
]


@pytest.fixture
def mixed(world: World) -> Path:
    path = world.write("mixed", MIXED, accounts=ACCOUNTS, max_error_rate="1")
    world.post(path)
    world.reconcile(path)
    return path


class TestOutcome:
    def test_a_source_without_a_flaw_is_complete_and_equal(self, world: World, reported: Reported) -> None:
        path = world.write("clean", entries(12), accounts=ACCOUNTS)
        world.post(path)
        world.reconcile(path)
        apply_constraints(world)
        written, page = reported(path)
        assert (written.outcome.level, written.outcome.findings) == (Level.GOOD, ())
        assert written.outcome.sentence == (
            "All 12 rows read: 12 posted, 0 duplicates, 0 conflicts, 0 rejected, 0 filtered. The ledger equals the"
            " source."
        )
        assert page.headings[0] == (1, "Backfill of clean")
        assert "complete and equal" in page.text

    def test_rejected_rows_are_no_success(self, world: World, mixed: Path, reported: Reported) -> None:
        apply_constraints(world)
        written, page = reported(mixed)
        assert written.outcome.level is Level.NOTED
        assert [one.text for one in written.outcome.findings] == ["4 rows are rejected, conflicts included"]
        assert "read 35 = posted 30 + duplicates 1 + conflicts 1 + rejected 3 + filtered 0" in page.text

    def test_what_was_never_compared_or_changed_since_is_not_called_equal(
        self, world: World, reported: Reported
    ) -> None:
        path = world.write("bank", entries(12), accounts=ACCOUNTS)
        world.post(path)
        apply_constraints(world)
        written, _ = reported(path)
        assert (written.outcome.level, written.outcome.findings[0].text) == (
            Level.OPEN,
            "not reconciled, or rolled back since",
        )
        world.reconcile(path)
        world.query("UPDATE backfill_batches SET posted_at = now() + interval '1 second'")
        written, page = reported(path)
        assert written.outcome.level is Level.OPEN
        assert "The ledger equalled the source." in page.text

    def test_a_break_does_not_hold_and_is_told_field_by_field(
        self, world: World, mixed: Path, reported: Reported
    ) -> None:
        world.tamper("UPDATE ledger_entries SET amount = 7 WHERE reference_id = 'R000003'")
        world.reconcile(mixed)
        written, page = reported(mixed)
        assert written.outcome.level is Level.BROKEN
        [breaks] = [rows for caption, rows in page.tables.items() if "between source and ledger" in caption]
        assert ["0001", "different", "3", "R000003", "amount", "4", "7"] in [
            [one.removesuffix(".000000000000000000") for one in row] for row in breaks
        ]
        assert [rows for caption, rows in page.tables.items() if "whose balance is not" in caption]

    def test_counts_that_do_not_add_up_do_not_hold(
        self, world: World, mixed: Path, reported: Reported
    ) -> None:
        world.tamper("UPDATE backfill_partitions SET row_count = row_count + 1 WHERE number = 2")
        written, _ = reported(mixed)
        assert written.outcome.level is Level.BROKEN
        assert "the counts do not add up" in written.outcome.findings[0].text

    def test_a_reject_that_was_counted_and_is_not_kept_does_not_hold(
        self, world: World, mixed: Path, reported: Reported
    ) -> None:
        world.tamper("DELETE FROM backfill_rejects WHERE source_row = 34")
        written, _ = reported(mixed)
        assert written.outcome.level is Level.BROKEN
        assert "4 rejects counted, 3 kept" in [one.text for one in written.outcome.findings]

    def test_failed_partitions_come_first_with_their_error(self, world: World, reported: Reported) -> None:
        rows = [*entries(10), *entries(10, first=11, amount="x"), *entries(10, first=21)]
        path = world.write("poisoned", rows, max_error_rate="0.1")
        world.run(path)
        written, page = reported(path)
        assert written.outcome.level is Level.FAILED
        assert written.outcome.findings[0].text == "1 partition failed"
        assert written.outcome.sentence.startswith("20 of 30 rows read: 20 posted")
        assert page.tables["Partitions that are not posted"][1][:2] == ["0002", "failed"]
        assert "10 rows of the partitions that are not posted" in page.text


class TestPage:
    def test_the_same_ledger_is_the_same_bytes(self, mixed: Path, reported: Reported) -> None:
        first, second = (reported(mixed)[0].path.read_bytes() for _ in range(2))
        assert first == second
        assert first.count(b"2026-01-31 12:30:00 UTC") == 2  # in its head, and with what made it

    def test_has_every_section_and_a_way_to_it(self, mixed: Path, reported: Reported) -> None:
        _, page = reported(mixed)
        assert [title for level, title in page.headings if level == 2] == [
            "What became of every row", "How fast, and when", "Rejected rows", "Balances and breaks", "Partitions",
            "Fingerprints and seals", "Rollbacks and corrections", "Made by",
        ]  # fmt: skip
        for name in (
            "outcome",
            "findings",
            "equation",
            "flow",
            "rejects",
            "throughput",
            "volume",
            "partitions",
        ):
            assert f'id="{name}"' in page.source

    def test_plots_take_the_colours_of_the_page(self, mixed: Path, reported: Reported) -> None:
        _, page = reported(mixed)
        body = page.source.split("</style>", 1)[1]
        assert not re.search(r"#[0-9a-fA-F]{6}\b", body)
        assert "var(--series-1)" in body
        assert len(re.findall("<svg", body)) >= 4

    def test_samples_show_the_rows_and_can_be_left_out(self, mixed: Path, reported: Reported) -> None:
        _, page = reported(mixed)
        by_code = page.tables["Rows that are rejected now, by code; conflicts are among them"]
        assert [row[:2] for row in by_code[1:]] == [
            ["amount_malformed", "2"],
            ["conflict", "1"],
            ["unknown_account", "1"],
        ]
        samples = page.tables["All rejected rows"]
        assert samples[1][:4] == ["amount_malformed", "0004", "34", "amount"]
        assert samples[1][5].startswith("R000040,A,B,much,USD")
        _, one_each = reported(mixed, samples=1)
        assert len(one_each.tables["The first rows of each code: 3 of 4 rows"]) == 4
        _, none = reported(mixed, samples=0)
        assert "much" not in none.source
        assert "asked for without samples" in none.text

    def test_totals_are_those_of_the_entries(self, mixed: Path, reported: Reported) -> None:
        _, page = reported(mixed)
        expected = sum(number % 90 + 1 for number in range(1, 31))
        assert page.tables["Entries of the source by currency, opening balances left out"][1] == [
            "USD",
            "30",
            f"{expected:,}.00",
        ]

    def test_hostile_texts_stay_texts_and_long_ones_are_cut(self, world: World, reported: Reported) -> None:
        rows = [
            entry(
                number, amount=value.encode("utf-8", "replace").decode().replace("\x00", ""), note="x" * 5000
            )
            for number, value in enumerate(HOSTILE, 1)
        ]
        path = world.write("hostile", rows, max_error_rate="1", description="</p><script>alert(1)</script>")
        world.post(path)
        world.tamper(
            "UPDATE backfill_partitions SET posted_at = NULL, error = %s WHERE number = 1",
            "\n".join(HOSTILE[:6]),
        )
        world.tamper("UPDATE backfill_registrations SET file_name = %s", HOSTILE[1])
        written, page = reported(path, samples=20)
        assert "alert(1)" in page.text
        assert "x" * 301 not in page.source
        assert written.size_bytes < 120_000

    def test_rollbacks_and_corrections_are_told(self, world: World, mixed: Path, reported: Reported) -> None:
        replace_entry(world, "R000003", amount=7)
        propose(world, mixed)
        with connect(world.url) as connection:
            [correction] = corrections(connection)[1]
        _, page = reported(mixed)
        [_, told] = page.tables["Corrections"]
        assert told[:4] == [str(correction.id), "proposed", "amount", "R000003"]
        roll_back(world, "mixed", partition="0002")
        written, page = reported(mixed)
        [_, told] = page.tables["Rollbacks"]
        assert told[1:5] == ["partition 0002", "reversed" if "reversed" in told else "deleted", "10", "anna"]
        assert "1 partition not posted (1 rolled back)" in [one.text for one in written.outcome.findings]

    def test_two_thousand_partitions_are_a_page_all_the_same(self, world: World, reported: Reported) -> None:
        path = world.write("many", entries(1))
        world.register(path)
        world.query(
            "INSERT INTO backfill_partitions (registration_id, partition_key, number, first_row, row_count, first_line,"
            " byte_offset, byte_length, sha256) SELECT registration_id, lpad(n::text, 4, '0'), n, n, 1, n, 0, 0, sha256"
            " FROM backfill_partitions, generate_series(2, 2000) AS n"
        )
        written, page = reported(path)
        assert len(page.tables["Partitions that are not posted"]) == 2001
        assert written.size_bytes < 500_000
        world.tamper(
            "UPDATE backfill_partitions SET error = %s",
            "duplicate key value violates unique constraint " * 100,
        )
        written, _ = reported(path)
        assert written.size_bytes < 1_500_000

    def test_a_source_without_rows_has_a_page(self, world: World, reported: Reported) -> None:
        path = world.write("empty", [])
        world.post(path)
        written, page = reported(path)
        assert written.outcome.sentence.startswith("No row to read")
        assert "read 0 = posted 0" in page.text


class TestFile:
    def test_a_report_is_replaced_and_nothing_else_is(
        self, mixed: Path, world: World, reported: Reported
    ) -> None:
        written, _ = reported(mixed)
        reported(mixed)
        assert sorted(one.name for one in world.folder.glob("*report*")) == ["report.html"]
        written.path.write_text("my only copy")
        with pytest.raises(UsageError, match=r"is there already and no report: name another file with --out"):
            reported(mixed)
        assert written.path.read_text() == "my only copy"

    def test_a_folder_is_no_file(self, mixed: Path, world: World, reported: Reported) -> None:
        (world.folder / "report.html").mkdir()
        with pytest.raises(UsageError, match=r"is a folder: name a file"):
            reported(mixed)

    def test_a_place_that_cannot_be_written_is_named(
        self, mixed: Path, world: World, reported: Reported
    ) -> None:
        world.folder = world.folder / "sources" / "mixed.csv"
        with pytest.raises(UsageError, match=r"mixed.csv is a file: name a place in a folder with --out"):
            reported(mixed)

    def test_a_place_that_is_no_file_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UsageError, match=r"pipe is a pipe or a device: name a file with --out"):
            refuse_other_files(tmp_path / "pipe")
        with pytest.raises(UsageError, match="File name too long"):
            refuse_other_files(tmp_path / ("a" * 300))

    def test_what_never_ran_has_no_report(self, world: World, reported: Reported) -> None:
        with pytest.raises(UsageError, match="source new was never run here: there is nothing to report"):
            reported(world.write("new", entries(1)))


def apply_constraints(world: World) -> None:
    """As a run does at its end."""
    with connect(world.url) as connection:
        assert constraints.apply(connection).state == "applied"


def test_what_changes_while_it_is_read_does_not_show(
    world: World, mixed: Path, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = reported(mixed)[0].path.read_bytes()
    read = overview.revisions

    def meanwhile(connection: Connection, source_id: str) -> list[overview.Revision]:
        world.tamper("DELETE FROM backfill_rejects")
        world.tamper("UPDATE ledger_entries SET amount = 1000000")
        return read(connection, source_id)

    monkeypatch.setattr(overview, "revisions", meanwhile)
    assert reported(mixed)[0].path.read_bytes() == undisturbed
    monkeypatch.undo()
    assert reported(mixed)[0].path.read_bytes() != undisturbed
