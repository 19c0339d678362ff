"""The commands about constraints of the ledger: `backfill constraints`.

Belongs here: their names, arguments and help.
Does not: what they do (`constraints.py`).
"""

from __future__ import annotations

import typer

from backfill_pipeline.cli.options import Json

constraints_app = typer.Typer(
    no_args_is_help=True, help="Balance constraints and foreign keys of the ledger."
)


@constraints_app.command("apply")
def constraints_apply(json: Json = False) -> None:
    """Check all balances, then apply and probe the constraints in one transaction. Refused while accounts offend."""
    from backfill_pipeline.cli.constraints import apply_constraints

    raise typer.Exit(apply_constraints(as_json=json))


@constraints_app.command("suspend")
def constraints_suspend() -> None:
    """Lift the constraints for a later large backfill; apply puts them back."""
    from backfill_pipeline.cli.constraints import suspend_constraints

    suspend_constraints()


@constraints_app.command("verify")
def constraints_verify(json: Json = False) -> None:
    """Check that the constraints exist and that a probe which breaks them is refused. Changes nothing."""
    from backfill_pipeline.cli.constraints import verify_constraints

    raise typer.Exit(verify_constraints(as_json=json))
