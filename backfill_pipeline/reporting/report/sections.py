"""The sections of a report that every source has.

Belongs here: their words, tables and pictures.
Does not: the page around them (`page.py`), what only a bank has (`bank_sections.py`), judging (`outcome.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from backfill_pipeline.ledger.status import PartitionOutcome
from backfill_pipeline.pages.parts import LONG, Code, Number, Safe, amount, badge, moment, table, text
from backfill_pipeline.reporting.plots import daily_plot, throughput_plot
from backfill_pipeline.reporting.report.facts import Facts
from backfill_pipeline.reporting.report.flow import flow_picture
from backfill_pipeline.reporting.report.inline_plots import plot_figure
from backfill_pipeline.reporting.report.months import by_month_when_many
from backfill_pipeline.schemas.reject_hints import hint
from backfill_pipeline.wording import counted

PARTITIONS_MAX: Final = 5_000
"""Rows of a table of partitions; a row is about 150 bytes."""

_BREAKS_MAX: Final = 100

STYLE: Final = """
.share-bar { display: block; width: 6rem; height: .7rem; fill: var(--series-2); }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--link); }
"""


def flow(facts: Facts) -> str:
    """What became of every row."""
    counts = facts.counts
    names = ("posted", "duplicates", "conflicts", "rejected", "filtered")
    said = " + ".join(f"{name} {getattr(counts, name):,}" for name in names)
    parts = sum(counts.partitions.values())
    posted = counts.partitions.get("posted", 0)
    unfinished = ""
    if counts.not_posted:
        unfinished = (
            f"<p>{counted(counts.not_posted, 'row')} of the partitions that are not posted are not in the equation;"
            f" {counted(counts.in_progress, 'entry', 'entries')} of them are in the ledger already.</p>"
        )
    return (
        f'<p class="equation" id="equation">read {counts.read:,} = {said}</p>'
        f"{flow_picture(counts)}"
        f"<p>{posted:,} of {counted(parts, 'partition')} {'is' if parts == 1 else 'are'} posted.</p>{unfinished}"
    )


def speed(facts: Facts) -> str:
    """How fast it went, and when its entries happened."""
    batches = facts.batches
    if batches is None:
        return "<p>Nothing was posted.</p>"
    rate = batches.entries_per_s
    rows: list[tuple[object, ...]] = [
        ("First batch began", moment(batches.started_at)),
        ("Last batch was posted", moment(batches.ended_at)),
        ("Batches", batches.batches),
        ("Entries posted", batches.posted),
        (
            "Entries per second, from the first to the last",
            "too few batches to tell" if rate is None else f"{rate:,.0f}",
        ),
        ("Time of a batch, half of them at most", Number(f"{batches.p50_s:,.3f} s")),
        ("Time of a batch, 95 of 100 at most", Number(f"{batches.p95_s:,.3f} s")),
        ("Time of the slowest batch", Number(f"{batches.slowest_s:,.3f} s")),
    ]
    volumes, by_month = by_month_when_many(facts.volumes)
    plots = {
        "throughput": throughput_plot(facts.points, kind="svg"),
        "volume": daily_plot(volumes, kind="svg", period="month" if by_month else "day"),
    }
    drawn = "".join(plot_figure(plot, name) for name, plot in plots.items() if plot is not None)
    return table((), rows, caption="How fast it was posted") + drawn


def rejects(facts: Facts, *, samples_asked: int) -> str:
    """Rejected rows by code, with samples."""
    if not facts.codes:
        return "<p>None: no row was rejected.</p>"
    most = max(one.rejected for one in facts.codes)
    rows = [
        (Code(one.code), one.rejected, _bar(one.rejected, most), one.repaired, hint(one.code))
        for one in facts.codes
    ]
    header = ("Code", "Rows", "", "Repaired since", "What to do")
    by_code = table(header, rows, caption="Rows that are rejected now, by code; conflicts are among them")
    if not samples_asked:
        return by_code + "<p>This page was asked for without samples.</p>"
    return by_code + _samples(facts)


def _bar(rows: int, most: int) -> Safe:
    width = 100 * rows / most if most else 0
    return Safe(
        '<svg class="share-bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{max(width, 1 if rows else 0):.1f}" height="10"/></svg>'
    )


def _samples(facts: Facts) -> str:
    """Of the most frequent code first, each in source order."""
    order = {one.code: place for place, one in enumerate(facts.codes)}
    of_bank = facts.registration is None
    rows = [
        (
            Code(one.code),
            one.source_id.partition("@")[2] if of_bank else one.partition_key,
            one.source_line,
            one.field,
            Safe(text(one.reason, LONG)),
            Safe(f"<code>{text(one.raw, LONG)}</code>"),
        )
        for one in sorted(facts.samples, key=lambda one: order.get(one.code, len(order)))
    ]
    header = ("Code", "Day" if of_bank else "Partition", "Line", "Field", "Reason", "Record")
    if len(rows) == facts.rejected_now:
        return table(header, rows, caption="All rejected rows")
    return table(
        header,
        rows,
        caption=f"The first rows of each code: {len(rows):,} of {counted(facts.rejected_now, 'row')}",
    )


def balances(facts: Facts) -> str:
    """What the entries come to, and how the ledger compares with the source."""
    totals = [(one.currency_code, one.entries, amount(one.amount)) for one in facts.totals]
    said = table(
        ("Currency", "Entries", "Amount"),
        totals,
        caption="Entries of the source by currency, opening balances left out",
    )
    if facts.unbalanced:
        rows = [(code, amount(net)) for code, net in sorted(facts.unbalanced.items())]
        said += f"<p>{badge('bad', 'unbalanced')}</p>" + table(
            ("Currency", "Debits less credits"),
            rows,
            caption="What debits and credits of the whole ledger differ by",
        )
    else:
        said += "<p>Debits and credits of the whole ledger are equal in every currency.</p>"
    return said + _constraints(facts) + _compared(facts)


def _constraints(facts: Facts) -> str:
    said = f"<p>Balance constraints: {text(facts.constraints)}.</p>"
    found = facts.offenders
    if found is None or not found.offending:
        return said
    rows = [
        (
            one.account_id,
            one.currency_code,
            amount(one.balance),
            amount(one.available_balance),
            amount(one.reserved_balance),
        )
        for one in found.sample
    ]
    return said + table(
        ("Account", "Currency", "Balance", "Available", "Reserved"),
        rows,
        caption=f"Accounts against the balance constraints, the worst first: {len(rows):,} of {found.offending:,}",
    )


def _compared(facts: Facts) -> str:
    verdict = facts.verdict
    if verdict is None:
        return (
            "" if facts.registration is None else "<p>No comparison of the ledger with the source stands.</p>"
        )
    good = verdict.verdict == "match"
    later = " Something was posted, rolled back or replayed since." if facts.stale else ""
    said = (
        f"<p>{badge('good' if good else 'bad', verdict.verdict)} Compared with the source"
        f" {moment(verdict.reconciled_at)}: {counted(verdict.entries_compared, 'entry', 'entries')} in every field, and"
        f" every balance with its entries, without tolerance: {counted(verdict.break_count, 'break')}.{later}</p>"
    )
    return said + "".join(_breaks(verdict.details))


def _breaks(details: Mapping[str, object]) -> Iterator[str]:
    breaks, accounts = _listed(details.get("breaks")), _listed(details.get("account_breaks"))
    if breaks:
        header = ("Partition", "What", "Row", "Reference", "Field", "Source", "Ledger")
        names = ("partition_key", "kind", "source_row", "reference_id", "field", "expected", "actual")
        yield table(
            header,
            [_named(one, names) for one in breaks[:_BREAKS_MAX]],
            caption=f"The first {counted(min(len(breaks), _BREAKS_MAX), 'break')} between source and ledger",
        )
    if accounts:
        yield table(
            ("Account", "Currency", "What", "By its entries", "In the ledger"),
            [
                _named(one, ("account_id", "currency_code", "what", "expected", "actual"))
                for one in accounts[:_BREAKS_MAX]
            ],
            caption=f"The first {counted(min(len(accounts), _BREAKS_MAX), 'account')} whose balance is not that of its"
            " entries",
        )
    stated = details.get("stated_balances")
    if isinstance(stated, Mapping):
        yield f"<p>Balances that the source states: {text(stated.get('sentence'), LONG)}.</p>"


def _named(row: Mapping[str, object], names: Sequence[str]) -> tuple[object, ...]:
    return tuple(one if isinstance(one, int) else Safe(text(one, LONG)) for one in map(row.get, names))


def _listed(value: object) -> Sequence[Mapping[str, object]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def partitions(facts: Facts) -> str:
    """Every partition, those that need somebody first."""
    order = {"failed": 0, "rolled back": 1, "posting": 2, "validated": 3, "registered": 4}
    waiting = sorted(
        (one for one in facts.partitions if one.status != "posted"), key=lambda one: order.get(one.status, 9)
    )
    posted = [one for one in facts.partitions if one.status == "posted"]
    said = ""
    if waiting:
        header = ("Partition", "Status", "Rows", "Of these decided", "Error")
        rows = [
            (one.partition_key, one.status, one.read, one.processed, Safe(text(one.error, LONG)))
            for one in waiting[:PARTITIONS_MAX]
        ]
        said += table(header, rows, caption=_cut("Partitions that are not posted", len(waiting)))
    if posted:
        rows_of = table(
            ("Partition", "Read", "Posted", "Duplicates", "Conflicts", "Rejected", "Filtered", "Seconds"),
            [_posted(one) for one in posted[:PARTITIONS_MAX]],
            caption=_cut("Partitions that are posted", len(posted)),
        )
        summary = f"<summary>{counted(len(posted), 'posted partition')}</summary>"
        said += f"<details{'' if len(posted) > 20 else ' open'}>{summary}{rows_of}</details>"
    return said or "<p>None: the source has no rows.</p>"


def _posted(one: PartitionOutcome) -> tuple[object, ...]:
    return (
        one.partition_key,
        one.read,
        one.posted,
        one.duplicates,
        one.conflicts,
        one.rejected,
        one.filtered,
        Number(f"{one.seconds:,.2f}"),
    )


def _cut(caption: str, count: int) -> str:
    return caption if count <= PARTITIONS_MAX else f"{caption}: the first {PARTITIONS_MAX:,} of {count:,}"
