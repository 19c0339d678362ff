"""The commands about alerts: `backfill alerts`.

Belongs here: their names, arguments and help.
Does not: what they do (`alerts.py`).
"""

from __future__ import annotations

import typer

from backfill_pipeline.cli.options import Json

alerts_app = typer.Typer(
    no_args_is_help=True, help="Alerts by webhook, Slack and mail, as the environment names them."
)


@alerts_app.command("test")
def alerts_test(json: Json = False) -> None:
    """Send a test message through every channel that is set, and say what each of them answered. Needs no database.

    Exit codes: 0 every channel took it, 1 one did not, 2 none is set, or a variable is wrong.
    """
    from backfill_pipeline.cli.alerts import try_channels

    raise typer.Exit(try_channels(as_json=json))


@alerts_app.command("send")
def alerts_send(json: Json = False) -> None:
    """Look once for what people should be told and send it: for cron, where no backfill up runs.

    Exit codes: 0 all was sent, or there was nothing to tell, 1 it could not look or not send, 2 no channel is set, or a
    variable is wrong.
    """
    from backfill_pipeline.cli.alerts import send_alerts

    raise typer.Exit(send_alerts(as_json=json))
