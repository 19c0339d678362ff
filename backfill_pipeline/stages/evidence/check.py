"""Checking an evidence pack: without a database, and without trust in whoever made it.

Belongs here: files against the manifest, the manifest against its signature, the chains link by link, the counts.
Does not: making packs (`evidence.py`).

Hashes show that files belong together, a signature who put them together. That seals are those of the ledger shows only
where the last link of a chain was kept elsewhere, or by `backfill verify` on the ledger itself.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pydantic import BaseModel

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.evidence_tables import TABLES
from backfill_pipeline.schemas.spreadsheets import FORMULA
from backfill_pipeline.stages.evidence.format import COUNTS, FORMAT, MANIFEST, SIGNATURE, SUMMARY
from backfill_pipeline.stages.evidence.keys import fingerprint, is_signed, same_key

# What `spreadsheet_text` of the ledger put an apostrophe in front of.
_ESCAPED = re.compile(FORMULA.replace("^", "^'", 1))
_FIELD_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Checked:
    """What checking a pack found.

    Attributes:
        faults: everything that is not as it was written, in words; empty when all is.
        findings: what the pack itself says does not hold.
        signed_by: fingerprint of the key that its signature was made with; None when it has none, or a wrong one.
    """

    source_id: str
    manifest_sha256: str
    files: int
    faults: tuple[str, ...]
    findings: tuple[str, ...]
    signed_by: str | None


def check_pack(folder: Path, public_key: bytes | None = None) -> Checked:
    """Checks all of a pack.

    Args:
        folder: the pack.
        public_key: PEM bytes of the key that must have signed it; None takes whatever key is in the pack, which shows
            that nothing was changed by chance, not who signed.

    Raises:
        UsageError: the folder holds no pack, or one of another format.
    """
    manifest_bytes = _read(folder / MANIFEST, folder)
    try:
        manifest = _Manifest.model_validate_json(manifest_bytes)
    except ValueError:
        raise UsageError(f"{folder} holds no evidence pack: its {MANIFEST} is not one") from None
    if manifest.format != FORMAT:
        raise UsageError(
            f"{folder} is a pack of another format than {FORMAT}: check it with the release that made it"
        )
    faults = [*_file_faults(folder, manifest.files)]
    signed_by, signature_faults = _signature(folder, manifest_bytes, public_key)
    faults.extend(signature_faults)
    findings: tuple[str, ...] = ()
    if not faults:  # else nobody knows what their content is worth
        try:
            summary = _Summary.model_validate_json((folder / SUMMARY).read_bytes())
            findings = tuple(one.finding for one in summary.findings)
            faults.extend(_content_faults(folder, summary))
        except (OSError, ValueError, KeyError, csv.Error):
            faults.append("the files are those of the manifest, but not what a pack holds")
    return Checked(
        source_id=manifest.source_id,
        manifest_sha256=hashlib.sha256(manifest_bytes).hexdigest(),
        files=len(manifest.files),
        faults=tuple(faults),
        findings=findings,
        signed_by=signed_by,
    )


class _File(BaseModel):
    sha256: str
    bytes: int


class _Manifest(BaseModel):
    format: str
    source_id: str
    files: dict[str, _File]


class _Signature(BaseModel):
    public_key: str
    signature: str


class _Head(BaseModel):
    name: str
    number: int
    value: str


class _Finding(BaseModel):
    finding: str


class _Summary(BaseModel):
    # What is checked of it.
    counts: dict[str, int]
    findings: list[_Finding]
    chain_heads: list[_Head]
    audit_log_faults: list[dict[str, object]]


def _file_faults(folder: Path, files: Mapping[str, _File]) -> Iterator[str]:
    there = {file.name for file in folder.iterdir()} - {MANIFEST, SIGNATURE}
    for name in sorted({SUMMARY, *(f"{table}.csv" for table in TABLES)} - set(files)):
        yield f"{name} is not in the manifest"
    for name in sorted(there | set(files)):
        if name not in files:
            yield f"{name} does not belong to the pack"
        elif name not in there:
            yield f"{name} is missing"
        elif not _is_plain(folder / name):
            yield f"{name} is no plain file: a pack holds no links, folders or pipes"
        elif _digest(folder / name) != files[name].sha256:
            yield f"{name} was changed"


def _signature(folder: Path, manifest: bytes, public_key: bytes | None) -> tuple[str | None, list[str]]:
    path = folder / SIGNATURE
    if not os.path.lexists(path):
        return None, [] if public_key is None else ["the pack is not signed"]
    if not _is_plain(path):
        return None, [f"{SIGNATURE} holds no signature"]
    try:
        said = _Signature.model_validate_json(path.read_bytes())
        signature, own_key = bytes.fromhex(said.signature), said.public_key.encode()
    except (OSError, ValueError):
        return None, [f"{SIGNATURE} holds no signature"]
    if public_key is not None and not same_key(own_key, public_key):
        return None, ["the pack was signed with another key than the given one"]
    if not is_signed(manifest, signature, own_key):
        return None, [f"the signature does not fit {MANIFEST}"]
    return fingerprint(own_key), []


def _content_faults(folder: Path, summary: _Summary) -> Iterator[str]:
    counts = summary.counts
    if counts["read"] != sum(counts[name] for name in COUNTS[1:]) and not summary.findings:
        yield f"{SUMMARY}: the counts do not add up, and it does not say so"
    heads = {head.name: (head.number, head.value) for head in summary.chain_heads}
    if not summary.audit_log_faults:  # else it says itself that its log is not as it was written
        yield from _log_faults(folder, heads["audit_log"])
    yield from _seal_faults(folder, heads)


def _log_faults(folder: Path, head: tuple[int, str]) -> Iterator[str]:
    """The audit log's chain, computed anew from its rows."""
    number, previous = 0, ""
    for row in _rows(folder / "audit_log.csv"):
        number += 1
        if int(row["number"]) != number or row["row_hash"] not in _log_hashes(row, previous):
            yield f"audit_log.csv: row {row['number']} does not fit the chain"
            return
        previous = row["row_hash"]
    if (number, previous) != head:
        yield "audit_log.csv does not end where the log ended"


def _log_hashes(row: Mapping[str, str], previous: str) -> Iterator[str]:
    """What the row's hash may be: a CSV does not tell an empty text from none."""
    for reason, plan_hash in product(_texts(row["reason"]), _texts(row["plan_hash"])):
        text = ", ".join(
            (
                row["number"], _text(row["happened_at"]), _text(row["actor"]), _text(row["database_user"]),
                _text(row["action"]), _text(row["subject"]), reason, row["before"] or "null",
                row["after"] or "null", plan_hash, _text(previous),
            )
        )  # fmt: skip
        yield hashlib.sha256(f"[{text}]".encode()).hexdigest()


def _texts(value: str) -> tuple[str, ...]:
    return (_text(value),) if value else ("null", '""')


def _seal_faults(folder: Path, heads: Mapping[str, tuple[int, str]]) -> Iterator[str]:
    """The chains of seals, computed anew from their rows."""
    ends: dict[str, tuple[int, str]] = {}
    for row in _rows(folder / "seals.csv"):
        ledger_id = row["ledger_id"]
        number, previous = ends.get(ledger_id, (0, ""))
        text = ", ".join(
            (
                _text(ledger_id), row["number"], _text(row["kind"]), row["batch_id"] or "null",
                _text(row["month"] or None), row["entries"], _text(row["digest"]), _text(row["plan_hash"] or None),
                _text(row["sealed_at"]),
            )
        )  # fmt: skip
        seal = hashlib.sha256(bytes.fromhex(previous) + f"[{text}]".encode()).hexdigest()
        if int(row["number"]) != number + 1 or seal != row["seal"]:
            yield f"seals.csv: seal {row['number']} of {ledger_id} does not fit the chain"
            return
        ends[ledger_id] = (number + 1, seal)
    said = {
        name.removeprefix("seals of "): end for name, end in heads.items() if name.startswith("seals of ")
    }
    for ledger_id in sorted(said.keys() | ends.keys()):
        if said.get(ledger_id) != ends.get(ledger_id):
            yield f"seals.csv does not end where the seals of {ledger_id} ended"


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV; apostrophes that keep spreadsheets from running cells are taken away again."""
    usual = csv.field_size_limit(_FIELD_BYTES_MAX)  # of the whole process: others rely on the usual one
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if None in row or None in row.values():
                    raise csv.Error("a row has more or fewer fields than the header")
                yield {name: _ESCAPED.sub(r"\1", value) for name, value in row.items()}
    finally:
        csv.field_size_limit(usual)


def _text(value: str | None) -> str:
    """As PostgreSQL writes a text in JSON."""
    return json.dumps(value, ensure_ascii=False)


def _is_plain(path: Path) -> bool:
    """Whether it is a file of its own: a link shows what lies elsewhere and may change, a pipe never ends."""
    return stat.S_ISREG(path.lstat().st_mode)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _read(path: Path, folder: Path) -> bytes:
    try:
        if not _is_plain(path):
            raise UsageError(f"{folder} holds no evidence pack: its {MANIFEST} is no plain file")
        return path.read_bytes()
    except OSError:
        raise UsageError(f"{folder} holds no evidence pack: it has no {MANIFEST}") from None
