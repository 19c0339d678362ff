"""What `backfill status --watch` draws: rates that are known, one word for everything, and never more than there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len

from backfill_pipeline.cli.watch_board import Board, Paces, SourceBoard, board
from backfill_pipeline.cli.watch_screen import NoAnswer, View, screen
from backfill_pipeline.ledger.monitoring.banks import BankConnection, BankDaysState, Waiting
from backfill_pipeline.ledger.monitoring.live import Failure, LiveLook, Running
from backfill_pipeline.ledger.monitoring.sources import OpenRejects, SourceProgress, SourceRows

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BEGAN = NOON - timedelta(minutes=10)


def rows(source: str, state: str, partitions: int, of: int, decided: int, unaccounted: int = 0) -> SourceRows:
    return SourceRows(source, state, partitions, of, decided, decided, 0, 0, 0, 0, unaccounted)


def progress(
    source: str, status: str, verdict: str = "not run", last: datetime = NOON, days: int = 1
) -> SourceProgress:
    statuses = [days * (name == status) for name in ("IN_PROGRESS", "COMPLETED", "FAILED", "PAUSED")]
    verdicts = [days * (name == verdict) for name in ("match", "break", "not run")]
    return SourceProgress(source, "CSV", 1, statuses, 0, 0, BEGAN, last, 600.0, verdicts, None)


def look(at: datetime = NOON, **parts: Any) -> LiveLook:
    nothing = dict.fromkeys(
        (
            "source_rows", "source_progress", "open_rejects", "running", "failures", "bank_days", "bank_connections",
            "waiting",
        ),
        (),
    )  # fmt: skip
    fields = {
        "taken_at": at,
        "failed": 0,
        "constraints": "applied",
        "size_bytes": 3 << 30,
        **nothing,
        **parts,
    }
    return LiveLook(**fields)


def running(decided: int, at: datetime, last: datetime | None = None) -> LiveLook:
    """A source of a million rows that a run writes since a minute before noon."""
    return look(
        at,
        source_rows=[
            rows("big", "posting", 1, 100_000, decided % 100_000),
            rows(
                "big",
                "posted",
                decided // 100_000,
                decided // 100_000 * 100_000,
                decided // 100_000 * 100_000,
            ),
            rows(
                "big",
                "registered",
                9 - decided // 100_000,
                900_000 - decided // 100_000 * 100_000,
                0,
            ),
        ],
        source_progress=[progress("big", "IN_PROGRESS", last=last or at)],
        running=[Running("big", None, NOON - timedelta(minutes=1), decided)],
    )


def only(found: Board) -> SourceBoard:
    [one] = found.sources
    return one


def lines(of: Board | None, width: int = 100, height: int = 40, **view: Any) -> list[str]:
    fields = {"ledger": 'database "ledger" on x', "interval_s": 2, "now": NOON, "board": of, **view}
    drawn = screen(View(**fields), width, height)
    assert len(drawn) <= height
    assert [line.plain for line in drawn if cell_len(line.plain) > width or "\n" in line.plain] == []
    return [line.plain.rstrip() for line in drawn]


class TestPace:
    def test_nobody_knows_a_rate_before_the_second_look(self) -> None:
        paces = Paces()
        first = only(board(running(100_000, NOON), paces))
        assert (first.pace.rows_per_s, first.pace.eta_s) == (None, None)
        assert first.pace.run_rows_per_s == pytest.approx(100_000 / 60)
        assert "ETA unknown" in "\n".join(lines(board(running(100_000, NOON), Paces())))
        second = only(board(running(140_000, NOON + timedelta(seconds=2)), paces))
        assert (second.pace.rows_per_s, second.pace.eta_s) == (20_000, 43)
        assert "20,000 rows/s now" in "\n".join(
            lines(board(running(180_000, NOON + timedelta(seconds=4)), paces))
        )

    def test_the_rate_is_that_of_the_last_half_minute(self) -> None:
        paces = Paces()
        for second in range(0, 61, 2):
            decided = 1_000 * min(second, 30) + 10_000 * max(second - 30, 0)
            found = only(board(running(decided, NOON + timedelta(seconds=second)), paces))
        assert found.pace.rows_per_s == 10_000

    def test_of_looks_that_are_far_apart_two_are_enough(self) -> None:
        paces = Paces()
        for minute in range(4):
            found = only(board(running(60_000 * minute**2, NOON + timedelta(minutes=minute)), paces))
        assert found.pace.rows_per_s == 5_000

    def test_a_run_that_decides_nothing_is_stalled_after_a_minute_and_has_no_eta(self) -> None:
        paces, last = Paces(), NOON
        board(running(100_000, NOON), paces)
        for seconds, state in ((59, "running"), (60, "stalled"), (600, "stalled")):
            found = board(running(100_000, NOON + timedelta(seconds=seconds), last), paces)
            assert (only(found).state, only(found).pace.eta_s) == (state, None)
        text = "\n".join(lines(found))
        assert "stalled" in text
        assert "nothing decided for 10 min" in text
        assert "ETA" not in text

    def test_what_was_rolled_back_is_no_negative_rate(self) -> None:
        paces = Paces()
        board(running(500_000, NOON), paces)
        found = only(board(running(100_000, NOON + timedelta(seconds=2)), paces))
        assert (found.pace.rows_per_s, found.pace.eta_s) == (None, None)
        found = only(board(running(110_000, NOON + timedelta(seconds=4)), paces))
        assert found.pace.rows_per_s == 5_000

    def test_a_clock_that_is_put_back_is_no_negative_rate(self) -> None:
        paces = Paces()
        board(running(100_000, NOON), paces)
        assert only(board(running(110_000, NOON - timedelta(hours=1)), paces)).pace.rows_per_s is None

    def test_what_nobody_runs_has_neither_rate_nor_eta_and_says_how_to_go_on(self) -> None:
        found = board(replace(running(100_000, NOON), running=()), Paces())
        assert (only(found).state, only(found).is_running) == ("IN_PROGRESS", False)
        text = "\n".join(lines(found))
        assert "no run is on it now: backfill resume big" in text
        assert "rows/s" not in text

    def test_it_is_not_done_before_all_of_it_is(self) -> None:
        decided = replace(
            running(0, NOON),
            source_rows=[rows("big", "posting", 1, 1_000_000, 999_999)],
        )
        assert "99.9 %" in "\n".join(lines(board(decided, Paces())))
        done = replace(decided, source_rows=[rows("big", "posted", 1, 1_000_000, 1_000_000)])
        text = "\n".join(lines(board(done, Paces())))
        assert "100.0 %" in text
        assert "all rows decided" in text


def everything(sources: int = 12) -> Board:
    """A source that runs, one that failed, one that lost a row, those that are done, a bank, and failures."""
    found = running(200_000, NOON + timedelta(seconds=2))
    wrong = [
        rows("broken", "failed", 3, 3_000, 0),
        rows("broken", "posted", 1, 1_000, 1_000),
        rows("lossy", "posted", 1, 1_000, 999, unaccounted=1),
        rows("scb_01", "posted", 14, 1_400, 1_400),
    ]
    quiet = [f"done_{number:02}" for number in range(sources - 3)]
    paces = Paces()
    board(running(150_000, NOON), paces)
    return board(
        replace(
            found,
            source_rows=[
                *found.source_rows,
                *wrong,
                *(rows(name, "posted", 5, 5_000, 5_000) for name in quiet),
            ],
            source_progress=[
                *found.source_progress,
                progress("broken", "FAILED"),
                progress("lossy", "COMPLETED", "match"),
                progress("scb_01", "COMPLETED", "match", days=14),
                *(progress(name, "COMPLETED", "match") for name in quiet),
            ],
            open_rejects=[
                OpenRejects("broken", "validate", f"code_{number}", 10 - number) for number in range(8)
            ],
            failed=7,
            failures=[
                Failure("broken", f"000{number}", NOON, f"[bold]line {number}[/bold]\x1b[2J\nof a file " * 10)
                for number in range(3, 0, -1)
            ],
            bank_days=[BankDaysState("scb_01", "SCB-01", (12, 1, 1, 0), NOON, 1_400, 5, 2)],
            bank_connections=[BankConnection("SCB-01", "L", 4, True, NOON - timedelta(hours=3))],
            waiting=[
                Waiting("SCB-01", "entry", "PENDING", 20, NOON - timedelta(minutes=7)),
                Waiting("SCB-01", "acknowledgement", "DEAD", 2, NOON - timedelta(days=9)),
            ],
        ),
        paces,
    )


class TestScreen:
    def test_all_of_it_where_there_is_room(self) -> None:
        text = "\n".join(lines(everything(), 110, 60))
        for said in (
            "backfill status  12:00:00 UTC  every 2 s, Ctrl-C ends",
            "constraints applied  12 sources  1 bank  1 running  7 failed  database 3.0 GiB",
            "20.0 %  200,000 of 1,000,000 rows",
            "25,000 rows/s now  3,226 rows/s this run  ETA 0:00:32",
            "partitions: 2 posted, 1 posting, 7 registered  reconciliation: not run",
            "1 row NOT ACCOUNTED FOR: backfill audit",
            "partitions: 1 posted, 3 failed",
            "rejected: 10 code_0, 9 code_1, 8 code_2, 7 code_3, 18 others",
            "done_00  COMPLETED  100.0 %  match",
            "next: backfill resume broken",
            "last failures, and 4 more: backfill status",
            "broken 0003  11-22 12:00 failed: ",
            "days: 12 complete, 1 break, 1 failed",
            "outbox: 20 waiting, the oldest for 7 min, 2 given up",
            "does not answer, 4 failures in a row",
            "last answer 3 h ago",
            "2 breaks",
        ):
            assert said in text, said

    def test_what_may_be_a_loss_comes_first_then_what_runs_then_what_is_wrong(self) -> None:
        assert [one.source for one in everything(5).sources] == [
            "lossy",
            "big",
            "broken",
            "done_00",
            "done_01",
        ]

    @pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 100, 200])
    @pytest.mark.parametrize("height", [1, 2, 5, 15, 24, 60])
    @pytest.mark.parametrize("sources", [3, 300])
    def test_it_fits_any_terminal(self, width: int, height: int, sources: int) -> None:
        for no_answer in (None, NoAnswer(NOON, "cannot connect " * 20)):
            for of in (everything(sources), None):
                assert lines(of, width, height, no_answer=no_answer)

    @pytest.mark.parametrize("width", [60, 100])
    def test_a_low_terminal_has_the_most_important_and_says_what_is_left_out(self, width: int) -> None:
        drawn = lines(everything(40), width, 15)
        assert len(drawn) == 15
        text = "\n".join(drawn)
        for said in (
            "lossy",
            "NOT ACCOUNTED",
            "big",
            "running",
            "25,000 rows/s",
            "broken",
            "FAILED",
            "scb_01",
        ):
            assert said in text, said
        [more] = [line for line in drawn if "more sources" in line]
        shown = sum(line.startswith(("lossy", "big", "broken  ", "done_")) for line in drawn)
        assert more == f"{40 - shown} more sources: backfill status"
        assert any("failed: " in line for line in drawn)
        [left] = [line for line in drawn if "more failures" in line]
        assert left == "6 more failures: backfill status"

    def test_sixty_columns_have_whole_words(self) -> None:
        drawn = lines(everything(3), 60, 60)
        text = "\n".join(drawn)
        for said in ("200,000 of 1,000,000 rows", "ETA 0:00:32", "reconciliation: not run", "2 given up"):
            assert said in text, said

    def test_the_time_since_when_nothing_answers_stands_above_what_was_known(self) -> None:
        view = {
            "no_answer": NoAnswer(
                NOON + timedelta(minutes=3), "cannot connect to the ledger right now: refused"
            )
        }
        drawn = lines(everything(), 100, 60, **view)
        assert "NO ANSWER since 12:03:00 UTC: cannot connect to the ledger right now: refused" in drawn
        assert "what follows is as of 12:00:02 UTC" in drawn
        assert any("200,000 of 1,000,000" in line for line in drawn)
        assert any("NO ANSWER" in line for line in lines(None, **view))

    def test_before_the_first_look_and_without_a_source_it_says_so(self) -> None:
        assert lines(None)[-1] == "looking at the ledger"
        assert "no source was run yet: backfill run SOURCE" in "\n".join(lines(board(look(), Paces())))

    def test_nothing_of_others_can_move_the_cursor_or_be_markup(self) -> None:
        drawn = lines(everything(), 200, 60)
        assert "\x1b" not in "".join(drawn)
        assert any(r"[bold]line 3[/bold]\x1b[2J⏎of a file" in line for line in drawn)

    def test_wide_characters_are_as_wide_as_they_are(self) -> None:
        failure = Failure("quelle", "0001", NOON, "銀行の残高が一致しません " * 30)
        found = replace(everything(), failures=[failure])
        for width in (30, 61, 80):
            assert lines(found, width, 60)

    def test_a_terminal_that_knows_ascii_only_gets_a_bar_of_it(self) -> None:
        drawn = lines(everything(), ascii_only=True)
        assert any("####----" in line for line in drawn)

    def test_colour_says_nothing_that_no_word_says(self) -> None:
        """Every style is on a text with letters, but for the bar, whose share stands beside it."""
        view = View("x", 2, NOON, everything(), NoAnswer(NOON, "away"))
        for line in screen(view, 100, 60):
            for span in line.spans:
                styled = line.plain[span.start : span.end]
                assert any(one.isalnum() for one in styled) or set(styled) <= set("━╌ "), styled


def test_a_bank_whose_days_never_got_as_far_as_a_row_is_shown() -> None:
    states: Sequence[int] = (0, 0, 2, 0)
    found = board(look(bank_days=[BankDaysState("scb_02", "SCB-02", states, NOON, 0, 0, 0)]), Paces())
    [bank] = found.banks
    assert (bank.state, dict(bank.days), bank.waiting, bank.last_answer_at) == (
        "failed",
        {"failed": 2},
        {},
        None,
    )
    assert "outbox: empty" in "\n".join(lines(found))
