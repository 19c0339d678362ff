"""Registering: what counts as the same source, what as a changed one, and what a changed one may do."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import SourceBusyError, SourceChangedError, SourceFileError, UsageError
from backfill_pipeline.ledger import connection as ledger_connection
from backfill_pipeline.ledger.connection import source_lock
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.stages.world import World, entries


@pytest.fixture
def half(world: World) -> Path:
    """Registered, and one of three partitions posted."""
    source = world.write("s", entries(30))
    world.post(source, keys=["0001"])
    return source


def revisions(world: World) -> object:
    return world.value("SELECT count(*)::int FROM backfill_registrations")


def test_the_same_source_again_is_the_same_registration(world: World, half: Path) -> None:
    world.register(half)
    assert revisions(world) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("description: written by a test", "description: something else"),
        ("partition_rows: '10'", "partition_rows: '7'"),
        ("id: s\n", "id: s\nconfig: {batch_size: 3}\n"),
        ("id: s\n", "id: s\nmax_error_rate: 0.5\n"),
        ("id: s\n", "# a comment\nid: s\n"),
    ],
)
def test_what_does_not_decide_what_rows_become_is_no_change(
    world: World, half: Path, before: str, after: str
) -> None:
    half.write_text(half.read_text().replace(before, after))
    world.post(half)
    assert revisions(world) == 1
    assert len(world.references()) == 30


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("constant: TRANSFER", "constant: FEE", "fields"),
        ("debit_account_id: debit", "debit_account_id: credit", "fields"),
        ("- note", "- currency", "metadata"),
        ("normal_side:\n      constant: debit", "normal_side:\n      constant: credit", "accounts"),
        ("id: s\n", "id: s\nunknown_accounts: create\n", "unknown_accounts"),
        ("id: s\n", "id: s\naccount_map: {inline: {A: B}}\n", "account_map"),
    ],
)
def test_a_changed_mapping_is_refused_by_run_and_resume_and_its_section_named(
    world: World, half: Path, before: str, after: str, named: str
) -> None:
    text = half.read_text()
    assert before in text
    half.write_text(text.replace(before, after))
    with pytest.raises(SourceChangedError, match=f"'{named}'"):
        world.register(half)
    with pytest.raises(SourceChangedError, match=f"'{named}'"):
        open_work(load_definition(half), world.places)
    assert len(world.references()) == 10


def test_a_row_more_in_a_partition_and_a_change_of_the_same_size_are_changes_of_the_content(
    world: World, half: Path
) -> None:
    for rows in (entries(31, first=0), [*entries(29), entries(1, first=30, amount="99.00")[0]]):
        world.write_rows("s", rows)
        for attempt in (world.register, lambda path: open_work(load_definition(path), world.places)):
            with pytest.raises(SourceChangedError, match=r"content of s\.csv"):
                attempt(half)
    world.write_rows("s", entries(30))
    world.post(half)
    assert world.reconcile(half).matches


def test_a_file_that_changes_between_registration_and_reading_posts_nothing_of_it(world: World) -> None:
    """Registered, opened, and only then overwritten: the chunk is not the one of the manifest any more."""
    from backfill_pipeline.stages.config import BackfillConfig
    from backfill_pipeline.stages.prepare import STAGES
    from backfill_pipeline.stages.runner import PartitionRunner

    source = world.write("s", entries(30))
    definition = world.register(source)
    work = open_work(definition, world.places)
    world.write_rows("s", [*entries(15), *entries(15, first=16, amount="77.00")])
    runner = PartitionRunner(work, BackfillConfig(), STAGES, "run", lambda message: None)
    reports = list(runner.run(["0001", "0002", "0003"]))
    assert [report.error is None for report in reports] == [True, False, False]
    assert all(isinstance(report.error, SourceFileError | SourceChangedError) for report in reports[1:])
    assert len(world.references()) == 10


def test_other_reference_columns_are_refused_even_when_everything_is_posted(world: World) -> None:
    source = world.write("s", entries(20))
    text = source.read_text().replace(
        "reference_id: ref", "reference_id: {generate: true, columns: [ref, amount]}"
    )
    source.write_text(text)
    world.post(source)
    source.write_text(text.replace("[ref, amount]", "[ref, time]"))
    with pytest.raises(SourceChangedError, match="references from other columns"):
        world.register(source)
    assert len(world.references()) == 20


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("reference_id: ref", "reference_id: note"),
        ("reference_id: ref", "reference_id: {template: 'X-{ref}'}"),
        ("constant: MASTER\n  debit", "constant: OTHER\n  debit"),
        (
            "id: s\n",
            "id: s\nrules: [{when: {note: {equals: note 1}}, set: {reference_id: {column: note}}}]\n",
        ),
    ],
)
def test_another_rule_for_references_is_refused_even_when_everything_is_posted(
    world: World, before: str, after: str
) -> None:
    """Every row would be posted a second time: under another reference, or in another ledger."""
    source = world.write("s", entries(20))
    world.post(source)
    text = source.read_text()
    assert before in text
    source.write_text(text.replace(before, after))
    with pytest.raises(SourceChangedError, match=r"fields\.reference_id"):
        world.register(source)
    assert len(world.references()) == 20
    world.register(source, accept_changed=True)


def test_what_derived_columns_make_references_of_counts_too(world: World) -> None:
    columns = {"key": {"template": "{ref}-{currency}"}}
    source = world.write("s", entries(20), columns=columns)
    source.write_text(source.read_text().replace("reference_id: ref", "reference_id: key"))
    world.post(source)
    text = source.read_text()
    source.write_text(text.replace("{ref}-{currency}", "{ref}/{currency}"))
    with pytest.raises(SourceChangedError, match=r"fields\.reference_id"):
        world.register(source)
    source.write_text(text)
    assert world.register(source)


def test_a_source_registered_before_that_was_known_goes_on(world: World) -> None:
    source = world.write("s", entries(20))
    world.post(source)
    world.tamper(
        """UPDATE backfill_registrations SET mapping_parts = mapping_parts || '{"reference_columns": ""}'"""
    )
    world.register(source)
    assert world.value("SELECT count(*) FROM backfill_registrations") == 1


def test_a_source_that_was_never_registered_says_how_to(world: World) -> None:
    with pytest.raises(UsageError, match="not registered"):
        open_work(load_definition(world.write("s", entries(1))), world.places)


def test_a_changed_opening_balance_is_never_posted_beside_the_old_one(world: World) -> None:
    source = world.write("s", entries(10), accounts={"A": 5, "B": 100})
    world.post(source)
    book = world.folder / "sources" / "s_accounts.csv"
    book.write_text(book.read_text().replace("A,5", "A,6"))
    with pytest.raises(Exception, match="opening balances of source s cannot be posted"):
        world.run(source)
    assert (
        world.value("SELECT count(*)::int FROM ledger_entries WHERE transaction_type = 'OPENING_BALANCE'")
        == 2
    )


def test_a_changed_source_is_not_registered_while_a_run_posts_the_current_one(
    world: World, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_connection, "SOURCE_LOCK_WAIT_S", 0.1)
    half.write_text(half.read_text() + "unknown_accounts: create\n")
    with (
        source_lock(world.url, "s"),
        pytest.raises(SourceBusyError, match="source s is being written by another run"),
    ):
        world.register(half, accept_changed=True)
    assert revisions(world) == 1
    world.register(half, accept_changed=True)
    assert revisions(world) == 2
