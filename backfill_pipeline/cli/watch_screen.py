"""The screen of `backfill status --watch`, as lines.

Belongs here: what is written where, how much of it fits, and what is left out first. Pure: of the same board, the same
lines.
Does not: what is shown (`watch_board.py`), how one thing of it is told (`watch_lines.py`), the terminal (`watch.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from backfill_pipeline.cli.watch_board import Board
from backfill_pipeline.cli.watch_lines import (
    Columns,
    bank_lines,
    failure_lines,
    flow,
    folded,
    readable_size,
    source_lines,
    worded,
)
from backfill_pipeline.wording import counted, printable

_NAME_WIDTH_MAX: Final = 24
# Lines that a section keeps when there are too few for all of them.
_KEPT: Final = 2
_BANNER_LINES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The ledger cannot be looked at: since when, and why, in one sentence without a secret."""

    since: datetime
    why: str


@dataclass(frozen=True, slots=True)
class View:
    """What a screen is made of.

    Attributes:
        ledger: where it is, without a secret.
        interval_s: between two looks.
        now: by the clock of this machine.
        board: of the latest look; None before the first.
        no_answer: None while the ledger answers.
        ascii_only: the terminal has no other characters.
    """

    ledger: str
    interval_s: float
    now: datetime
    board: Board | None
    no_answer: NoAnswer | None = None
    ascii_only: bool = False


def screen(view: View, width: int, height: int) -> list[Text]:
    """The lines of the screen, none wider than `width` and no more than `height`."""
    brief_head = _head(view, width, brief=True)
    if view.board is None:
        return _clipped(brief_head, width)[:height]
    for is_brief in (False, True):
        head = _head(view, width, brief=is_brief)
        sections = _sections(view.board, width, view.ascii_only, brief=is_brief)
        lines = [*head, *_joined(sections, spaced=True)]
        if len(lines) > height and not is_brief:
            lines = _without_some_quiet(head, sections, view.board, len(lines) - height)
        if len(lines) <= height:
            return _clipped(lines, width)
    room = max(0, height - len(brief_head))
    return _clipped([*brief_head, *_joined(_cut(sections, room), spaced=False)], width)[:height]


@dataclass(frozen=True, slots=True)
class _Section:
    """Blocks of lines under a title; `more` says what the ones are that did not fit."""

    title: str
    blocks: Sequence[Sequence[Text]]
    more: Callable[[int], str]


def _joined(sections: Sequence[_Section], *, spaced: bool) -> list[Text]:
    lines: list[Text] = []
    for section in sections:
        if spaced:
            lines += [Text(), Text(section.title, "dim")]
        lines += [line for block in section.blocks for line in block]
    return lines


def _without_some_quiet(
    head: Sequence[Text], sections: Sequence[_Section], board: Board, too_many: int
) -> list[Text]:
    """The whole screen again with fewer of the sources that are done, which come last, if that is enough."""
    quiet = sum(one.is_quiet for one in board.sources)
    if quiet > too_many:
        first, *others = sections
        left = too_many + 1  # one more, whose line says how many there are
        more = [Text(first.more(left), "dim")]
        sections = [_Section(first.title, [*first.blocks[:-left], more], first.more), *others]
    return [*head, *_joined(sections, spaced=True)]


def _cut(sections: Sequence[_Section], room: int) -> list[_Section]:
    """The sections without titles in so many lines: each keeps its first ones, the earlier sections more of them."""
    lines = [sum(map(len, section.blocks)) for section in sections]
    given = [min(_KEPT, count) for count in lines]
    while sum(given) > room:  # the last sections go first
        given[max(index for index, count in enumerate(given) if count)] -= 1
    for index, count in enumerate(lines):
        given[index] += min(count - given[index], room - sum(given))
    return [
        section if count >= total else _shortened(section, count)
        for section, count, total in zip(sections, given, lines, strict=True)
    ]


def _shortened(section: _Section, count: int) -> _Section:
    if count == 0:
        return _Section(section.title, [], section.more)
    # A section that is cut has one block to a line.
    left = len(section.blocks) - (count - 1)
    return _Section(
        section.title, [*section.blocks[: count - 1], [Text(section.more(left), "dim")]], section.more
    )


def _sections(board: Board, width: int, ascii_only: bool, *, brief: bool) -> list[_Section]:
    sections = []
    shown = [
        *((one.source, one.state) for one in board.sources),
        *((one.source, one.state) for one in board.banks),
    ]
    columns = Columns(
        min(max((cell_len(printable(name)) for name, _ in shown), default=0), _NAME_WIDTH_MAX),
        max((len(state) for _, state in shown), default=0),
    )
    if board.sources:
        blocks = [source_lines(one, width, columns, ascii_only, brief=brief) for one in board.sources]
        sections.append(
            _Section("sources", blocks, lambda left: f"{counted(left, 'more source')}: backfill status")
        )
    if board.failures:
        more = board.failed - len(board.failures)
        title = "last failures" + (f", and {more:,} more: backfill status" if more else "")
        blocks = [failure_lines(one, width, brief=brief) for one in board.failures]
        hidden = more
        sections.append(
            _Section(
                title,
                blocks,
                lambda left: f"{counted(left + hidden, 'more failure')}: backfill status",
            )
        )
    if board.banks:
        blocks = [bank_lines(one, board.taken_at, width, columns, brief=brief) for one in board.banks]
        sections.append(
            _Section("banks", blocks, lambda left: f"{counted(left, 'more bank')}: backfill sync status")
        )
    return sections


# --- the head -----------------------------------------------------------------------------------------------------


def _head(view: View, width: int, *, brief: bool) -> list[Text]:
    title = Text("backfill status", "bold")
    how = Text(f"every {view.interval_s:g} s, Ctrl-C ends", "dim")
    lines = flow([title, Text(f"{view.now:%H:%M:%S} UTC"), how], width, indent=0)
    if not brief:
        lines.append(Text(view.ledger, "dim"))
    if view.no_answer is not None:
        banner = Text(
            f"NO ANSWER since {view.no_answer.since:%H:%M:%S} UTC: {printable(view.no_answer.why)}",
            "bold red",
        )
        lines += folded(banner, width, 1 if brief else _BANNER_LINES_MAX)
    if view.board is None:
        if view.no_answer is None:
            lines.append(Text("looking at the ledger"))
        return lines
    board = view.board
    if view.no_answer is not None:
        lines.append(Text(f"what follows is as of {board.taken_at:%H:%M:%S} UTC", "yellow"))
    facts = [Text.assemble("constraints ", worded(board.constraints))]
    if board.sources:
        facts.append(Text(counted(len(board.sources), "source")))
    if board.banks:
        facts.append(Text(counted(len(board.banks), "bank")))
    facts.append(Text(f"{board.running:,} running", "bold cyan" if board.running else ""))
    if board.failed:
        facts.append(Text(f"{board.failed:,} failed", "red"))
    facts.append(Text(f"database {readable_size(board.size_bytes)}", "dim"))
    if not board.sources and not board.banks:
        facts.append(Text("no source was run yet: backfill run SOURCE"))
    lines += flow(facts, width, indent=0)
    return lines


def _clipped(lines: Sequence[Text], width: int) -> list[Text]:
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return list(lines)
