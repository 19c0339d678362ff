"""The commands of an auditor: `audit`, `statement`, `audit-log`, `four-eyes`, `approvals`.

Belongs here: their names, arguments and help.
Does not: what they do (`audit.py`, `statement.py`, `audit_log.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from backfill_pipeline.cli.options import Actor, Json, Reason

audit_app = typer.Typer()


class _ListByDefault(typer.core.TyperGroup):
    """A group with a command that is meant when none is named: `audit-log mybank` is `audit-log list mybank`."""

    default_command = "list"

    # The base class's own type of a context is private to typer; this one is what a group is given.
    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Puts the name of that command before what is not a command's name."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


log_app = typer.Typer(
    cls=_ListByDefault, help="Who decided what about the ledger, and whether that was changed since."
)
four_eyes_app = typer.Typer(
    no_args_is_help=True, help="Whether what one person asks for has to be confirmed by another one."
)
approvals_app = typer.Typer(
    cls=_ListByDefault, help="What one person asked for and another one has yet to confirm."
)
audit_app.add_typer(log_app, name="audit-log")
audit_app.add_typer(four_eyes_app, name="four-eyes")
audit_app.add_typer(approvals_app, name="approvals")


@audit_app.command()
def audit(json: Json = False) -> None:
    """Hold the ledger against itself: schema, references, balances and legs, batches, history. Changes nothing.

    Exit codes: 0 nothing is wrong, 1 a check could not be made, 3 somebody should look, 4 the ledger is broken.
    """
    from backfill_pipeline.cli.audit import show_audit

    raise typer.Exit(show_audit(as_json=json))


@audit_app.command()
def statement(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
    since: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DATE", help="The first day, in UTC, or a moment; by default all history."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DATE",
            help="The last day, in UTC, itself included, or the moment before which it ends.",
        ),
    ] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, safe to open in a spreadsheet.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many legs as text.")] = 200,
) -> None:
    """Show an account's opening balance, every leg with the balance after it, and its closing balance.

    By event time, in UTC: an entry that was posted late stands where it happened.
    """
    from backfill_pipeline.cli.statement import show_statement

    show_statement(account, since, until, as_json=json, as_csv=csv, limit=limit)


@log_app.command("list")
def log_list(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="SUBJECT", help="Only what was done to this: a source, a ledger and its month, …"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows, the latest.")] = 50,
    json: Json = False,
) -> None:
    """List what was decided: when, by whom, what, to what, why. What is meant when only a subject is given."""
    from backfill_pipeline.cli.audit_log import list_log

    list_log(subject, limit, as_json=json)


@log_app.command("verify")
def log_verify(json: Json = False) -> None:
    """Compute the chain of hashes again: rows that were edited or removed are named, with exit code 4."""
    from backfill_pipeline.cli.audit_log import verify_log

    raise typer.Exit(verify_log(as_json=json))


@four_eyes_app.command("show")
def four_eyes_show(json: Json = False) -> None:
    """Say whether it is on."""
    from backfill_pipeline.cli.audit_log import show_four_eyes

    show_four_eyes(as_json=json)


@four_eyes_app.command("on")
def four_eyes_on(by: Actor = None, reason: Reason = None, json: Json = False) -> None:
    """Switch it on."""
    from backfill_pipeline.cli.audit_log import set_four_eyes

    raise typer.Exit(set_four_eyes(True, by, reason, as_json=json))


@four_eyes_app.command("off")
def four_eyes_off(by: Actor = None, reason: Reason = None, json: Json = False) -> None:
    """Switch it off, which takes two people: the first one asks for it (exit code 3), another one asks for the same."""
    from backfill_pipeline.cli.audit_log import set_four_eyes

    raise typer.Exit(set_four_eyes(False, by, reason, as_json=json))


@approvals_app.command("list")
def approvals_list(json: Json = False) -> None:
    """List what waits for another person, who confirms by asking for the same. What is meant when nothing is given."""
    from backfill_pipeline.cli.audit_log import show_approvals

    show_approvals(as_json=json)


@approvals_app.command("withdraw")
def approvals_withdraw(
    request: Annotated[int, typer.Argument(metavar="ID", min=1, help="The request's number, as listed.")],
    by: Actor = None,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Take back a request of your own, so that nobody can confirm it any more.

    Exit codes: 0 withdrawn, 1 confirmed already, 2 no such request, 3 it is another person's.
    """
    from backfill_pipeline.cli.audit_log import withdraw_request

    raise typer.Exit(withdraw_request(request, by, reason, as_json=json))
