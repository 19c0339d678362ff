"""The page of an evidence pack: what its files say, for people, in one HTML file that loads nothing.

Belongs here: its words and tables.
Does not: looks and HTML (`pages/`), deciding anything; all it shows is in the summary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from backfill_pipeline.pages.parts import (
    Code,
    Link,
    amount,
    badge,
    document,
    moment,
    section,
    table,
    text,
)

# What each file holds, for those who open it.
_FILES: Final = {
    "accounts.csv": "Every account that the source moved: what moved it, and its balance now",
    "approvals.csv": "What one person asked for and another one confirmed",
    "audit_log.csv": "Who decided what, when and why; each row holds the hash of the one before it",
    "bank_days.csv": "Of a day of a central bank: the totals that proved it complete, and what the bank knows of it",
    "batches.csv": "Every transaction of posting with its counts, those that were rolled back too",
    "corrections.csv": "Corrections: what was wrong, who proposed and who approved, and the entries",
    "definition.yaml": "The source definition that the entries were made by",
    "files.csv": "The files of a source of several",
    "migrations.csv": "The schema of the ledger: its migrations with their checksums",
    "partitions.csv": "The parts of the source: where each one lies, its hash, and what became of its rows",
    "periods.csv": "Months that are closed",
    "reconciliations.csv": "Every comparison of the source with the ledger, with its first breaks",
    "rejects.csv": "Every row that was refused: place, reason, the record as it was, and how it stands now",
    "replays.csv": "Rejects that were repaired and sent again: what was sent, by whom, and how it ended",
    "revisions.csv": "Every state in which the source was registered, with its fingerprints",
    "rollbacks.csv": "What was taken back, by which plan, and the proof that went with it",
    "seals.csv": "The seals of the ledgers: each holds the one before it",
    "summary.json": "What this page shows, for programs",
    "totals.csv": "Entries and amounts by ledger, currency and revision",
}


def page(summary: Mapping[str, object], files: Mapping[str, Mapping[str, object]]) -> str:
    """The page of a pack.

    Args:
        summary: what `summary.json` holds.
        files: name → sha256 and bytes of the other files.
    """
    source = _mapping(summary["source"])
    parts = [
        f"<h1>Evidence of {text(source['id'])}</h1>",
        f"<p>{text(source['description'])}</p>" if source["description"] else "",
        _verdict(summary),
        section("What was read", _source(summary)),
        section("Nothing lost", _equation(summary)),
        section("What is in the ledger", _totals(summary)),
        section("Compared with the source", _reconciliation(summary)),
        section("Rejected rows", _rejects(summary)),
        section("Seals and decisions", _seals(summary)),
        section("Made by", _versions(summary)),
        section("Files of this pack", _file_table(files)),
        section("Checking this pack", _checking()),
    ]
    return document(
        f"Evidence of {source['id']}", "<main>\n" + "\n".join(part for part in parts if part) + "\n</main>"
    )


def _verdict(summary: Mapping[str, object]) -> str:
    findings = _rows(summary["findings"])
    if not findings:
        return f"<p>{badge('good', 'complete and proven')}</p>"
    broken = any(finding["break"] for finding in findings)
    said = "".join(f"<li>{text(finding['finding'])}</li>" for finding in findings)
    return (
        f"<p>{badge('bad', 'does not hold') if broken else badge('open', 'not complete')}</p><ul>{said}</ul>"
    )


def _source(summary: Mapping[str, object]) -> str:
    source, mapping = _mapping(summary["source"]), _mapping(summary["mapping"])
    return table(
        (),
        [
            ("File", source["file_name"]),
            ("Rows", f"{source['rows']:,}"),
            ("Size", f"{source['size_bytes']:,} bytes"),
            ("SHA-256", Code(source["sha256"])),
            ("Revision", f"{source['revision']}, registered {moment(source['registered_at'])}"),
            ("Mapping", Code(mapping["sha256"])),
            (
                "Definition",
                "The definition in this pack is the one that was used."
                if mapping["unchanged"]
                else "The definition was changed since, and is not in this pack.",
            ),
        ],
        caption="The source and the mapping that it was read with",
    )


def _equation(summary: Mapping[str, object]) -> str:
    counts, partitions = _mapping(summary["counts"]), _mapping(summary["partitions"])
    names = [name for name in counts if name != "read"]
    said = " + ".join(f"{name} {counts[name]:,}" for name in names)
    return (
        f'<p class="equation">read {counts["read"]:,} = {text(said)}</p>'
        f"<p>{partitions['posted']:,} of {partitions['all']:,} partitions are posted; one by one in"
        ' <a href="partitions.csv">partitions.csv</a>.</p>'
    )


def _totals(summary: Mapping[str, object]) -> str:
    rows = [
        (
            row["ledger_id"],
            row["currency_code"],
            row["kind"],
            row["entries"],
            amount(Decimal(str(row["amount"]))),
        )
        for row in _rows(summary["totals"])
    ]
    header = ("Ledger", "Currency", "Kind", "Entries", "Amount")
    return table(header, rows, caption="Entries by ledger, currency and kind") + (
        f"<p>Balance constraints: {text(summary['balance_constraints'])}. Opening balances are entries too.</p>"
    )


def _reconciliation(summary: Mapping[str, object]) -> str:
    if summary["reconciliation"] is None:
        return "<p>It never was.</p>"
    found = _mapping(summary["reconciliation"])
    good = found["verdict"] == "match"
    later = " Something was posted or rolled back since." if found["ledger_changed_since"] else ""
    return (
        f"<p>{badge('good' if good else 'bad', str(found['verdict']))}</p>"
        f"<p>{found['entries_compared']:,} entries in every field, and every balance with its entries, without"
        f" tolerance: {found['break_count']:,} breaks, {moment(found['reconciled_at'])}.{later}</p>"
    )


def _rejects(summary: Mapping[str, object]) -> str:
    codes = _mapping(summary["rejects_by_code"])
    repaired = summary["rejects_repaired"]
    by_code = table(("Code", "Rows"), list(codes.items()), caption="Rows that are rejected now, by code")
    return by_code + (f"<p>Repaired and in the ledger: {repaired:,}.</p>" if repaired else "")


def _seals(summary: Mapping[str, object]) -> str:
    seals = _mapping(summary["seals"])
    heads = [(row["name"], row["number"], Code(row["value"])) for row in _rows(summary["chain_heads"])]
    return (
        f"<p>Batches with entries: {seals['batches']:,}, sealed: {seals['sealed']:,}, finally: {seals['final']:,};"
        f" rolled back: {seals['rolled_back']:,}. Four eyes: {'on' if summary['four_eyes'] else 'off'}.</p>"
        f"{_verification(summary)}<p>The last links of the chains. Who keeps them can tell later whether anything"
        " before them was rewritten.</p>"
        + table(("Chain", "Links", "Last"), heads, caption="Heads of the chains")
        + _decisions(summary)
    )


def _decisions(summary: Mapping[str, object]) -> str:
    rows = _mapping(summary["rows"])
    names = ("corrections", "rollbacks", "approvals", "periods")
    return "<p>Who decided what: " + ", ".join(f"{text(name)} {rows[name]:,}" for name in names) + ".</p>"


def _verification(summary: Mapping[str, object]) -> str:
    if summary["verification"] is None:
        return "<p>The sealed entries were not hashed anew for this pack.</p>"
    found = _mapping(summary["verification"])
    touched = [
        (row["subject"], row["sealed"], row["found"], row["break_count"]) for row in _rows(found["touched"])
    ]
    said = (
        f"<p>Hashed anew for this pack: {found['entries']:,} entries under {found['seals']:,} seals,"
        f" {len(touched):,} of them touched.</p>"
    )
    header = ("Not as it was sealed", "Entries sealed", "found", "Differences named")
    return said + (table(header, touched, caption="What was touched") if touched else "")


def _versions(summary: Mapping[str, object]) -> str:
    return table((), list(_mapping(summary["versions"]).items()), caption="Versions of what made this pack")


def _file_table(files: Mapping[str, Mapping[str, object]]) -> str:
    rows = [
        (Link(name), _FILES.get(name, ""), facts["bytes"], Code(facts["sha256"]))
        for name, facts in files.items()
    ]
    return table(("File", "Holds", "Bytes", "SHA-256"), rows, caption="Files of this pack")


def _checking() -> str:
    return (
        "<p><code>backfill evidence verify FOLDER</code> says whether every file is as it was written, whether the"
        " chains of the seals and of the audit log hold, and whether the counts add up. With"
        " <code>--public-key FILE</code> it also says whether the pack was signed by the holder of that key. No"
        " database is needed for it.</p>"
        "<p>By hand: <code>manifest.json</code> holds the SHA-256 of every file, this one included, and"
        " <code>signature.json</code>, where there is one, an Ed25519 signature of its bytes.</p>"
    )


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value


def _rows(value: object) -> Sequence[Mapping[str, object]]:
    assert isinstance(value, Sequence)
    return value
