"""The page of a report: its head, its sections in order, and the way around them.

Belongs here: putting the page together.
Does not: reading (`facts.py`), judging (`outcome.py`), what sections hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from backfill_pipeline.pages.parts import badge, document, moment, section, text
from backfill_pipeline.reporting.report import bank_sections, flow, inline_plots, records, sections
from backfill_pipeline.reporting.report.facts import Facts
from backfill_pipeline.reporting.report.outcome import Level, Outcome

GENERATOR: Final = "backfill report"
"""By this, a file is known to be a report, which another one may replace."""

_BADGES: Final = {
    Level.GOOD: "good",
    Level.NOTED: "open",
    Level.OPEN: "open",
    Level.FAILED: "bad",
    Level.BROKEN: "bad",
}
_STYLE: Final = (
    """
.outcome { font-size: 1.1rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none; max-width: none; }
@media print { nav { display: none; } }
"""
    + flow.STYLE
    + inline_plots.STYLE
    + sections.STYLE
)


def page(facts: Facts, outcome: Outcome, *, samples: int) -> str:
    """The page as HTML: the same facts are the same bytes.

    Args:
        facts: all that it shows.
        outcome: of these facts.
        samples: rejected rows of each code that were asked for.
    """
    named = {name: (title, content) for name, title, content in _sections(facts, samples)}
    links = "".join(f'<li><a href="#{name}">{text(title)}</a></li>' for name, (title, _) in named.items())
    body = "\n".join(section(title, content, name=name) for name, (title, content) in named.items())
    return document(
        f"{facts.source_id}: {outcome.word}",
        f'<header>\n<h1>{text(_title(facts))}</h1>\n{_head(facts, outcome)}</header>\n<nav aria-label="Sections">'
        f"<ul>{links}</ul></nav>\n<main>\n{body}\n</main>",
        style=_STYLE,
        generator=GENERATOR,
    )


def _title(facts: Facts) -> str:
    if facts.bank is None:
        return f"Backfill of {facts.source_id}"
    bank, _, day = facts.source_id.partition("@")
    return f"Sync of {bank}, {day}" if day else f"Sync of {bank}"


def _head(facts: Facts, outcome: Outcome) -> str:
    findings = "".join(
        f"<li>{text(one.text)}: <span class=muted>{text(one.remedy)}</span></li>" for one in outcome.findings
    )
    about = text(" ".join(facts.description.split()))
    verdict = badge(_BADGES[outcome.level], outcome.word)
    return (
        (f"<p>{about}</p>\n" if about else "")
        + f'<p class="outcome" id="outcome">{verdict} {text(outcome.sentence)}</p>\n'
        + (f'<ul id="findings">{findings}</ul>\n' if findings else "")
        + f'<p class="muted">As of {moment(facts.read_at)}.</p>\n'
    )


def _sections(facts: Facts, samples: int) -> Iterator[tuple[str, str, str]]:
    yield "flow", "What became of every row", sections.flow(facts)
    if facts.bank is not None:
        if facts.registration is None:
            yield "days", "Days", bank_sections.days(facts.bank)
            yield "told", "What the bank was told", bank_sections.told(facts.bank)
        elif facts.bank.days:
            yield "compared", "Both ledgers", bank_sections.day_compared(facts.bank.days[0], facts.source_id)
    yield "speed", "How fast, and when", sections.speed(facts)
    yield "rejects", "Rejected rows", sections.rejects(facts, samples_asked=samples)
    yield "balances", "Balances and breaks", sections.balances(facts)
    if facts.registration is not None:
        yield "partitions", "Partitions", sections.partitions(facts)
    yield "fingerprints", "Fingerprints and seals", records.fingerprints(facts)
    yield "decisions", "Rollbacks and corrections", records.decisions(facts)
    yield "made-by", "Made by", records.made_by(facts)
