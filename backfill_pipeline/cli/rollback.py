"""`backfill rollback`: the plan, and exactly that plan applied.

Belongs here: the command, its text, JSON and exit codes.
Does not: rolling back (`ledger/rollback.py`), what Dagster shows of it (`orchestration/rollbacks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.options import Actor, Json, Reason, Source

if TYPE_CHECKING:
    from backfill_pipeline.ledger.rollback import Mode, ReverseAt, RollbackScope

_SHOWN: Final = 10


def rollback(
    source: Source,
    partition: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only this partition; of a bank, a day.")
    ] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Only this batch.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done. The default.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Do it, as planned; takes --plan-hash.")] = False,
    plan_hash: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="Of the plan that was shown; any other state is refused."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(metavar="delete|reverse", help="How; by default delete while that is allowed."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="original|now", help="When reversing entries are dated."),
    ] = None,
    by: Actor = None,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Take a source, one of its partitions or one of its batches out of the ledger again. A whole source goes with its
    opening balances.

    Exit codes: 0 done, planned, or nothing to do; 1 refused (the ledger changed since the plan, a constraint, a closed
    period, a run writes the source); 2 usage.
    """
    from backfill_pipeline.errors import UsageError
    from backfill_pipeline.ledger.rollback import RollbackScope

    if plan and apply:
        raise UsageError("a rollback is planned or applied, not both at once: leave out --plan or --apply")
    if apply and plan_hash is None:
        raise UsageError("--apply takes the hash of the plan that was shown: --plan-hash HASH")
    if plan_hash is not None and not plan_hash.strip():
        raise UsageError("--plan-hash is empty: there was no plan to take it from; run it with --plan alone")
    if plan_hash is not None and not apply:
        raise UsageError("--plan-hash goes with --apply")
    scope = RollbackScope(_source_id(source), partition, batch)
    chosen_mode, chosen_at = _mode(mode), _reverse_at(at)
    if plan_hash is None:
        raise typer.Exit(_plan(scope, chosen_mode, chosen_at, as_json=json))
    raise typer.Exit(_apply(scope, chosen_mode, chosen_at, plan_hash, by, reason, as_json=json))


def _source_id(name: str) -> str:
    """The id; of a definition that is named by its path, the id that it has."""
    from backfill_pipeline.cli.session import named_source

    return named_source(name, register=False).id if Path(name).suffix in {".yaml", ".yml"} else name


def _mode(text: str | None) -> Mode | None:
    from backfill_pipeline.errors import UsageError

    match text:
        case None | "delete" | "reverse":
            return text
    raise UsageError(f"--mode is delete or reverse, not {text}")


def _reverse_at(text: str | None) -> ReverseAt | None:
    from backfill_pipeline.errors import UsageError

    match text:
        case None | "original" | "now":
            return text
    raise UsageError(f"--at is original or now, not {text}")


def _plan(scope: RollbackScope, mode: Mode | None, at: ReverseAt | None, *, as_json: bool) -> ExitCode:
    from backfill_pipeline.cli.output import print_json
    from backfill_pipeline.cli.session import open_session
    from backfill_pipeline.ledger import rollback as rollbacks

    with open_session() as session:
        found = rollbacks.plan(session.connection, scope, mode=mode, reverse_at=at)
    if as_json:
        print_json(found)
    else:
        _print_plan(found)
        if not found["nothing_to_do"] and rollbacks.refusal(found) is None:
            _print_next(scope, mode, at, str(found["plan_hash"]))
    return ExitCode.FAILED if rollbacks.refusal(found) else ExitCode.CLEAN


def _apply(
    scope: RollbackScope,
    mode: Mode | None,
    at: ReverseAt | None,
    plan_hash: str,
    by: str | None,
    reason: str | None,
    *,
    as_json: bool,
) -> ExitCode:
    from backfill_pipeline.cli.output import console, print_json
    from backfill_pipeline.cli.person import person
    from backfill_pipeline.cli.session import dagster_instance, open_session
    from backfill_pipeline.ledger import rollback as rollbacks
    from backfill_pipeline.orchestration.rollbacks import show_rolled_back

    with open_session() as session:
        done = rollbacks.apply(
            session.connection,
            scope,
            plan_hash=plan_hash,
            actor=person(by),
            reason=reason,
            mode=mode,
            reverse_at=at,
        )
        # Also when nothing was left to do: whoever did it may have been killed before it could be shown.
        with dagster_instance(session) as instance:
            show_rolled_back(instance, session.connection, scope.source_id)
    if as_json:
        print_json(done)
    elif not done["applied"]:
        _print_remarks(done)
    else:
        proof = done["proof"]
        assert isinstance(proof, Mapping)
        what = "taken out" if done["mode"] == "delete" else "reversed"
        console.print(
            f"{done['subject']} is rolled back: {proof['entries']:,} entries {what}, {proof['accounts']:,} accounts"
            f" stand as they stood without them, {proof['other_entries']:,} other entries are as they were",
            markup=False,
        )
        _print_remarks(done)
        console.print(f"post it again with {_again(done)}", markup=False)
    return ExitCode.CLEAN


def _print_plan(found: Mapping[str, object]) -> None:
    from backfill_pipeline.cli.output import console
    from backfill_pipeline.cli.tables import plain_table
    from backfill_pipeline.wording import counted

    if found["nothing_to_do"]:
        _print_remarks(found)
        return
    entries, accounts, batches = (_part(found, name) for name in ("entries", "accounts", "batches"))
    touched = int(str(accounts["count"]))
    dated = "" if found["reverse_at"] is None else f", dated {found['reverse_at']}"
    console.print(f"rolling back {found['subject']}: mode {found['mode']}{dated}", markup=False)
    console.print(f"  because     {found['mode_because']}", markup=False)
    console.print(
        f"  entries     {entries['count']:,} in {counted(int(str(batches['count'])), 'batch', 'batches')},"
        f" {counted(int(str(batches['partition_count'])), 'partition')}"
    )
    console.print(
        plain_table(_rows(entries["totals"], ("ledger", "currency", "count", "amount", "from", "to")))
    )
    console.print(
        f"  accounts    {touched:,} touched, {accounts['moved']:,} of them end with another balance"
    )
    shown = _rows(accounts["list"], ("id", "currency", "balance", "after"))
    console.print(plain_table(shown[:_SHOWN]))
    if touched > _SHOWN:
        console.print(f"  (the first {_SHOWN}; --json has up to 1,000, the plan's hash stands for all)")
    if rows := _rows(found["outbox"], ("bank", "kind", "status", "rows", "becomes")):
        console.print("  what banks have heard of them")
        console.print(plain_table(rows))
    _print_remarks(found)
    refused = found["refused"]
    assert isinstance(refused, list)
    for one in refused:
        console.print(f"  refused     {one}", markup=False)


def _print_remarks(found: Mapping[str, object]) -> None:
    from backfill_pipeline.cli.output import console

    remarks = found["remarks"]
    assert isinstance(remarks, list)
    for one in remarks:
        console.print(str(one) if found["nothing_to_do"] else f"  note        {one}", markup=False)


def _print_next(scope: RollbackScope, mode: Mode | None, at: ReverseAt | None, plan_hash: str) -> None:
    from backfill_pipeline.cli.output import console

    words = ["backfill rollback", scope.source_id]
    words += [f"--partition {scope.partition_key}"] if scope.partition_key is not None else []
    words += [f"--batch {scope.batch_id}"] if scope.batch_id is not None else []
    words += [f"--mode {mode}"] if mode is not None else []
    words += [f"--at {at}"] if at is not None else []
    console.print(f"  to do this  {' '.join(words)} --apply --plan-hash {plan_hash}", markup=False)


def _again(done: Mapping[str, object]) -> str:
    """The command that posts anew what was rolled back."""
    from backfill_pipeline.definition.scb_days import split_day_source_id

    batches = _part(done, "batches")
    first, last = (split_day_source_id(str(batches[name])) for name in ("first_source", "last_source"))
    if first is not None and last is not None:
        return f"backfill sync run {first[0]} --from {first[1]} --to {last[1]}"
    return f"backfill resume {done['source']}"


def _part(found: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = found[name]
    assert isinstance(part, Mapping)
    return part


def _rows(value: object, columns: Sequence[str]) -> list[dict[str, object]]:
    assert isinstance(value, list)
    return [{name: row[name] for name in columns} for row in value]
