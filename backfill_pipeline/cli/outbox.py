"""`backfill outbox dispatch|status|show|retry`: what banks have to hear of, and telling them.

Belongs here: the commands' text, JSON and exit codes, and watching until Ctrl-C or SIGTERM.
Does not: sending (`dual_ledger/dispatch.py`), the queries (`ledger/banks/outbox.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from backfill_pipeline.cli.banks import check_banks, chosen_banks, usable_banks
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks
from backfill_pipeline.cli.session import Session, open_session
from backfill_pipeline.cli.signals import stopped_by_signals
from backfill_pipeline.cli.tables import plain_table, printable
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.source_files import SUFFIXES
from backfill_pipeline.errors import TransientError, UsageError
from backfill_pipeline.ledger.banks import outbox

if TYPE_CHECKING:
    from backfill_pipeline.dual_ledger.dispatch import DispatchReport
    from backfill_pipeline.ledger.banks.outbox import BankState, OutboxCount, OutboxRow, Unmatched
    from backfill_pipeline.ledger.banks.outbox_deliveries import Kind

WATCH_S: Final = 5.0
"""Pause between two looks of a dispatcher that watches."""

_HEAVY: Final = ("backfill_pipeline.dual_ledger.dispatch",)


# --- dispatch ---------------------------------------------------------------------------------------------------


def dispatch_outbox(
    banks: Sequence[str], kind: Kind | None, wait_s: float, *, watch: bool, as_json: bool
) -> ExitCode:
    """Sends what is due to the banks, once or until it is stopped.

    Args:
        banks: source ids, files or bank ids; all when there is none.
        kind: only acknowledgements, or only entries.
        wait_s: goes on for so long, until nothing is left.
        watch: go on until Ctrl-C or SIGTERM.
        as_json: one JSON object instead of text.

    Returns:
        Clean when nothing is left that could be sent, failed when something is, and rejects when rows were given up.
    """
    if watch and as_json:
        raise UsageError("--watch never ends, and --json prints one object at the end: leave one of them out")
    definitions = _definitions(banks)
    if banks:  # of all of them, those that can be asked are told in any case
        check_banks(definitions)
    kinds = None if kind is None else (kind,)
    with open_session(meanwhile=_HEAVY) as session, stopped_by_signals() as stop:
        from backfill_pipeline.dual_ledger.dispatch import dispatch

        def once() -> DispatchReport:
            return dispatch(
                session.endpoint.ledger_url, definitions, kinds=kinds, log=_log, stop=stop, wait_s=wait_s
            )

        if watch:
            return _watch(once, stop)
        report = once()
        if stop.is_set():
            raise KeyboardInterrupt
    if as_json:
        print_json(
            {
                "acknowledged": report.acknowledged,
                "failed": report.failed,
                "dead": report.dead,
                "left": report.left,
                "banks": [asdict(one) for one in report.banks],
            }
        )
    else:
        _print_report(report)
    if report.dead:
        return ExitCode.REJECTS_OR_REFUSED
    return ExitCode.FAILED if report.left or report.errors else ExitCode.CLEAN


def _log(message: str) -> None:
    remarks.print(message, markup=False)


def _watch(once: Callable[[], DispatchReport], stop: threading.Event) -> ExitCode:
    """Looks again and again; a ledger that is away for a while is waited for."""
    remarks.print(f"telling banks what is due, every {WATCH_S:.0f} s   (Ctrl-C stops)")
    away = False
    while not stop.is_set():
        try:
            report = once()
        except TransientError as error:
            if not away:
                remarks.print(f"{error}; looking again until it is there", markup=False)
            away = True
        else:
            away = False
            if report.acknowledged or report.failed or report.dead:
                _print_report(report)
                console.file.flush()
        stop.wait(WATCH_S)
    remarks.print("stopping")
    return ExitCode.CLEAN


def _print_report(report: DispatchReport) -> None:
    for one in report.banks:
        told = [f"acknowledged {sum(one.acknowledged.values()):,}"]
        told += [f"refused for now {count:,}"] if (count := sum(one.failed.values())) else []
        told += [f"[red]given up {count:,}[/red]"] if (count := sum(one.dead.values())) else []
        told += [f"left {one.left.rows:,}"] if one.left.rows else []
        console.print(f"[bold]{one.bank_id}[/bold]  {', '.join(told)}")
        if one.error is not None:
            console.print("  [red]not told everything:[/red] ", end="")
            console.print(printable(one.error), markup=False)
        if one.dead:
            console.print(f"  next: backfill outbox show --bank {one.bank_id} --status DEAD")


# --- status -----------------------------------------------------------------------------------------------------


def show_outbox_status(bank: str | None, *, check: bool, as_json: bool) -> ExitCode:
    """What is in the outbox, by bank, kind and status.

    Args:
        bank: of this bank alone.
        check: also look for entries that no row speaks of and for rows without their entry; reads both tables.
        as_json: one JSON object instead of text.

    Returns:
        Failed when rows were given up, or when entries and rows do not go together.
    """
    with open_session() as session:
        bank_id = _bank_id(session, bank)
        states = [one for one in outbox.banks(session.connection) if bank_id in (None, one.bank_id)]
        counts = outbox.counts(session.connection, bank_id)
        unmatched = {
            one.bank_id: {
                "entries_without_row": outbox.entries_without_row(session.connection, one.ledger_id),
                "rows_without_entry": outbox.rows_without_entry(session.connection, one.ledger_id),
            }
            for one in (states if check else ())
        }
    if as_json:
        print_json(
            {
                "banks": [asdict(one) for one in states],
                "counts": [asdict(one) for one in counts],
                "unmatched": {
                    name: {what: [asdict(one) for one in rows] for what, rows in found.items()}
                    for name, found in unmatched.items()
                },
            }
        )
    else:
        _print_status(states, counts, unmatched)
    wrong = any(rows for found in unmatched.values() for rows in found.values())
    return ExitCode.FAILED if wrong or any(one.status == "DEAD" for one in counts) else ExitCode.CLEAN


def _print_status(
    states: Sequence[BankState],
    counts: Sequence[OutboxCount],
    unmatched: Mapping[str, Mapping[str, Sequence[Unmatched]]],
) -> None:
    if not states:
        console.print("no ledger is kept with a bank here yet: backfill sync run")
    for one in states:
        sent = "" if one.send_entries else "; entries of ours are not sent"
        console.print(f"[bold]{one.bank_id}[/bold]  ledger {one.ledger_id}{sent}")
        if one.open_deliveries:
            console.print(f"  requests without an answer yet: {one.open_deliveries:,}")
        if one.consecutive_failures:
            until = "" if one.open_until is None else f", asked again at {one.open_until:%H:%M:%S} UTC"
            console.print(f"  [yellow]no answer {one.consecutive_failures:,} times in a row{until}[/yellow]")
            console.print(f"  {printable(one.last_error or '')}", markup=False)
        rows = [
            {
                "kind": count.kind,
                "status": count.status,
                "rows": count.count,
                "oldest": f"{count.oldest:%Y-%m-%d %H:%M:%S}",
                "newest": f"{count.newest:%Y-%m-%d %H:%M:%S}",
            }
            for count in counts
            if count.bank_id == one.bank_id
        ]
        console.print(plain_table(rows) if rows else "  nothing to tell")
        if any(row["status"] == "DEAD" for row in rows):
            console.print(f"  next: backfill outbox show --bank {one.bank_id} --status DEAD")
        for what, found in unmatched.get(one.bank_id, {}).items():
            _print_unmatched(what.replace("_", " "), found)


def _print_unmatched(what: str, found: Sequence[Unmatched]) -> None:
    if not found:
        console.print(f"  {what}: none")
    for one in found:
        batch = "" if one.batch_id is None else f", batch {one.batch_id}"
        console.print(f"  [red]{what}[/red]: {one.count:,} of origin ", end="")
        console.print(printable(f"{one.origin}{batch}: {', '.join(one.references)}"), markup=False)


# --- show and retry ---------------------------------------------------------------------------------------------


def show_outbox(
    bank: str | None,
    kind: Kind | None,
    statuses: Sequence[str],
    reference: str | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """Rows with what the bank is told, and why it was not."""
    wanted = _statuses(statuses, outbox.STATUSES)
    with open_session() as session:
        rows = outbox.show(
            session.connection,
            bank_id=_bank_id(session, bank),
            kind=kind,
            statuses=wanted or None,
            reference=reference,
            limit=limit + 1,
        )
    shown, more = rows[:limit], len(rows) > limit
    if as_json:
        print_json({"rows": [asdict(one) for one in shown], "more": more})
        return
    if not shown:
        console.print("no such rows")
    for one in shown:
        _print_row(one)
    if more:
        remarks.print(f"{limit:,} rows; --limit shows more")


def _print_row(row: OutboxRow) -> None:
    console.print(f"[bold]{row.id}[/bold]  {row.bank_id}  {row.kind}  {row.status}  ", end="")
    console.print(printable(row.reference), markup=False)
    tried = (
        "" if not row.attempts else "tried once, " if row.attempts == 1 else f"tried {row.attempts} times, "
    )
    again = "" if row.next_attempt_at is None else f", again at {row.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC"
    done = (
        "" if row.acknowledged_at is None else f", acknowledged {row.acknowledged_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    console.print(f"    {tried}written {row.created_at:%Y-%m-%d %H:%M:%S} UTC{done}{again}")
    for error in (row.last_error, row.delivery_error):
        if error is not None:
            console.print("    " + printable(error), markup=False)
    console.print("    " + printable(row.payload), markup=False, style="dim")


def retry_outbox(
    bank: str | None,
    kind: Kind | None,
    statuses: Sequence[str],
    reference: str | None,
    *,
    as_json: bool,
) -> ExitCode:
    """Puts rows back: refused ones, or those of a bank that lost what it had. A reference without any is usage."""
    wanted = _statuses(statuses, outbox.RETRIED)
    if "ACKNOWLEDGED" in wanted and bank is None and reference is None:
        raise UsageError(
            "--status ACKNOWLEDGED would tell every bank everything once more: name the one that lost what it had with"
            " --bank, or an entry with --reference"
        )
    with open_session() as session:
        count = outbox.retry(
            session.connection,
            bank_id=_bank_id(session, bank),
            kind=kind,
            statuses=wanted or ("FAILED", "DEAD"),
            reference=reference,
        )
    if as_json:
        print_json({"retried": count})
    else:
        many = "1 row is" if count == 1 else f"{count:,} rows are"
        console.print(f"{many} due again" + (": backfill outbox dispatch sends them" if count else ""))
    if reference is not None and not count:
        raise UsageError(
            f"no such row speaks of {reference}: backfill outbox show --reference {reference} says how it stands"
        )
    return ExitCode.CLEAN


# --- which banks ------------------------------------------------------------------------------------------------


def _definitions(names: Sequence[str]) -> list[SourceDefinition]:
    """Definitions by source id, file or bank id; all when there is no name."""
    by_bank = {one.scb.bank_id: one for one in usable_banks() if one.scb is not None}
    chosen: dict[str, SourceDefinition] = {}
    for one in [by_bank[name] if name in by_bank else chosen_banks([name])[0] for name in names]:
        chosen[one.id] = one
    return list(chosen.values()) if names else chosen_banks(())


def _bank_id(session: Session, name: str | None) -> str | None:
    """The bank that is meant: also one that has no definition any more."""
    if name is None:
        return None
    known = [one.bank_id for one in outbox.banks(session.connection)]
    if name in known:
        return name
    if "/" in name or name.endswith(SUFFIXES):
        definition = chosen_banks([name])[0]
        return None if definition.scb is None else definition.scb.bank_id
    for one in usable_banks():
        if one.scb is not None and name in (one.id, one.scb.bank_id):
            return one.scb.bank_id
    raise UsageError(f"there is no bank {name} (known: {', '.join(known) or 'none'}): name one of these")


def _statuses(given: Sequence[str], allowed: Sequence[str]) -> list[str]:
    wanted = [one.upper() for one in given]
    for one in wanted:
        if one not in allowed:
            raise UsageError(f"--status {one} is none of those that can be meant: {', '.join(allowed)}")
    return wanted
