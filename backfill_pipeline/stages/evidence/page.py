"""The page of an evidence pack: what its files say, for people, in one HTML file that loads nothing.

Belongs here: words, tables and looks.
Does not: deciding anything; all it shows is in the summary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --good: #1a7f37; --bad: #c62828; --open: #b26a00; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { margin: .4rem 0; max-width: 48rem; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
.badge { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; color: #fff; font-weight: 600; }
.good { background: var(--good); } .bad { background: var(--bad); } .open { background: var(--open); }
.equation { font-size: 1.15rem; font-variant-numeric: tabular-nums; padding: .6rem .8rem; background: var(--soft);
            border-radius: .4rem; overflow-x: auto; white-space: nowrap; max-width: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
td.number, th.number { text-align: right; }
code { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
"""

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

Cells = Sequence[object]


def page(summary: Mapping[str, object], files: Mapping[str, Mapping[str, object]]) -> str:
    """The page of a pack.

    Args:
        summary: what `summary.json` holds.
        files: name → sha256 and bytes of the other files.
    """
    source = _mapping(summary["source"])
    parts = [
        f"<h1>Evidence of {_text(source['id'])}</h1>",
        f"<p>{_text(source['description'])}</p>" if source["description"] else "",
        _verdict(summary),
        _section("What was read", _source(summary)),
        _section("Nothing lost", _equation(summary)),
        _section("What is in the ledger", _totals(summary)),
        _section("Compared with the source", _reconciliation(summary)),
        _section("Rejected rows", _rejects(summary)),
        _section("Seals and decisions", _seals(summary)),
        _section("Made by", _versions(summary)),
        _section("Files of this pack", _file_table(files)),
        _section("Checking this pack", _checking()),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evidence of {_text(source['id'])}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _verdict(summary: Mapping[str, object]) -> str:
    findings = _rows(summary["findings"])
    if not findings:
        return '<p><span class="badge good">complete and proven</span></p>'
    broken = any(finding["break"] for finding in findings)
    badge = (
        '<span class="badge bad">does not hold</span>'
        if broken
        else '<span class="badge open">not complete</span>'
    )
    said = "".join(f"<li>{_text(finding['finding'])}</li>" for finding in findings)
    return f"<p>{badge}</p><ul>{said}</ul>"


def _source(summary: Mapping[str, object]) -> str:
    source, mapping = _mapping(summary["source"]), _mapping(summary["mapping"])
    return _table(
        (),
        [
            ("File", source["file_name"]),
            ("Rows", f"{source['rows']:,}"),
            ("Size", f"{source['size_bytes']:,} bytes"),
            ("SHA-256", _Code(source["sha256"])),
            ("Revision", f"{source['revision']}, registered {_moment(source['registered_at'])}"),
            ("Mapping", _Code(mapping["sha256"])),
            (
                "",
                "The definition in this pack is the one that was used."
                if mapping["unchanged"]
                else "The definition was changed since, and is not in this pack.",
            ),
        ],
    )


def _equation(summary: Mapping[str, object]) -> str:
    counts, partitions = _mapping(summary["counts"]), _mapping(summary["partitions"])
    names = [name for name in counts if name != "read"]
    said = " + ".join(f"{name} {counts[name]:,}" for name in names)
    return (
        f'<p class="equation">read {counts["read"]:,} = {_text(said)}</p>'
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
            _Number(f"{Decimal(str(row['amount'])):,f}"),
        )
        for row in _rows(summary["totals"])
    ]
    return _table(("Ledger", "Currency", "Kind", "Entries", "Amount"), rows) + (
        f"<p>Balance constraints: {_text(summary['balance_constraints'])}. Opening balances are entries too.</p>"
    )


def _reconciliation(summary: Mapping[str, object]) -> str:
    if summary["reconciliation"] is None:
        return "<p>It never was.</p>"
    found = _mapping(summary["reconciliation"])
    good = found["verdict"] == "match"
    later = " Something was posted or rolled back since." if found["ledger_changed_since"] else ""
    return (
        f'<p><span class="badge {"good" if good else "bad"}">{_text(found["verdict"])}</span></p>'
        f"<p>{found['entries_compared']:,} entries in every field, and every balance with its entries, without"
        f" tolerance: {found['break_count']:,} breaks, {_moment(found['reconciled_at'])}.{later}</p>"
    )


def _rejects(summary: Mapping[str, object]) -> str:
    codes = _mapping(summary["rejects_by_code"])
    repaired = summary["rejects_repaired"]
    table = _table(("Code", "Rows"), list(codes.items())) if codes else "<p>None.</p>"
    return table + (f"<p>Repaired and in the ledger: {repaired:,}.</p>" if repaired else "")


def _seals(summary: Mapping[str, object]) -> str:
    seals = _mapping(summary["seals"])
    heads = [(row["name"], row["number"], _Code(row["value"])) for row in _rows(summary["chain_heads"])]
    return (
        f"<p>Batches with entries: {seals['batches']:,}, sealed: {seals['sealed']:,}, finally: {seals['final']:,};"
        f" rolled back: {seals['rolled_back']:,}. Four eyes: {'on' if summary['four_eyes'] else 'off'}.</p>"
        f"{_verification(summary)}<p>The last links of the chains. Who keeps them can tell later whether anything"
        " before them was rewritten.</p>" + _table(("Chain", "Links", "Last"), heads) + _decisions(summary)
    )


def _decisions(summary: Mapping[str, object]) -> str:
    rows = _mapping(summary["rows"])
    names = ("corrections", "rollbacks", "approvals", "periods")
    return "<p>Who decided what: " + ", ".join(f"{_text(name)} {rows[name]:,}" for name in names) + ".</p>"


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
    return said + (_table(header, touched) if touched else "")


def _versions(summary: Mapping[str, object]) -> str:
    return _table((), list(_mapping(summary["versions"]).items()))


def _file_table(files: Mapping[str, Mapping[str, object]]) -> str:
    rows = [
        (_Link(name), _FILES.get(name, ""), facts["bytes"], _Code(facts["sha256"]))
        for name, facts in files.items()
    ]
    return _table(("File", "Holds", "Bytes", "SHA-256"), rows)


def _checking() -> str:
    return (
        "<p><code>backfill evidence verify FOLDER</code> says whether every file is as it was written, whether the"
        " chains of the seals and of the audit log hold, and whether the counts add up. With"
        " <code>--public-key FILE</code> it also says whether the pack was signed by the holder of that key. No"
        " database is needed for it.</p>"
        "<p>By hand: <code>manifest.json</code> holds the SHA-256 of every file, this one included, and"
        " <code>signature.json</code>, where there is one, an Ed25519 signature of its bytes.</p>"
    )


class _Code(str):
    """A hash, in a fixed width."""

    __slots__ = ()

    def __new__(cls, value: object) -> _Code:
        return super().__new__(cls, value)


class _Link(str):
    """A file of the pack."""

    __slots__ = ()


class _Number(str):
    """An exact number as text."""

    __slots__ = ()

    def __new__(cls, value: object) -> _Number:
        return super().__new__(cls, value)


def _section(title: str, content: str) -> str:
    return f"<h2>{_text(title)}</h2>\n{content}"


def _table(header: Sequence[str], rows: Iterable[Cells]) -> str:
    listed = list(rows)
    if not listed:
        return "<p>None.</p>"
    numbers = [isinstance(cell, int | _Number) for cell in listed[0]]
    head = "".join(
        f"<th{' class=number' if number else ''}>{_text(name)}</th>"
        for name, number in zip(header, numbers, strict=False)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in listed)
    above = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="wide"><table>{above}<tbody>{body}</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, _Code):
        return f"<td><code>{_text(value)}</code></td>"
    if isinstance(value, _Link):
        return f'<td><a href="{_text(value)}">{_text(value)}</a></td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td{' class=number' if isinstance(value, _Number) else ''}>{_text(value)}</td>"


def _moment(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else _text(value)


def _text(value: object) -> str:
    return "" if value is None else escape(str(value))


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value


def _rows(value: object) -> Sequence[Mapping[str, object]]:
    assert isinstance(value, Sequence)
    return value
