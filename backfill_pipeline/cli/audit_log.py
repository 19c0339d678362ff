"""`backfill audit-log`, `four-eyes` and `approvals`.

Belongs here: the commands' text, JSON and exit codes.
Does not: the log and the controls (`ledger/audit_log.py`).
"""

from __future__ import annotations

from dataclasses import asdict

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json
from backfill_pipeline.cli.person import person
from backfill_pipeline.cli.session import open_session
from backfill_pipeline.cli.tables import plain_table
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import audit_log
from backfill_pipeline.wording import counted

_FAULTS_SHOWN = 20


def list_log(subject: str | None, limit: int, *, as_json: bool) -> None:
    """The latest rows, newest first."""
    with open_session() as session:
        rows = audit_log.entries(session.connection, subject=subject, limit=limit)
    if as_json:
        print_json({"subject": subject, "entries": [asdict(row) for row in rows]})
        return
    if not rows:
        console.print(
            "the audit log is empty" if subject is None else f"the audit log has nothing about {subject}",
            markup=False,
        )
        return
    console.print(
        plain_table(
            [
                {
                    "number": row.number,
                    "when": f"{row.happened_at:%Y-%m-%d %H:%M:%S}",
                    "who": row.actor,
                    "what": row.action,
                    "subject": row.subject,
                    "reason": row.reason,
                }
                for row in rows
            ]
        )
    )
    if len(rows) == limit:
        console.print(f"the latest {limit:,}; --limit shows more, --json what was before and after")


def verify_log(*, as_json: bool) -> ExitCode:
    """Recomputes the chain; a fault is exit code 4. The last hash is for whoever wants to write it down elsewhere."""
    with open_session() as session:
        faults = audit_log.faults(session.connection)
        head = audit_log.head(session.connection)
    if as_json:
        print_json(
            {
                "whole": not faults,
                "rows": head.number,
                "last_hash": head.row_hash,
                "faults": [asdict(one) for one in faults],
            }
        )
    elif faults:
        console.print(f"[red]the audit log was changed[/red]: {counted(len(faults), 'fault')}")
        for one in faults[:_FAULTS_SHOWN]:
            console.print(f"  row {one.number}: {one.fault}", markup=False)
        if len(faults) > _FAULTS_SHOWN:
            console.print("  …")
    else:
        console.print(
            f"the audit log is [green]whole[/green]: {counted(head.number, 'row')}"
            + (f", the last one {head.row_hash}" if head.number else "")
        )
    return ExitCode.RECONCILIATION_BREAK if faults else ExitCode.CLEAN


def show_four_eyes(*, as_json: bool) -> None:
    """Whether it is on."""
    with open_session() as session:
        on = audit_log.four_eyes(session.connection)
    if as_json:
        print_json({"four_eyes": on})
    else:
        console.print(_state(on))


def set_four_eyes(on: bool, by: str | None, reason: str | None, *, as_json: bool) -> ExitCode:
    """Switches it; waiting for another person is exit code 3."""
    actor = person(by)
    with open_session() as session, session.connection.transaction():
        done = audit_log.set_four_eyes(session.connection, on, actor=actor, reason=reason)
        now = audit_log.four_eyes(session.connection)
    if as_json:
        print_json({"four_eyes": now, "done": done, "by": actor})
    elif done:
        console.print(_state(now))
    else:
        console.print(
            f"asked for by {actor}: another person has to ask for the same with backfill four-eyes off",
            markup=False,
        )
    return ExitCode.CLEAN if done else ExitCode.REJECTS_OR_REFUSED


def _state(on: bool) -> str:
    return (
        "four eyes are on: what one person asks for, another one confirms"
        if on
        else "four eyes are off: one person decides alone"
    )


def show_approvals(*, as_json: bool) -> None:
    """Open requests, oldest first."""
    with open_session() as session:
        requests = audit_log.open_requests(session.connection)
        on = audit_log.four_eyes(session.connection)
    if as_json:
        print_json({"four_eyes": on, "requests": [asdict(one) for one in requests]})
        return
    if not requests:
        console.print("nothing waits for another person")
        return
    console.print(
        plain_table(
            [{**asdict(one), "requested_at": f"{one.requested_at:%Y-%m-%d %H:%M:%S}"} for one in requests]
        )
    )
    console.print("whoever agrees asks for the same, under a name of their own")


def withdraw_request(request_id: int, by: str | None, reason: str | None, *, as_json: bool) -> ExitCode:
    """Takes a request back; one of another person is exit code 3, one that was confirmed already 1.

    Raises:
        UsageError: there is no such request.
    """
    actor = person(by)
    with open_session() as session:
        done = audit_log.withdraw(session.connection, request_id, actor=actor, reason=reason)
    if done.outcome == "unknown":
        raise UsageError(f"there is no request {request_id}: backfill approvals shows those that are open")
    if as_json:
        print_json({"id": request_id, **asdict(done)})
    else:
        console.print(
            {
                "withdrawn": f"request {request_id} is withdrawn",
                "confirmed": f"request {request_id} was confirmed by {done.by} already: it cannot be withdrawn",
                "another person": f"request {request_id} is one of {done.by}: only who made it withdraws it",
            }[done.outcome],
            markup=False,
        )
    return {
        "withdrawn": ExitCode.CLEAN,
        "confirmed": ExitCode.FAILED,
        "another person": ExitCode.REJECTS_OR_REFUSED,
    }[done.outcome]
