"""`backfill evidence SOURCE`, `evidence verify` and `evidence keygen`.

Belongs here: the commands, their text, JSON and exit codes.
Does not: what a pack holds (`stages/evidence/pack.py`), checking one (`stages/evidence/check.py`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.options import Actor, Json, Reason, Source

if TYPE_CHECKING:
    from typer._click.core import Context

    from backfill_pipeline.definition.models import SourceDefinition
    from backfill_pipeline.stages.evidence.pack import Pack


class _PackUnlessNamed(TyperGroup):
    """`evidence SOURCE` is short for `evidence pack SOURCE`."""

    default_command = "pack"

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Puts the command's name before what begins with no command."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


evidence_app = typer.Typer(
    cls=_PackUnlessNamed,
    no_args_is_help=True,
    help="Packs for auditors: evidence SOURCE --out DIR writes one, evidence verify DIR checks one.",
)


@evidence_app.command("pack")
def pack(
    source: Source,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write; not there yet, or empty.")],
    sign: Annotated[
        Path | None, typer.Option(metavar="KEYFILE", help="Sign it with this key, of evidence keygen.")
    ] = None,
    recorded: Annotated[
        bool,
        typer.Option(
            help="Take the latest reconciliation as recorded instead of comparing anew, for a source that is gone."
        ),
    ] = False,
    by: Actor = None,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Write all that shows what a backfill did: fingerprints, counts, totals, reconciliation, rejects, seals, and who.

    The source is reconciled and its seals are verified first. Exit codes: 0 complete and proven, 1 failed, 2 usage,
    3 something is not done yet, 4 something does not hold. With 3 and 4 the pack is written too, and says so.
    """
    from backfill_pipeline.cli.output import print_json
    from backfill_pipeline.cli.session import named_source
    from backfill_pipeline.stages.evidence.pack import refuse_taken

    definition = named_source(source)
    refuse_taken(out)
    written = _write(definition, out, sign, recorded=recorded, by=by, reason=reason)
    code = exit_code(written)
    if json:
        print_json({**asdict(written), "path": str(written.path), "findings": list(written.findings)})
    else:
        _print(written)
    raise typer.Exit(code)


@evidence_app.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The pack.")],
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The public key of whoever should have signed it."),
    ] = None,
    json: Json = False,
) -> None:
    """Check a pack: every file, the signature, the chains of the seals and of the audit log. Needs no database.

    Exit codes: 0 it is as it was written, 2 usage, 4 it is not.
    """
    from rich.markup import escape

    from backfill_pipeline.cli.output import console, print_json
    from backfill_pipeline.cli.tables import printable
    from backfill_pipeline.stages.evidence.check import check_pack
    from backfill_pipeline.stages.evidence.keys import read_public_key

    checked = check_pack(folder, None if public_key is None else read_public_key(public_key))
    if json:
        print_json({"verdict": "changed" if checked.faults else "as written", **asdict(checked)})
    else:
        verdict = "[red]changed[/red]" if checked.faults else "[green]as written[/green]"
        console.print(
            f"{verdict}  evidence of [bold]{escape(printable(checked.source_id))}[/bold], {checked.files} files,"
            f" manifest {checked.manifest_sha256}"
        )
        for fault in checked.faults:
            console.print(f"  {printable(fault)}", markup=False)
        if checked.signed_by is None:
            console.print("  not signed" if not checked.faults else "  no valid signature")
        else:
            whose = "the given key" if public_key is not None else "a key of which only this is known"
            console.print(f"  signed by {whose}: {checked.signed_by}", markup=False)
        for finding in checked.findings:
            console.print(f"  it says itself: {printable(finding)}", markup=False)
    raise typer.Exit(ExitCode.RECONCILIATION_BREAK if checked.faults else ExitCode.CLEAN)


@evidence_app.command("keygen")
def keygen(
    out: Annotated[
        Path, typer.Option(metavar="KEYFILE", help="The private key to write; the public one is KEYFILE.pub.")
    ],
    json: Json = False,
) -> None:
    """Make an Ed25519 key that signs packs; encrypted when BACKFILL_EVIDENCE_PASSPHRASE is set.

    Give KEYFILE.pub to whoever checks packs, and keep KEYFILE where only you can read it.
    """
    from backfill_pipeline.cli.output import console, print_json
    from backfill_pipeline.stages.evidence.keys import PUBLIC_SUFFIX, make_key

    name = make_key(out)
    public = f"{out}{PUBLIC_SUFFIX}"
    if json:
        print_json({"private_key": str(out), "public_key": public, "fingerprint": name})
    else:
        console.print(f"wrote {out} and {public}, fingerprint {name}", markup=False)


def exit_code(pack: Pack) -> ExitCode:
    """What a pack comes to."""
    if pack.broken:
        return ExitCode.RECONCILIATION_BREAK
    return ExitCode.REJECTS_OR_REFUSED if pack.findings else ExitCode.CLEAN


def _write(
    definition: SourceDefinition,
    out: Path,
    sign: Path | None,
    *,
    recorded: bool,
    by: str | None,
    reason: str | None,
) -> Pack:
    from backfill_pipeline.cli.banks import refuse_whole_banks
    from backfill_pipeline.cli.person import person
    from backfill_pipeline.cli.session import named_source, open_session
    from backfill_pipeline.stages.evidence.keys import read_private_key
    from backfill_pipeline.stages.evidence.pack import prove_and_write

    refuse_whole_banks(definition, "evidence")
    key = None if sign is None else read_private_key(sign)
    with open_session() as session:
        session.registration(definition.id)
        return prove_and_write(
            session.connection,
            definition,
            session.places,
            lambda name: named_source(name, register=False),
            out,
            key=key,
            recorded=recorded,
            actor=person(by),
            reason=reason,
        )


def _print(pack: Pack) -> None:
    from rich.markup import escape

    from backfill_pipeline.cli.output import console

    verdict = "[green]complete and proven[/green]"
    if pack.findings:
        verdict = "[red]does not hold[/red]" if pack.broken else "[yellow]not complete[/yellow]"
    console.print(f"{verdict}  evidence of [bold]{pack.source_id}[/bold] in {escape(str(pack.path))}")
    for finding in pack.findings:
        console.print(f"  {finding}", markup=False)
    console.print(f"  manifest {pack.manifest_sha256}")
    console.print(f"  {'not signed' if pack.signed_by is None else f'signed by {pack.signed_by}'}")
