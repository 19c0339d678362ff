"""Rolling back, as two jobs: one plans and shows the plan's hash, the other does exactly the plan of that hash.

Belongs here: Dagster's side of `ledger/rollback.py`.
Does not: what a plan holds, how it is applied and proven; how rolled back partitions show (`rollbacks.py`).
"""

from collections.abc import Mapping
from typing import Literal

import dagster as dg
import yaml
from pydantic import Field

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import rollback
from backfill_pipeline.ledger.rollback import Mode, ReverseAt, RollbackScope
from backfill_pipeline.orchestration.launchpad import LaunchpadConfig
from backfill_pipeline.orchestration.metadata import Metadata, table
from backfill_pipeline.orchestration.operations.operating import DecisionConfig, operating, stated
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.orchestration.rollbacks import show_rolled_back
from backfill_pipeline.wording import counted

APPLY_OP = "apply_rollback"


class ScopeConfig(LaunchpadConfig):
    """What to roll back, and how."""

    source: str = Field(description="The source's id; of a bank with @ and a day, such as scb_01@2024-03-01.")
    partition: str = Field(default="", description="Only this partition, by its key. Empty: all of them.")
    batch: int = Field(
        default=0, description="Only this batch, by its number in backfill_batches. 0: all of them."
    )
    mode: Literal["automatic", "delete", "reverse"] = Field(
        default="automatic",
        description="delete: the entries are taken out; only while no batch is sealed for good and its periods are"
        " open. reverse: entries are posted against them. automatic: delete where that is allowed.",
    )
    at: Literal["automatic", "original", "now"] = Field(
        default="automatic",
        description="When reversing entries are dated: original, as what they reverse; now; automatic: original unless"
        " a period of them is closed.",
    )

    @property
    def scope(self) -> RollbackScope:
        """What it is about.

        Raises:
            UsageError: no source, or both a partition and a batch.
        """
        source = stated(self.source, "source", "name the source that is rolled back")
        partition = self.partition.strip() or None
        if self.batch < 0:
            raise UsageError(f"batch is {self.batch} in the run's config: write its number, or 0 for all")
        if partition and self.batch:
            raise UsageError("partition and batch are both in the run's config: leave one of them empty")
        return RollbackScope(source, partition, self.batch or None)

    @property
    def chosen_mode(self) -> Mode | None:
        """None where the plan chooses."""
        return None if self.mode == "automatic" else self.mode

    @property
    def reverse_at(self) -> ReverseAt | None:
        """None where the plan chooses."""
        return None if self.at == "automatic" else self.at


class ApplyConfig(ScopeConfig, DecisionConfig):
    """What was planned, with the plan's hash, and who applies it."""

    plan_hash: str = Field(
        description="Of the plan, as rollback_plan shows it. Everything else in this config must be as it was planned."
    )


def rollback_jobs() -> list[dg.JobDefinition]:
    """The jobs `rollback_plan` and `rollback_apply`."""

    @dg.op(name="plan_rollback", description="Says all that rolling back would do; changes nothing.")
    def plan_rollback(context: dg.OpExecutionContext, config: ScopeConfig, ledger: LedgerResource) -> None:
        with operating(context, ledger) as connection:
            found = rollback.plan(
                connection, config.scope, mode=config.chosen_mode, reverse_at=config.reverse_at
            )
        context.log.info(plan_text(found))
        context.add_output_metadata({**plan_metadata(found), "apply_it": _config_to_apply(config, found)})

    @dg.op(name=APPLY_OP, description="Does what the plan of this hash says: all of it, or nothing.")
    def apply_rollback(context: dg.OpExecutionContext, config: ApplyConfig, ledger: LedgerResource) -> None:
        with operating(context, ledger) as connection:
            scope = config.scope
            found = rollback.apply(
                connection,
                scope,
                plan_hash=stated(config.plan_hash, "plan_hash", "run rollback_plan, which shows it"),
                actor=config.person,
                reason=config.why,
                mode=config.chosen_mode,
                reverse_at=config.reverse_at,
            )
            # Whatever Dagster still shows as materialized; also what an earlier run was killed before it showed.
            stale = show_rolled_back(context.instance, connection, scope.source_id)
        context.log.info(applied_text(found))
        context.add_output_metadata(
            {
                "outcome": applied_text(found),
                **_facts(found),
                **_proof(found),
                "partitions_shown": len(stale),
            }
        )

    @dg.job(
        name="rollback_plan",
        description="Plans a rollback of a source, a partition or a batch: entries, accounts with their balances"
        " afterwards, what depends on it, rows for banks. Changes nothing, and shows the hash that rollback_apply"
        " takes.",
    )
    def plan_job() -> None:
        plan_rollback()

    @dg.job(
        name="rollback_apply",
        description="Does exactly the rollback that was planned, in one transaction with its proof, or nothing if the"
        " ledger changed since. Partitions that were rolled back can be materialized again.",
    )
    def apply_job() -> None:
        apply_rollback()

    return [plan_job, apply_job]


def plan_text(found: Mapping[str, object]) -> str:
    """A plan in a sentence."""
    if found["nothing_to_do"]:
        return "nothing to do: " + "; ".join(map(str, _list(found, "remarks")))
    if refused := rollback.refusal(found):
        return f"refused: {refused}"
    entries, accounts = _part(found, "entries"), _part(found, "accounts")
    return (
        f"would {found['mode']} {counted(_count(entries), 'entry', 'entries')} of {found['subject']} and move"
        f" {counted(_count(accounts), 'account')}, because {found['mode_because']}; nothing is done yet"
    )


def applied_text(found: Mapping[str, object]) -> str:
    """What became of a plan, in a sentence."""
    if not found["applied"]:
        return plan_text(found)
    done = "reversed" if found["mode"] == "reverse" else "deleted"
    return (
        f"rolled back {found['subject']}: {counted(_count(_part(found, 'entries')), 'entry', 'entries')} {done},"
        " every balance proven"
    )


def plan_metadata(found: Mapping[str, object]) -> Metadata:
    """All of a plan, which nobody applied yet; of long lists the first rows, with complete counts."""
    return {"plan": plan_text(found), **_facts(found)}


def _facts(found: Mapping[str, object]) -> Metadata:
    """What a plan holds, applied or not."""
    batches, accounts = _part(found, "batches"), _part(found, "accounts")
    dependents = _part(found, "dependents")
    below, duplicates = _part(dependents, "accounts_below_zero"), _part(dependents, "duplicates")
    corrections = _part(dependents, "corrections")
    tables = {
        "entries": _columns(
            _list(_part(found, "entries"), "totals"), "ledger", "currency", "count", "amount", "from", "to"
        ),
        "batches": _columns(
            _list(batches, "list"), "id", "kind", "source", "partition", "read", "posted", "posted_at"
        ),
        "accounts": _columns(_list(accounts, "list"), "id", "currency", "balance", "after"),
        "outbox": _columns(_list(found, "outbox"), "bank", "kind", "status", "rows", "becomes"),
        "accounts_below_zero": _list(below, "sample"),
        "duplicates_of_these": _list(duplicates, "sample"),
    }
    shown = {f"table/{name}": one for name, rows in tables.items() if (one := table(rows)) is not None}
    return {
        "plan_hash": str(found["plan_hash"]),
        "subject": str(found["subject"]),
        "mode": str(found["mode"] or ""),
        "because": str(found["mode_because"] or ""),
        "reverse_at": str(found["reverse_at"] or ""),
        "entries": _count(_part(found, "entries")),
        "batches": _count(batches),
        "accounts": _count(accounts),
        "accounts_below_zero": _count(below),
        "duplicates_of_these": _count(duplicates),
        "corrections": _count(corrections),
        "constraints_in_force": bool(found["constraints_in_force"]),
        **_sentences("refused", found),
        **_sentences("remarks", found),
        **shown,
    }


def _proof(found: Mapping[str, object]) -> Metadata:
    if not found["applied"]:
        return {}
    return {"rollback": str(found["rollback"]), "proof": dg.MetadataValue.json(_part(found, "proof"))}


def _config_to_apply(config: ScopeConfig, found: Mapping[str, object]) -> dg.MarkdownMetadataValue:
    """The launchpad config of `rollback_apply`, to be copied."""
    values = {
        **{name: getattr(config, name) for name in ScopeConfig.model_fields},
        "plan_hash": found["plan_hash"],
        "actor": "",
        "reason": "",
    }
    text = yaml.safe_dump({"ops": {APPLY_OP: {"config": values}}}, sort_keys=False, allow_unicode=True)
    return dg.MetadataValue.md(f"Launchpad of rollback_apply, with your name as actor:\n\n```yaml\n{text}```")


def _part(found: Mapping[str, object], name: str) -> dict[str, object]:
    part = found[name]
    assert isinstance(part, dict), name
    return part


def _count(part: Mapping[str, object]) -> int:
    count = part["count"]
    assert isinstance(count, int)
    return count


def _list(part: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    rows = part[name]
    assert isinstance(rows, list), name
    return rows


def _columns(rows: list[Mapping[str, object]], *names: str) -> list[Mapping[str, object]]:
    """These columns in this order: PostgreSQL orders the keys of an object by their length."""
    return [{name: row[name] for name in names} for row in rows]


def _sentences(name: str, found: Mapping[str, object]) -> Metadata:
    said = _list(found, name)
    return {name: "; ".join(map(str, said))} if said else {}
