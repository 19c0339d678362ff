"""The evidence pack: all that shows what a source's backfill did, in one folder that needs nothing else to be read.

Belongs here: what goes before it, its files, the manifest, and putting the folder in its place.
Does not: the tables (`ledger/evidence.py`), the summary (`evidence_summary.py`), the page for people
(`evidence_page.py`), keys (`evidence_keys.py`), checking a pack (`evidence_check.py`).

The same ledger gives the same bytes: nothing in a pack tells when or where it was made. That is in the audit log.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import (
    audit_log,
    evidence,
    registrations,
)
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.evidence_tables import TABLES
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.stages.evidence.format import (
    DEFINITION,
    FORMAT,
    MANIFEST,
    PAGE,
    SIGNATURE,
    SUMMARY,
)
from backfill_pipeline.stages.evidence.keys import fingerprint, sign
from backfill_pipeline.stages.evidence.page import page
from backfill_pipeline.stages.evidence.summary import is_unchanged, summarise
from backfill_pipeline.stages.reconcile import reconcile
from backfill_pipeline.stages.verify import DefinitionOf, VerificationReport, verify
from backfill_pipeline.stages.work import Places, open_work


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack that was written.

    Attributes:
        path: its folder.
        manifest_sha256: names the pack as a whole.
        findings: what in it does not hold, in words; empty for a backfill that is complete and proven.
        broken: whether one of these is a break, not just something that is not done yet.
        signed_by: fingerprint of the public key; None when it is not signed.
    """

    path: Path
    source_id: str
    manifest_sha256: str
    findings: tuple[str, ...]
    broken: bool
    signed_by: str | None


def prove_and_write(
    connection: Connection,
    definition: SourceDefinition,
    places: Places,
    definition_of: DefinitionOf,
    out: Path,
    *,
    key: Ed25519PrivateKey | None,
    recorded: bool,
    actor: str,
    reason: str | None,
) -> Pack:
    """Reconciles a source, holds it against its seals, and writes what that shows; kept in the audit log.

    Args:
        connection: to the ledger, autocommit.
        definition: of the source.
        places: where its data is.
        definition_of: gives the definitions of other sources, to name an entry that was touched.
        out: the folder; not there yet, or empty.
        key: signs the manifest.
        recorded: take the latest reconciliation instead of comparing anew.
        actor: who does this, and `reason` why.
        reason: for the audit log.

    Raises:
        UsageError: the source was never registered, or the folder cannot take a pack.
        SourceChangedError: file or mapping changed since it was registered; a pack `recorded` can be written still.
    """
    refuse_taken(out)
    registration = registrations.load(connection, definition.id)
    if registration is None:
        raise UsageError(f"source {definition.id} was never run here: there is nothing to show")
    if not recorded:
        reconcile(open_work(definition, places, registration=registration))
    verification = verify(connection, places, definition_of, source_id=definition.id)

    def record(pack: Pack) -> None:
        audit_log.write(
            connection,
            actor=actor,
            action="evidence_packed",
            subject=definition.id,
            reason=reason,
            after={
                "manifest_sha256": pack.manifest_sha256,
                "signed_by": pack.signed_by,
                "findings": list(pack.findings),
            },
        )

    return write_pack(
        connection, definition, registration, out, key=key, verification=verification, record=record
    )


def write_pack(
    connection: Connection,
    definition: SourceDefinition,
    registration: Registration,
    out: Path,
    *,
    key: Ed25519PrivateKey | None = None,
    verification: VerificationReport | None = None,
    record: Callable[[Pack], None] = lambda _: None,
) -> Pack:
    """Writes the pack of a source into a new folder: whole, or not at all.

    Args:
        connection: to the ledger, autocommit.
        definition: of the source.
        registration: its current one.
        out: the folder; not there yet, or empty.
        key: signs the manifest.
        verification: the source's entries hashed anew and held against their seals; None when nobody did.
        record: is called in a transaction in which the pack comes into its place, to keep that it was made.

    Raises:
        UsageError: the folder holds something, or cannot be written.
    """
    with _new_folder(out) as folder:
        with evidence.snapshot(connection):
            rows = {}
            for name in TABLES:
                with (folder / f"{name}.csv").open("wb") as file:
                    rows[name] = evidence.write_table(connection, name, definition.id, file)
            summary = summarise(connection, definition, registration, verification)
        summary["rows"] = rows
        content = _definition(definition, registration)
        if content is not None:
            (folder / DEFINITION).write_bytes(content)
        (folder / SUMMARY).write_bytes(_json(summary))
        (folder / PAGE).write_text(page(summary, _digests(folder)), encoding="utf-8")
        manifest = _json({"format": FORMAT, "source_id": definition.id, "files": _digests(folder)})
        (folder / MANIFEST).write_bytes(manifest)
        signed_by = None if key is None else _sign(folder, manifest, key)
        findings = summary["findings"]
        assert isinstance(findings, list)
        pack = Pack(
            path=out,
            source_id=definition.id,
            manifest_sha256=hashlib.sha256(manifest).hexdigest(),
            findings=tuple(one["finding"] for one in findings),
            broken=any(one["break"] for one in findings),
            signed_by=signed_by,
        )
        with _in_place(folder, out), connection.transaction():
            record(pack)
            folder.rename(out)
    return pack


@contextmanager
def _in_place(folder: Path, out: Path) -> Iterator[None]:
    """Takes the pack back when the block fails after it was put in its place: no pack without its record."""
    try:
        yield
    except BaseException:
        if not folder.exists() and out.exists():
            out.rename(folder)
        raise


def refuse_taken(out: Path) -> None:
    """Says at once that a folder cannot take a pack.

    Raises:
        UsageError: it holds something, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already and not an empty folder: name a new one with --out")


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that the block renames to it; gone if it does not."""
    refuse_taken(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UsageError(f"cannot write into {out.parent}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _definition(definition: SourceDefinition, registration: Registration) -> bytes | None:
    """The source file that the entries were made by; None when it is another one by now."""
    return definition.path.read_bytes() if is_unchanged(definition, registration) else None


def _digests(folder: Path) -> dict[str, dict[str, object]]:
    """Of every file there, by name."""
    found: dict[str, dict[str, object]] = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        found[file.name] = {"sha256": digest, "bytes": file.stat().st_size}
    return found


def _sign(folder: Path, manifest: bytes, key: Ed25519PrivateKey) -> str:
    signature, public = sign(key, manifest)
    (folder / SIGNATURE).write_bytes(
        _json({"algorithm": "Ed25519", "public_key": public.decode(), "signature": signature.hex()})
    )
    return fingerprint(public)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n").encode()


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
