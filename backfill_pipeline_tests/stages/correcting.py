"""What tests of corrections have in common: putting something wrong into a ledger, proposing, applying, and the proof."""

from pathlib import Path

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger import corrections
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.stages.corrections import ProposalReport, apply_approved, propose_for_source
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.stages.world import World


def balances(world: World) -> dict[object, object]:
    return dict(world.query("SELECT id, balance FROM bank_accounts"))


def write_wrong(world: World, statement: str, *parameters: object) -> None:
    """Puts something wrong into the ledger, balances included: as a faulty program would, through the triggers."""
    world.query(statement, *parameters)


def replace_entry(world: World, reference: str, **changes: object) -> None:
    """Takes an entry out and posts another one in its place: same batch, same row, other content."""
    names = ", ".join(f"{name} = %({name})s" for name in changes)
    assert names
    columns = (
        "ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type, transaction_type,"
        " reference_id, timestamp_utc, posted_at, fx_rate, metadata, batch_id, source_row"
    )
    values = ", ".join(f"%({c})s" if c in changes else c for c in columns.replace(" ", "").split(","))
    with connect(world.url) as opened:
        opened.execute(
            f"WITH gone AS (DELETE FROM ledger_entries WHERE reference_id = %(wrong)s RETURNING *)"
            f" INSERT INTO ledger_entries ({columns}) SELECT {values} FROM gone",
            {**changes, "wrong": reference},
        )


def propose(world: World, path: Path, **arguments: object) -> ProposalReport:
    return propose_for_source(
        open_work(load_definition(path), world.places),
        actor="ann",
        **arguments,
    )


def apply_all(connection: Connection) -> list[str]:
    """Approves what is proposed, as another person, and applies it; the outcomes."""
    _, waiting = corrections.corrections(connection, statuses=["proposed"])
    for one in waiting:
        assert corrections.approve(connection, one.id, actor="bob", reason="checked").outcome == "approved"
    done = apply_approved(connection, None, actor="bob", reason=None)
    return [decision.outcome for decision in done]


def assert_restored(
    world: World,
    path: Path,
    connection: Connection,
    right: dict[object, object],
    *,
    applied: int = 1,
    corrected: int | None = None,
) -> None:
    """All that is proposed can be applied; then the ledger is equal to the source again, and balances are what they were.

    Args:
        world: of the ledger.
        path: of the source.
        connection: to the ledger.
        right: the balances before anything was wrong.
        applied: how many proposals there are.
        corrected: how many entries of the source are compared as corrected; None where that says nothing.
    """
    assert apply_all(connection) == ["applied"] * applied
    after = world.reconcile(path)
    assert after.matches, (after.breaks, after.account_breaks)
    assert corrected in (None, after.corrected)
    assert balances(world) == right
