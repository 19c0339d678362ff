"""`backfill prune`: Dagster's old runs and events.

Belongs here: the command, its text, JSON and exit codes.
Does not: choosing and deleting (`orchestration/history.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from backfill_pipeline.cli.options import Json
from backfill_pipeline.wording import counted


def prune(
    older_than: Annotated[
        int, typer.Option(min=1, metavar="DAYS", help="Runs that ended less than so many days ago all stay.")
    ] = 90,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete them, for good; without it, only say what would go.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete old runs of the Dagster UI with their events and logs; without --delete, only say which.

    Never the latest materialization, failure or check of a partition, nor what is unfinished: the UI shows the same
    afterwards. The ledger is not touched.

    Exit codes: 0 done, 1 Dagster's database cannot be reached, 2 usage.
    """
    from backfill_pipeline.cli.output import console, print_json
    from backfill_pipeline.cli.session import dagster_instance, open_session

    with open_session() as session, dagster_instance(session) as instance:
        from backfill_pipeline.orchestration import history

        found = history.old_history(instance, older_than)
        if delete:
            history.delete(instance, found)
    if json:
        print_json(
            {
                "runs": len(found.run_ids),
                "events": found.events,
                "kept": found.kept,
                "ended_before": found.before.isoformat(timespec="seconds"),
                "deleted": delete,
            }
        )
        return
    console.print(
        f"{counted(len(found.run_ids), 'run')} with {counted(found.events, 'event')}"
        f" {'deleted' if delete else 'can go'}: ended before {found.before:%Y-%m-%d %H:%M} UTC"
    )
    if found.kept:
        console.print(f"{counted(found.kept, 'older run')} kept: the UI shows something of what they did")
    if found.run_ids and not delete:
        console.print(f"next: backfill prune --older-than {older_than} --delete")
