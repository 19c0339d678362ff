"""Both ledgers compared where a definition names things otherwise than the bank, and where a person repaired entries."""

from __future__ import annotations

from decimal import Decimal

import pytest
import yaml

from backfill_pipeline.definition.scb_days import day_definition
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.ledger import replays
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.reject_export import latest_cells, source_cells, write_export
from backfill_pipeline.stages.replay import replay_rejects
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.dual_ledger.test_reconcile import ENTRIES, FIRST, amount_of, compare, found
from backfill_pipeline_tests.dual_ledger.test_reconcile_told import alter_received, tell
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual
from backfill_pipeline_tests.stages.repair import repair


def write_renamed(dual: Dual, *, mirrored: bool) -> dict[str, str]:
    """A definition in which every account has a name of ours; mirrored: what the bank debits, we credit."""
    names = {one.id: f"OURS/{one.id}" for one in dual.book().ledger.accounts}
    debit, credit = ("credit_account", "debit_account") if mirrored else ("debit_account", "credit_account")
    fields = {
        "ledger_id": {"constant": "OURS-SCB-01"},
        "debit_account_id": {"column": debit, "map": "accounts"},
        "credit_account_id": {"column": credit, "map": "accounts"},
        "amount": "amount",
        "currency_code": "currency",
        "transaction_type": "type",
        "reference_id": "reference",
        "timestamp_utc": {"column": "booked_at"},
    }
    dual.write_scb(account_map={"inline": names}, fields=fields, unknown_accounts="create")
    return names


@pytest.mark.parametrize("mirrored", [False, True])
def test_accounts_of_other_names_are_the_same_accounts_in_both_directions(dual: Dual, mirrored: bool) -> None:
    names = write_renamed(dual, mirrored=mirrored)
    dual.open()
    dual.post_day(FIRST_DAY)
    shared = [one.id for one in dual.book().ledger.accounts if one.shared and one.currency == "EUR"]
    dual.query(
        "INSERT INTO bank_accounts (id, currency_code) SELECT x, 'EUR' FROM unnest(%s::text[]) AS x"
        " ON CONFLICT DO NOTHING",
        [names[one] for one in shared],
    )
    dual.post_here("OURS-1", debit=names[shared[0]], credit=names[shared[1]])
    tell(dual)
    received = dual.received()["OURS-1"]
    assert (received.debit_account, received.credit_account) == (
        (shared[1], shared[0]) if mirrored else (shared[0], shared[1])
    )
    report = compare(dual, told=True)
    assert (report.verdict, report.breaks) == ("match", [])
    assert (report.equal, report.sent_equal, report.sent_listed) == (ENTRIES, 1, False)
    alter_received(dual, "OURS-1", debit_account=shared[2])
    (one,) = compare(dual, told=True).breaks
    assert (one.kind, one.reference, one.field, one.there) == (
        "sent different",
        "OURS-1",
        "debit_account",
        shared[2],
    )
    assert one.here == received.debit_account


def test_currencies_of_other_names_have_sums_of_their_own(dual: Dual) -> None:
    definition = dual.definition()
    lookups = {"currencies": {"inline": {"EUR": "CHF"}, "missing": "keep"}}
    fields = {**definition.fields.model_dump(mode="json", by_alias=True, exclude_defaults=True)}
    fields["currency_code"] = {"column": "currency", "lookup": "currencies"}
    path = dual.write_scb(lookups=lookups, fields=fields)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    written["accounts"]["fields"]["currency_code"] = fields["currency_code"]
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    dual.open()
    dual.post_day(FIRST_DAY)
    report = compare(dual)
    assert report.matches
    sums = {one.currency: one for one in report.currencies()}
    assert sums["CHF"].here == sums["EUR"].stated > 0
    assert sums["CHF"].stated == sums["EUR"].here == 0
    assert all(one.difference == 0 for one in sums.values())


def test_times_of_the_mapping_may_lie_on_another_day_than_the_banks(dual: Dual) -> None:
    fields = {**dual.definition().fields.model_dump(mode="json", by_alias=True, exclude_defaults=True)}
    fields["timestamp_utc"] = {"column": "day", "format": "%Y-%m-%d", "timezone": "UTC"}
    columns = {"day": {"column": "booked_at", "slice": [0, 10]}}
    dual.write_scb(fields=fields, columns=columns)
    dual.open()
    for day in dual.days():
        dual.post_day(day)
    for day in dual.days():
        report = compare(dual, day)
        assert (report.verdict, report.here) == ("match", ENTRIES), report.sentence


def test_an_entry_that_a_person_repaired_is_here_and_still_not_what_the_bank_has(dual: Dual) -> None:
    dual.write_scb(
        rules=[{"when": {"reference": FIRST}, "reject": "looks wrong"}],
        max_error_rate="1",
    )
    dual.open()
    dual.post_day(FIRST_DAY)
    assert [one[:2] for one in found(compare(dual))] == [("missing here", FIRST)]
    dual.write_scb(max_error_rate="1")
    report = compare(dual)
    amount, currency = amount_of(dual, FIRST)
    assert found(report) == [("missing here", FIRST, None, None, f"{amount} {currency}")]
    assert str(report.breaks[0].reason) == "not posted"


def test_a_row_that_was_sent_again_as_it_is_is_equal_and_one_that_was_changed_is_not(dual: Dual) -> None:
    there = dual.entries_there()
    unknown = there[FIRST].debit
    accounts = [one.id for one in dual.book().ledger.accounts]
    dual.write_scb(accounts=[one for one in accounts if one != unknown], max_error_rate="1")
    dual.open()
    dual.post_day(FIRST_DAY)
    missing = [one.reference for one in compare(dual).breaks]
    assert FIRST in missing
    dual.query(
        "INSERT INTO bank_accounts (id, currency_code) VALUES (%s, %s)", unknown, there[FIRST].currency
    )
    replay_all(dual, {1: {"amount": "1"}})
    report = compare(dual)
    assert found(report) == [("different", FIRST, "amount", "1", amount_of(dual, FIRST)[0])]
    assert report.equal == ENTRIES - 1


def replay_all(dual: Dual, cells: dict[int, dict[str, object]]) -> None:
    """Sends all rejects of the first day again, some with other cells."""
    definition = day_definition(dual.definition(), FIRST_DAY)
    work = open_work(definition, dual.places)
    with work.connect() as connection:
        states = replays.reject_states(connection, work.registration.id, open_only=True)
    file = dual.folder / "rejects.csv"
    with file.open("wb") as opened:
        write_export(opened, work.registration, states, latest_cells(states, source_cells(work, states)))
    repair(file, cells)
    replay_rejects(
        definition, dual.places, file, run_id="replay", replayed_by="somebody", log=lambda message: None
    )


def test_a_definition_that_changed_since_is_told_by_what_it_makes_of_entries_now(dual: Dual) -> None:
    dual.open()
    dual.post_day(FIRST_DAY)
    dual.write_scb(metadata=["narrative"])
    report = compare(dual)
    assert report.break_kinds == {"different": ENTRIES}
    assert {one.field for one in report.breaks} == {"metadata"}
    assert report.equal == 0


def test_two_definitions_of_one_name_after_the_other_see_the_same_entries(dual: Dual) -> None:
    """A definition that got another id posts nothing twice, and misses nothing."""
    dual.open()
    dual.post_day(FIRST_DAY)
    text = (dual.sources_dir / "scb_01.yaml").read_text(encoding="utf-8")
    (dual.sources_dir / "scb_01.yaml").write_text(text.replace("id: scb_01", "id: renamed"), encoding="utf-8")
    report = compare(dual)
    assert (report.verdict, report.source_id, report.compared) == ("match", "renamed", "fetched")


def test_accounts_that_cannot_be_read_backwards_are_said_in_a_sentence(dual: Dual) -> None:
    dual.open()
    dual.post_day(FIRST_DAY)
    dual.post_here("OURS-1")
    tell(dual)
    fields = {**dual.definition().fields.model_dump(mode="json", by_alias=True, exclude_defaults=True)}
    fields["debit_account_id"] = {"template": "{debit_account}"}
    dual.write_scb(fields=fields)
    with pytest.raises(SourceDefinitionError, match="cannot be sent to the bank"):
        compare(dual)
    dual.write_scb(fields=fields, scb={"send_entries": "false"})
    assert compare(dual).matches


def test_a_day_is_registered_by_nothing_but_fetching_it(dual: Dual) -> None:
    dual.open()
    compare(dual)
    assert dual.value("SELECT count(*) FROM backfill_registrations") == 0
    register_source(day_definition(dual.definition(), FIRST_DAY), dual.places)
    report = compare(dual)
    assert (report.compared, report.equal) == ("capture", 0)
    assert report.served_sums.get("EUR", Decimal(0)) > 0
