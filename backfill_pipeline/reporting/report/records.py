"""The sections of a report that say what can be checked: fingerprints, seals, decisions, and what made the page.

Belongs here: their words and tables.
Does not: counts and volumes (`sections.py`).
"""

from __future__ import annotations

from backfill_pipeline.pages.parts import LONG, Code, Safe, moment, table, text
from backfill_pipeline.reporting.report.facts import Facts
from backfill_pipeline.wording import counted


def fingerprints(facts: Facts) -> str:
    """What was read, to the byte, and how far it is sealed."""
    said = ""
    found = facts.registration
    if found is not None:
        said += table(
            (),
            [
                ("File", found.file_name),
                ("Size", f"{found.size_bytes:,} bytes"),
                ("Rows", f"{found.row_count:,}"),
                ("SHA-256 of the source", Code(found.sha256)),
                ("SHA-256 of the mapping", Code(found.mapping_sha256)),
                ("Revision", f"{found.revision}, registered {moment(found.registered_at)}"),
                ("All posted", moment(found.completed_at) if found.completed_at else "not yet"),
            ],
            caption="The source as it is registered",
        )
    if len(facts.revisions) > 1:
        said += table(
            ("Revision", "File", "Rows", "Registered", "SHA-256"),
            [
                (one.revision, one.file_name, one.rows, moment(one.registered_at), Code(one.sha256))
                for one in facts.revisions
            ],
            caption="Every state in which the source was registered",
        )
    sealed = facts.sealed
    said += (
        f"<p>{counted(sealed.batches, 'batch', 'batches')} with entries, opening balances included: {sealed.sealed:,}"
        f" sealed, {sealed.final:,} of them finally.</p>"
    )
    heads = [(one.name, one.number, Code(one.value)) for one in facts.chain_heads]
    return said + table(
        ("Chain", "Links", "Last"),
        heads,
        caption="Last links: who keeps them can tell whether anything was rewritten",
    )


def decisions(facts: Facts) -> str:
    """Rollbacks and corrections."""
    count, latest = facts.rollbacks
    corrected, proposals = facts.corrections
    said = ""
    if latest:
        rows = [
            (
                one.id,
                " ".join(filter(None, (one.source_id.partition("@")[2], one.scope))) or "all of it",
                "reversed" if one.mode == "reverse" else "deleted",
                one.entries,
                one.actor,
                moment(one.rolled_back_at),
                Safe(text(one.reason, LONG)),
            )
            for one in latest
        ]
        header = ("Rollback", "Of", "Entries were", "Entries", "By", "When", "Why")
        said += table(header, rows, caption=_latest("Rollbacks", len(latest), count))
    if proposals:
        header = ("Correction", "Status", "What", "About", "Reason", "Proposed by", "Approved by")
        rows_of = [
            (
                one.id,
                one.status,
                one.kind.replace("_", " "),
                Safe(text(one.subject, LONG)),
                Safe(text(one.reason, LONG)),
                one.proposed_by,
                one.approved_by,
            )
            for one in proposals
        ]
        said += table(header, rows_of, caption=_latest("Corrections", len(proposals), corrected))
    return said or "<p>Nothing was rolled back, and no correction was proposed.</p>"


def _latest(what: str, shown: int, count: int) -> str:
    return what if shown == count else f"{what}: the latest {shown:,} of {count:,}"


def made_by(facts: Facts) -> str:
    """When the page was written, and by what."""
    return table(
        (),
        [
            ("Read at", moment(facts.read_at)),
            ("Ledger Backfill", facts.product_version),
            ("PostgreSQL", facts.server_version),
        ],
        caption="One snapshot of the ledger: no two figures of this page are of different moments",
    )
