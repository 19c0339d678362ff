"""Lines of the screen of `backfill status --watch`: one source, one bank, one failure.

Belongs here: how each is told in words, in as many lines as that takes or in one, and how text flows into lines.
Does not: which of them are on the screen (`watch_screen.py`).

Everything is told by a word; colour only repeats it. Texts of others are made harmless before they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.text import Text

from backfill_pipeline.cli.output import STATE_STYLES
from backfill_pipeline.cli.watch_board import BankBoard, Pace, SourceBoard
from backfill_pipeline.ledger.monitoring.live import Failure
from backfill_pipeline.wording import counted, printable

_STYLES: Final = {**STATE_STYLES, "running": "bold cyan", "stalled": "bold yellow", "IN_PROGRESS": "yellow"}
_INDENT: Final = 2
_BAR_WIDTH_MAX: Final = 40
_CODES_SHOWN: Final = 4
_GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class Columns:
    """How wide the names and the states of sources and banks are."""

    name: int
    state: int


def source_lines(
    source: SourceBoard, width: int, columns: Columns, ascii_only: bool, *, brief: bool
) -> list[Text]:
    """A source: one line when it is to be brief, and for one that is done."""
    pace, wrong = source.pace, _wrong(source.unaccounted)
    share = _share(source.decided, source.rows)
    name = _name(source.source, source.state, columns)
    if brief or source.is_quiet:
        items = [
            name,
            *wrong,
            Text(share),
            *([Text(_rate(pace.rows_per_s)), Text(_left(source))] if source.is_running else []),
            *_troubles(source.partitions),
            *([Text(f"{sum(source.rejects.values()):,} rejected", "yellow")] if source.rejects else []),
            worded(source.verdict),
        ]
        return [Text(_GAP).join(items)]
    count = f"{source.decided:,} of {counted(source.rows, 'row')}"
    head = Text.assemble(name, _GAP)
    bar_width = min(_BAR_WIDTH_MAX, width - head.cell_len - len(share) - len(count) - 2 * len(_GAP))
    bar = [_bar(source.decided, source.rows, bar_width, ascii_only), Text(_GAP)] if bar_width >= 8 else []
    lines = [Text.assemble(head, *bar, f"{share}{_GAP}{count}")]
    lines += flow(wrong, width)
    if source.is_running:
        items = [Text(_rate_now(pace))]
        if pace.run_rows_per_s is not None:
            items.append(Text(f"{_rate(pace.run_rows_per_s)} this run"))
        lines += flow([*items, Text(_left(source))], width)
    parts = [Text.assemble(f"{number:,} ", worded(name)) for name, number in source.partitions.items()]
    lines += flow(
        [
            *_labelled("partitions: ", [Text(", ").join(parts)] if parts else []),
            Text.assemble("reconciliation: ", worded(source.verdict)),
            *_rejects(source.rejects),
            *_next(source),
        ],
        width,
    )
    return lines


def bank_lines(bank: BankBoard, now: datetime, width: int, columns: Columns, *, brief: bool) -> list[Text]:
    """A bank, its days and its outbox; one line when it is to be brief."""
    days = Text(", ").join([Text.assemble(f"{count:,} ", worded(name)) for name, count in bank.days.items()])
    dead = bank.waiting.get("DEAD", 0)
    told = sum(count for status, count in bank.waiting.items() if status != "DEAD")
    wrong = _wrong(bank.unaccounted)
    head = _name(bank.source, bank.state, columns)
    outbox = []
    if told:
        age = "" if bank.oldest_s is None else f", the oldest for {_age(bank.oldest_s)}"
        outbox.append(Text(f"{told:,} waiting{age}"))
    if dead:
        outbox.append(Text(f"{dead:,} given up", "red"))
    if brief:
        items = [head, *wrong, Text.assemble("days: ", days), *_labelled("outbox: ", outbox)]
        return [Text(_GAP).join(items)]
    lines = flow([head, *wrong, Text.assemble("days: ", days)], width, indent=0)
    items = [Text(f"complete to {bank.complete_to:%Y-%m-%d %H:%M} UTC")]
    if bank.working_on is not None:
        items.append(Text(f"working on {bank.working_on}", "cyan"))
        items.append(Text(_rate_now(bank.pace)))
    if bank.breaks:
        items.append(Text(counted(bank.breaks, "break"), "red"))
    lines += flow([*items, *_rejects(bank.rejects)], width)
    items = _labelled("outbox: ", [Text(", ").join(outbox)] if outbox else [Text("empty")])
    if bank.left_alone is not None:
        items.append(Text(f"does not answer, {bank.left_alone}", "red"))
    if bank.last_answer_at is not None:
        age_s = max(0.0, (now - bank.last_answer_at).total_seconds())
        items.append(Text(f"last answer {_age(age_s)} ago"))
    return [*lines, *flow(items, width)]


def failure_lines(failure: Failure, width: int, *, brief: bool) -> list[Text]:
    """What failed, when and why, in two lines at most."""
    at = "" if failure.at is None else f"{failure.at:%m-%d %H:%M} "
    text = Text.assemble(
        (f"{printable(failure.source)} {printable(failure.part)}", "red"),
        f"{_GAP}{at}failed: {printable(failure.error)}",
    )
    return [text] if brief else folded(text, width, 2)


# --- pieces ---------------------------------------------------------------------------------------------------------


def _wrong(unaccounted: int) -> list[Text]:
    if not unaccounted:
        return []
    return [Text(f"{counted(unaccounted, 'row')} NOT ACCOUNTED FOR: backfill audit", "bold red")]


def _next(source: SourceBoard) -> list[Text]:
    """What somebody has to do for it to go on."""
    if source.state == "IN_PROGRESS":
        return [Text(f"no run is on it now: backfill resume {source.source}", "yellow")]
    if source.state in ("FAILED", "PAUSED"):
        return [Text(f"next: backfill resume {source.source}")]
    if source.verdict == "break":
        return [Text(f"next: backfill reconcile {source.source}")]
    return []


def _troubles(partitions: Mapping[str, int]) -> list[Text]:
    return [
        Text(f"{partitions[name]:,} {name}", _STYLES[name])
        for name in ("failed", "rolled back")
        if name in partitions
    ]


def _rejects(rejects: Mapping[str, int]) -> list[Text]:
    if not rejects:
        return []
    shown = [f"{count:,} {printable(code)}" for code, count in list(rejects.items())[:_CODES_SHOWN]]
    if left := sum(list(rejects.values())[_CODES_SHOWN:]):
        shown.append(f"{left:,} others")
    return [Text(f"rejected: {', '.join(shown)}", "yellow")]


def _left(source: SourceBoard) -> str:
    """How long it will take, as far as anybody can tell."""
    pace = source.pace
    if source.rows and source.decided >= source.rows:
        return "all rows decided"
    if source.state == "stalled" and pace.still_s is not None:
        return f"nothing decided for {_age(pace.still_s)}"
    return "ETA unknown" if pace.eta_s is None else f"ETA {_clock(pace.eta_s)}"


def _share(decided: int, rows: int) -> str:
    """Never 100 % before all of it is."""
    if not rows:
        return "no rows"
    return f"{decided * 1000 // rows / 10:.1f} %"


def _bar(decided: int, rows: int, width: int, ascii_only: bool) -> Text:
    done = width * decided // rows if rows else 0
    full, empty = ("#", "-") if ascii_only else ("━", "╌")
    return Text.assemble((full * done, "green"), (empty * (width - done), "dim"))


def _name(name: str, state: str, columns: Columns) -> Text:
    """A name and a state, below each other of all lines."""
    text = Text(printable(name), "bold")
    text.truncate(columns.name, overflow="ellipsis", pad=True)
    return Text.assemble(text, _GAP, worded(state), " " * (columns.state - len(state)))


def worded(word: str) -> Text:
    """A state in its colour."""
    return Text(word, _STYLES.get(word, ""))


def _rate(rows_per_s: float | None) -> str:
    return "rate unknown" if rows_per_s is None else f"{rows_per_s:,.0f} rows/s"


def _rate_now(pace: Pace) -> str:
    return _rate(pace.rows_per_s) + ("" if pace.rows_per_s is None else " now")


def _clock(seconds: float) -> str:
    """`0:01:30`; of days, `3 d 04:12`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24:,} d {hours % 24:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}"


def _age(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:,.0f} {name}"
    return f"{seconds:.0f} s"


def readable_size(size_bytes: int) -> str:
    """`433 MiB`."""
    size = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit != "GiB" else f"{size:,.1f} {unit}"
    return f"{size / 1024:,.1f} TiB"


def _labelled(label: str, items: Sequence[Text]) -> list[Text]:
    return [Text.assemble(label, items[0]), *items[1:]] if items else []


def flow(items: Iterable[Text], width: int, indent: int = _INDENT) -> list[Text]:
    """Items beside each other, as many as fit into a line."""
    lines: list[Text] = []
    for item in items:
        if lines and lines[-1].cell_len + len(_GAP) + item.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], _GAP, item)
        else:
            lines.append(Text.assemble(" " * indent, item))
    return lines


def folded(text: Text, width: int, lines_max: int) -> list[Text]:
    """A text over so many lines at most; what is left is cut."""
    lines: list[Text] = []
    rest = text
    while rest.cell_len > width and len(lines) < lines_max - 1:
        cut = _fits(rest, width)
        lines.append(rest[:cut])
        rest = Text.assemble(" " * _INDENT, rest[cut:])
    return [*lines, rest]


def _fits(text: Text, width: int) -> int:
    """How many characters of a text go into a line, to the last space if there is one."""
    count = len(text)
    while text[:count].cell_len > width:
        count -= max(1, (text[:count].cell_len - width) // 2)
    space = text.plain.rfind(" ", width // 2, count)
    return max(1, space + 1 if space > 0 else count)
