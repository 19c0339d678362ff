"""The report: results as Markdown tables and two plots, put into a page whose prose is kept.

Belongs here: choosing and wording what is shown. Nothing is typed: every number comes from the results.
Does not: measuring, promises (`targets.py`), drawing (`plot.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from backfill_pipeline.bench.figures import COPY, LATENCY, MAPPINGS, POSTING, RECONCILE, RESUMED, RUN
from backfill_pipeline.bench.plot import Bar, Line, bars, lines
from backfill_pipeline.bench.results import Results, SectionResult
from backfill_pipeline.bench.targets import Target, targets
from backfill_pipeline.errors import UsageError

BEGIN = "<!-- Written by `make bench` from here on; edits are lost. -->"
END = "<!-- Written by `make bench` up to here. -->"
RATES_FILE = "benchmark-rates.svg"
GROWTH_FILE = "benchmark-growth.svg"

_GROWTH_ROLES = ("small", "main", "large", "huge")
_GROWING = (COPY, POSTING, RUN, RECONCILE)


def check(document: Path) -> tuple[str, str]:
    """What a page holds before and after the report.

    Raises:
        UsageError: the page is missing or has no place for the report.
    """
    try:
        page = document.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{document} cannot be read ({error.strerror}): name a page that exists") from None
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(
            f"{document} has no place for the report: put {BEGIN} and {END} on lines of their own"
        )
    return before, after


def write(results: Results, document: Path, images: Path | None) -> None:
    """Replaces what is between the marks of a page by this report, and the plots that it shows.

    Args:
        results: what was measured.
        document: a page with both marks.
        images: folder of the plots; the page's own by default.

    Raises:
        UsageError: as `check`.
    """
    before, after = check(document)
    images = document.parent if images is None else images
    images.mkdir(parents=True, exist_ok=True)
    shown = []
    for name, drawn in ((RATES_FILE, rates_plot(results)), (GROWTH_FILE, growth_plot(results))):
        if drawn is not None:
            title, svg = drawn
            (images / name).write_text(svg, encoding="utf-8")
            shown += [f"![{title}]({Path(os.path.relpath(images / name, document.parent)).as_posix()})", ""]
    text = "\n".join([before + BEGIN, "", *shown, markdown(results), "", END])
    document.write_text(text + after, encoding="utf-8")


def markdown(results: Results) -> str:
    """All tables."""
    parts = [
        _targets_table(results),
        *(_contenders_table(results, section) for section in _sections(results, ("main",))),
        _growth_table(results),
        _unkind_table(results),
        _latency_table(results),
        _machine_table(results),
    ]
    return "\n\n".join(part for part in parts if part)


# --- tables -----------------------------------------------------------------------------------------------------


def _targets_table(results: Results) -> str:
    rows = [
        (
            target.what,
            f"{target.sense} {_with_unit(target.bound, target)}",
            _with_unit(target.aim, target),
            "not measured" if target.measured is None else _with_unit(target.measured, target),
            {True: "yes", False: "**no**", None: ""}[target.holds],
        )
        for target in targets(results)
    ]
    return "### Targets\n\n" + _table(("what", "target", "aim", "measured", "holds"), "lrrrl", rows)


def _with_unit(value: float, target: Target) -> str:
    if target.unit == "MiB":
        return f"{value:,.0f} MiB"
    return f"{value:.2f}{f' {target.unit}' if target.unit else ''}"


def _contenders_table(results: Results, section: SectionResult) -> str:
    limit = section.rate(COPY)
    rows = []
    for name in section.rounds:
        rate, seconds = section.rate(name), section.values(name, "seconds")
        if rate is None:
            continue
        rows.append(
            (
                name,
                f"{section.median(name, 'entries') or 0:,.0f}",
                f"{section.median(name, 'seconds') or 0:.2f}",
                f"{min(seconds):.2f} to {max(seconds):.2f}",
                f"{rate:,.0f}",
                f"{rate / limit:.3f}" if limit and name not in MAPPINGS else "",
            )
        )
    if not rows:
        return ""
    table = _table(("contender", "entries", "seconds", "range", "entries/s", "÷ plain COPY"), "lrrrrr", rows)
    notes = [
        *_notes(section),
        *(f"- Not measured here: {name} ({why})." for name, why in results.skipped.items()),
    ]
    parts = [f"### All contenders\n\n{section.workload.title}", table, "\n".join(notes)]
    return "\n\n".join(part for part in parts if part)


def _notes(section: SectionResult) -> Iterator[str]:
    comparing, whole = section.median(RECONCILE, "comparing_s"), section.median(RECONCILE, "seconds")
    if comparing is not None:
        yield f"- Of the {whole:.2f} s of `backfill reconcile`, {comparing:.2f} s are the comparison itself."
    uninterrupted, resumed = section.median(RUN, "seconds"), section.median(RESUMED, "seconds")
    if uninterrupted and resumed:
        killed, rest = section.median(RESUMED, "killed_after_s"), section.median(RESUMED, "resume_s")
        yield (
            f"- Killed after {killed:.2f} s and resumed in {rest:.2f} s: together {resumed / uninterrupted:.2f} of the"
            " run that nobody disturbed, with nothing lost and nothing twice."
        )


def _growth_table(results: Results) -> str:
    sections = _sections(results, _GROWTH_ROLES)
    if len(sections) < 2:
        return _memory_note(sections)
    rows = []
    for section in sections:
        costs = (_cost_us(section, name) for name in _GROWING)
        rows.append(
            (
                f"{section.workload.entries:,}",
                *("" if cost is None else f"{cost:.1f}" for cost in costs),
                *(_mib(section, figure) for figure in ("process_peak_mib", "server_anonymous_peak_mib")),
                _mib(section, "server_shared_peak_mib"),
            )
        )
    head = (
        "entries",
        *(f"{name}, µs/entry" for name in _GROWING),
        "command, peak MiB",
        "its server, peak MiB",
        "shared memory, MiB",
    )
    return "### As work grows\n\n" + _table(head, "r" * len(head), rows)


def _memory_note(sections: Sequence[SectionResult]) -> str:
    found = [section for section in sections if section.median(RUN, "process_peak_mib") is not None]
    return "\n".join(
        f"Peak memory of `backfill run`: {_mib(section, 'process_peak_mib')} MiB; of its server's processes"
        f" {_mib(section, 'server_anonymous_peak_mib')} MiB of their own and"
        f" {_mib(section, 'server_shared_peak_mib')} MiB shared."
        for section in found
    )


def _unkind_table(results: Results) -> str:
    rows = []
    for section in _sections(results, ("skewed", "uuid")):
        limit, posting = section.rate(COPY), section.rate(POSTING)
        if limit and posting:
            rows.append(
                (section.workload.title, f"{limit:,.0f}", f"{posting:,.0f}", f"{posting / limit:.2f}")
            )
    if not rows:
        return ""
    head = ("data", "plain COPY, entries/s", "posting, entries/s", "posting ÷ plain COPY")
    return "### Unkind data\n\n" + _table(head, "lrrr", rows)


def _latency_table(results: Results) -> str:
    section = results.section("main")
    if section is None or LATENCY not in section.rounds:
        return ""
    rows = []
    for mode, meaning in (
        ("idle", "nothing else"),
        ("default", "a backfill with default settings"),
        ("online", "a backfill with `online: true`"),
    ):
        values = [section.median(LATENCY, f"{mode}_{point}_ms") for point in ("p50", "p99")]
        rate = section.median(LATENCY, f"{mode}_entries_per_s")
        rows.append(
            (
                meaning,
                *("" if value is None else f"{value:.1f}" for value in values),
                "" if rate is None else f"{rate:,.0f}",
            )
        )
    head = ("beside a live posting goes on", "median, ms", "99th percentile, ms", "its entries/s")
    return "### Live postings beside a backfill\n\n" + _table(head, "lrrr", rows)


def _machine_table(results: Results) -> str:
    rows = [("date", results.taken_on), *results.machine.items()]
    rows.append(("settings", ", ".join(f"{name} {value}" for name, value in results.settings.items())))
    return "### Measured on\n\n" + _table(("", ""), "ll", rows)


def _table(head: Sequence[str], alignment: str, rows: Iterable[Sequence[str]]) -> str:
    rule = "|".join({"l": "---", "r": "---:"}[letter] for letter in alignment)
    body = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([body[0], f"|{rule}|", *body[1:]])


# --- plots ------------------------------------------------------------------------------------------------------


def rates_plot(results: Results) -> tuple[str, str] | None:
    """Title and SVG of all contenders' rates at the main size; None when there are none."""
    section = results.section("main")
    values = []
    for name in section.rounds if section else ():
        rate = section.rate(name) if section else None
        if rate is not None and name not in MAPPINGS:
            values.append(Bar(name, rate, f"{rate:,.0f} /s", results.kind(name)))
    if section is None or not values:
        return None
    order = ("limit", "ours", "rival")
    values.sort(key=lambda bar: (order.index(bar.kind), -bar.value))
    title = f"Entries per second, {section.workload.title}"
    told = "; ".join(f"{bar.label} {bar.text}" for bar in values)
    return title, bars(title, f"Bars, longest first within limits, this product and others: {told}.", values)


def growth_plot(results: Results) -> tuple[str, str] | None:
    """Title and SVG of the cost of one entry as work grows; None when there is but one size."""
    sections = _sections(results, _GROWTH_ROLES)
    curves = []
    for name in _GROWING:
        costs = [(float(section.workload.entries), _cost_us(section, name)) for section in sections]
        points = tuple((entries, cost) for entries, cost in costs if cost is not None)
        if len(points) > 1:
            curves.append(Line(name, points, results.kind(name)))
    if not curves:
        return None
    title = "Microseconds per entry, by number of entries"
    told = "; ".join(
        f"{curve.label}: "
        + ", ".join(f"{cost:.1f} at {entries:,.0f} entries" for entries, cost in curve.points)
        for curve in curves
    )
    drawn = lines(
        title,
        f"Lines over logarithmic axes; a flat one means that cost does not grow. {told}.",
        curves,
        name_x=lambda entries: f"{entries:,.0f}",
        name_y=lambda cost: f"{cost:,.0f} µs" if cost >= 100 or cost == int(cost) else f"{cost:.1f} µs",
    )
    return title, drawn


def _sections(results: Results, roles: Sequence[str]) -> list[SectionResult]:
    found = [section for section in results.sections if section.workload.role in roles]
    return sorted(found, key=lambda section: roles.index(section.workload.role))


def _cost_us(section: SectionResult, contender: str) -> float | None:
    rate = section.rate(contender)
    return None if not rate else 1e6 / rate


def _mib(section: SectionResult, figure: str) -> str:
    value = section.median(RUN, figure)
    return "" if value is None else f"{value:,.0f}"
