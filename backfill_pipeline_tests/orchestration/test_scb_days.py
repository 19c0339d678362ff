"""Days of a bank on a real instance: what a run of a range does, what it shows, and what one bad day means."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qs

import dagster as dg
import pytest

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.scb_days import day_window, scb_of
from backfill_pipeline.errors import UsageError
from backfill_pipeline.orchestration.assets import bank_days, sync_status
from backfill_pipeline.orchestration.assets.keys import DAY_ASSETS
from backfill_pipeline.orchestration.launch import LaunchedRun, launch_days
from backfill_pipeline.scb_simulator.changes import Change
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual
from backfill_pipeline_tests.orchestration.test_assets import CONSTRAINED, LOOKED, failure, materialize

pytestmark = pytest.mark.e2e
DAYS = [FIRST_DAY + timedelta(days=number) for number in range(3)]


class Synced:
    """A bank, and the instance that its runs are recorded in."""

    def __init__(self, dual: Dual, instance: dg.DagsterInstance) -> None:
        self.dual = dual
        self.instance = instance
        dual.write_scb(max_error_rate="0")

    @property
    def defs(self) -> dg.Definitions:
        definition = self.dual.definition()
        return build_defs({definition.id: definition})

    def launch(self, days: Sequence[date] = DAYS, refetch: str = "changed") -> LaunchedRun:
        return launch_days(self.defs, self.instance, "scb_01", days, refetch=refetch)

    def shown(self, name: str) -> set[str]:
        return set(self.instance.get_materialized_partitions(dg.AssetKey(["scb_01", name])))

    def metadata(self, name: str, day: date) -> dict[str, object]:
        """Of the latest materialization of a day."""
        (record,) = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey(["scb_01", name]), asset_partitions=[day.isoformat()]), limit=1
        ).records
        assert record.asset_materialization is not None
        return {key: value.value for key, value in record.asset_materialization.metadata.items()}

    def events(self, day: date) -> int:
        """Materializations of a day, of all assets."""
        return sum(
            len(
                self.instance.fetch_materializations(
                    dg.AssetRecordsFilter(dg.AssetKey(["scb_01", name]), asset_partitions=[day.isoformat()]),
                    limit=100,
                ).records
            )
            for name in DAY_ASSETS
        )

    def observed(self, name: str) -> list[dg.AssetObservation]:
        records = self.instance.fetch_observations(dg.AssetKey(name.split("/")), limit=100).records
        return [one.asset_observation for one in records if one.asset_observation is not None]

    def spoil(self, day: date) -> str:
        """One entry of a day names an account that nobody has, until it is repaired; returns its reference."""
        reference = min(self.dual.entries_there(day=day))
        self._change(reference, "NOBODY")
        return reference

    def repair(self, reference: str) -> None:
        shared = [one.id for one in self.dual.book().ledger.accounts if one.shared]
        currency = self.dual.entries_there()[reference].currency
        self._change(reference, next(one for one in shared if f"-{currency}-" in one))

    def _change(self, reference: str, debit: str) -> None:
        book = self.dual.book()
        entry = book.find(reference)
        assert entry is not None
        book.change(entry, Change(debit, entry.credit_account, entry.minor))


@pytest.fixture
def synced(dual: Dual, instance: dg.DagsterInstance) -> Synced:
    return Synced(dual, instance)


def iso(days: Sequence[date]) -> set[str]:
    return {day.isoformat() for day in days}


def test_a_range_is_one_run_after_which_both_ledgers_are_equal(synced: Synced) -> None:
    run = synced.launch()
    assert (run.success, run.errors) == (True, [])
    assert run.checks == LOOKED | CONSTRAINED | {"outbox_keeps_up": True, "ledgers_equal": True}
    assert all(synced.shown(name) == iso(DAYS) for name in DAY_ASSETS)
    synced.dual.assert_equal()
    assert synced.metadata("posted", DAYS[1])["rows_out"] == 40
    assert synced.metadata("manifest", DAYS[1])["bank_states"] == "40 entries"
    assert synced.metadata("acknowledged", DAYS[1])["acknowledged"] == 40
    compared = synced.metadata("reconciliation", DAYS[2])
    assert (compared["verdict"], compared["equal"], compared["breaks"]) == ("match", 40, 0)
    assert {"currencies", "outbox"} <= compared.keys()
    # The last day of a range shows all days of it (those of the bank end at its own midnight).
    assert str(compared["daily_plot"]).startswith("![120 entries on ")
    assert sum(int(str(compared[name])) for name in compared if name.startswith("entries/")) == 120
    assert "daily_plot" not in synced.metadata("reconciliation", DAYS[1])
    posted = synced.metadata("posted", DAYS[1])
    assert 0 < float(str(posted["checkpoint_seconds"])) < float(str(posted["database_seconds"]))


def test_a_bad_day_fails_the_run_and_no_other_day_and_is_materialized_alone_later(synced: Synced) -> None:
    bad = synced.spoil(DAYS[1])
    run = synced.launch()
    assert not run.success
    assert run.checks == {"ledgers_equal": False}  # blocks: constraints are not applied
    (error,) = run.errors
    assert error.startswith("1 of 3 days of scb_01 is not complete (2024-03-30), the first because: ")
    assert "backfill sync run scb_01 --from 2024-03-30 --to 2024-03-30" in error
    assert synced.shown("reconciliation") == iso([DAYS[0], DAYS[2]])
    before = [synced.events(DAYS[0]), synced.events(DAYS[2])]
    asked = len(synced.dual.log())
    synced.repair(bad)
    again = synced.launch([DAYS[1]])
    assert (again.success, again.errors) == (True, [])
    assert synced.shown("reconciliation") == iso(DAYS)
    assert [synced.events(DAYS[0]), synced.events(DAYS[2])] == before
    window = day_window(scb_of(synced.dual.definition()), DAYS[1])
    lists = [parse_qs(one.query) for one in synced.dual.log()[asked:] if one.operation == "entries"]
    assert {datetime.fromisoformat(one["from"][0].replace(" ", "+")) for one in lists} == {window[0]}
    synced.dual.assert_equal()


def test_days_that_differ_are_not_materialized_and_show_a_table(synced: Synced) -> None:
    reference = min(synced.dual.entries_there(day=DAYS[0]))
    assert synced.launch().success
    synced.dual.change(reference)
    run = synced.launch()
    assert run.checks["ledgers_equal"] is False
    assert reference in run.errors[0]
    (observed,) = synced.observed("scb_01/reconciliation")
    assert observed.partition == DAYS[0].isoformat()
    table = observed.metadata["breaks_sample"]
    assert isinstance(table, dg.TableMetadataValue)
    assert {one.data["reference"] for one in table.records} == {reference}
    assert len(synced.dual.entries_here()) == 120  # nothing was overwritten, nothing posted twice


def test_a_day_that_is_complete_costs_one_question(synced: Synced) -> None:
    assert synced.launch().success
    asked = len(synced.dual.log())
    run = synced.launch()
    assert run.success
    assert [one.operation for one in synced.dual.log()[asked:]] == ["totals"]
    assert "nothing to do" in str(synced.metadata("posted", DAYS[0])["note"])
    assert synced.shown("reconciliation") == iso(DAYS)
    asked = len(synced.dual.log())
    assert synced.launch(refetch="always").success
    assert "entries" in {one.operation for one in synced.dual.log()[asked:]}
    synced.dual.assert_equal()


@pytest.mark.parametrize(
    "name",
    [
        "posted",
        pytest.param("manifest", marks=pytest.mark.slow),
        pytest.param("reconciliation", marks=pytest.mark.slow),
    ],
)
def test_any_asset_alone_takes_its_day_through_everything(synced: Synced, name: str) -> None:
    day = DAYS[1].isoformat()
    assert materialize(synced.defs, synced.instance, f"scb_01/{name}", partition=day).success
    assert [synced.shown(one) for one in DAY_ASSETS] == [{day}] * len(DAY_ASSETS)
    synced.dual.assert_equal(days=[DAYS[1]])


def test_a_bank_that_cannot_be_asked_fails_in_a_sentence(
    synced: Synced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCB_SIMULATOR_TOKEN")
    result = materialize(synced.defs, synced.instance, "scb_01/posted", partition=DAYS[0].isoformat())
    told = failure(result)
    assert "SCB_SIMULATOR_TOKEN" in told
    assert "\n" not in told


def test_what_nobody_foresaw_is_told_by_its_own_name(synced: Synced, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(bank_days, "sync_days", broken)
    assert synced.launch().errors == ["unexpected ZeroDivisionError: of all things"]


def test_the_check_by_itself_says_that_it_needs_days(synced: Synced) -> None:
    check = dg.AssetCheckKey(dg.AssetKey(["scb_01", "reconciliation"]), "ledgers_equal")
    job = synced.defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={check}
    )
    result = job.execute_in_process(instance=synced.instance, raise_on_error=False)
    assert failure(result).startswith("ledgers_equal is about days: materialize scb_01/reconciliation")


def test_a_day_that_is_none_of_the_bank_is_refused(synced: Synced) -> None:
    with pytest.raises(
        UsageError, match=r"2024-03-28 is no day of scb_01: its days are 2024-03-29 \(scb.start\)"
    ):
        synced.launch([FIRST_DAY - timedelta(days=1), FIRST_DAY])
    today = datetime.now(UTC).date() + timedelta(days=1)
    with pytest.raises(UsageError, match="is no day of scb_01"):
        synced.launch([today])


def test_how_far_a_bank_is_is_only_materialized_while_it_is_not_behind(
    synced: Synced, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = dg.AssetKey("sync_status_scb_01")

    def materializations() -> int:
        return len(synced.instance.fetch_materializations(status, limit=100).records)

    monkeypatch.setattr(sync_status, "_now", lambda: datetime(2024, 4, 1, 12, tzinfo=UTC))
    assert synced.launch(DAYS[:2]).success
    (behind,) = synced.observed("sync_status_scb_01")
    assert behind.metadata["state"].value == "behind: 1 day is not complete, the first is 2024-03-31"
    assert materializations() == 0
    assert materialize(synced.defs, synced.instance, "sync_status_scb_01").success
    assert materializations() == 0
    assert synced.launch(DAYS[2:]).success
    assert materializations() == 1
    assert materialize(synced.defs, synced.instance, "sync_status_scb_01").success
    assert materializations() == 2
    synced.spoil(DAYS[2])
    assert not synced.launch(DAYS[2:]).success
    assert materializations() == 2
    latest = synced.observed("sync_status_scb_01")[0]
    assert str(latest.metadata["state"].value).startswith("behind: 1 day")
    assert isinstance(latest.metadata["latest_days"], dg.TableMetadataValue)
    not_complete = latest.metadata["days_not_complete"]
    assert isinstance(not_complete, dg.TableMetadataValue)
    assert [one.data["day"] for one in not_complete.records] == [str(DAYS[2])]
