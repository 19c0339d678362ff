"""Sources that grow: what was posted stays posted, only what is new runs, and the whole is still proven."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.ledger import checkpoints, registrations
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.sources import several
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.prepare import PartitionFrames
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.repair import fix
from backfill_pipeline_tests.stages.world import HEADER, World, entries, entry

GENERATED = "reference_id: {generate: true, columns: [debit, credit, amount, time]}"


class Inbox:
    """A source of several files."""

    def __init__(self, world: World, **settings: object) -> None:
        self.world = world
        self.folder = world.folder / "sources" / "in"
        self.folder.mkdir(parents=True)
        self.source = world.write("s", [], file=None, files="in/*.csv", **settings)

    def put(self, name: str, rows: Sequence[Sequence[object]]) -> Path:
        path = self.folder / name
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
        return path

    @property
    def registration(self) -> Registration:
        with connect(self.world.url) as connection:
            found = registrations.load(connection, "s")
        assert found is not None
        return found

    @property
    def states(self) -> dict[str, bool]:
        return {partition.key: partition.posted for partition in self.registration.partitions}


@pytest.fixture
def inbox(world: World) -> Inbox:
    return Inbox(world)


def test_a_new_file_adds_its_partitions_and_nothing_is_read_twice(world: World, inbox: Inbox) -> None:
    inbox.put("2024-01.csv", entries(25))
    world.post(inbox.source)
    before = inbox.registration
    inbox.put("2024-02.csv", entries(12, first=26))
    reports = world.post(inbox.source)

    grown = inbox.registration
    assert (grown.id, grown.revision, grown.row_count) == (before.id, 1, 37)
    assert grown.partitions[:3] == before.partitions
    assert list(inbox.states) == ["0001", "0002", "0003", "0004", "0005"]
    assert [report.already_posted for report in reports] == [True] * 3 + [False] * 2
    assert [file.name for file in grown.files] == ["2024-01.csv", "2024-02.csv"]
    assert len(world.references()) == 37
    assert world.value("SELECT sum(duplicates)::int FROM backfill_batches") == 0
    assert world.value("SELECT count(*)::int FROM backfill_source_data") == 37
    assert world.query(
        "SELECT sha256, row_count, partitions, completed_at IS NULL FROM backfill_growths"
    ) == [(before.sha256, 25, 3, False)]
    found = world.reconcile(inbox.source)
    assert found.matches
    assert (found.read, found.entries_compared, found.open_partitions) == (37, 37, 0)
    with connect(world.url) as connection:
        checkpoint = checkpoints.load(connection, "s")
    assert checkpoint is not None
    assert (checkpoint.status, checkpoint.processed, checkpoint.successful) == ("COMPLETED", 37, 37)


def test_the_ledger_of_a_grown_source_is_that_of_one_run(
    world: World, server: Server, tmp_path: Path
) -> None:
    rows = [*entries(40), entry(3), entry(7, amount="99.00"), entry(50, amount="x")]
    files = {"b.csv": rows[:17], "a.csv": rows[17:30], "c.csv": rows[30:]}
    inbox = Inbox(world, max_error_rate="1")
    for name, part in files.items():
        inbox.put(name, part)
        world.post(inbox.source)
    counts = world.reconcile(inbox.source)
    assert (counts.read, counts.posted, counts.duplicates, counts.conflicts, counts.rejected) == (
        43,
        40,
        1,
        1,
        1,
    )
    assert counts.matches
    with server.ledger_database() as url:
        at_once = Inbox(World(url, tmp_path / "at_once"), max_error_rate="1")
        for name, part in files.items():
            at_once.put(name, part)
        at_once.world.post(at_once.source)
        expected = at_once.world.snapshot()
    # All but the row numbers, which follow the order in which the files came.
    assert [row[:-1] for row in world.snapshot().entries] == [row[:-1] for row in expected.entries]
    assert world.snapshot().accounts == expected.accounts


def test_a_file_that_sorts_before_the_others_shifts_nothing(world: World, inbox: Inbox) -> None:
    inbox.put("m.csv", entries(10))
    world.post(inbox.source)
    inbox.put("a.csv", entries(10, first=11))
    inbox.put("z.csv", entries(10, first=21))
    world.post(inbox.source)
    inbox.put("b.csv", entries(10, first=31))
    world.post(inbox.source)
    assert [file.name for file in inbox.registration.files] == ["m.csv", "a.csv", "z.csv", "b.csv"]
    assert inbox.registration.revision == 1
    assert world.value("SELECT sum(duplicates)::int FROM backfill_batches") == 0
    assert world.reconcile(inbox.source).matches


def test_frames_that_were_made_before_serve_after(
    world: World, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("1.csv", entries(20))
    world.post(inbox.source)
    inbox.put("2.csv", entries(10, first=21))
    world.post(inbox.source)

    def fail(*_: object) -> None:
        raise AssertionError("a partition was read again")

    monkeypatch.setattr(CsvReader, "read_chunk", fail)
    assert world.reconcile(inbox.source).matches


def test_frames_that_are_gone_are_made_again(world: World, inbox: Inbox) -> None:
    inbox.put("1.csv", entries(20))
    world.post(inbox.source)
    inbox.put("0.csv", entries(10, first=21))
    world.post(inbox.source)
    shutil.rmtree(world.places.intermediates_dir)
    found = world.reconcile(inbox.source)
    assert found.matches
    assert found.entries_compared == 30


def test_a_known_file_is_not_surveyed_again(
    world: World, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("1.csv", entries(20))
    world.post(inbox.source)
    new = inbox.put("0.csv", entries(10, first=21))
    surveyed: list[Path] = []
    survey = CsvReader.survey

    def spy(self: CsvReader, *arguments: object, **options: object) -> object:
        surveyed.append(self._content.file)
        return survey(self, *arguments, **options)

    monkeypatch.setattr(CsvReader, "survey", spy)
    world.post(inbox.source)
    assert [file for file in surveyed if file.parent == inbox.folder] == [new]


def test_a_source_grows_while_partitions_are_open(world: World, inbox: Inbox) -> None:
    inbox.put("1.csv", entries(30))
    world.post(inbox.source, keys=["0002"])
    inbox.put("2.csv", entries(5, first=31))
    world.register(inbox.source)
    assert inbox.states == {"0001": False, "0002": True, "0003": False, "0004": False}
    world.post(inbox.source, register=False)
    assert inbox.registration.completed_at is not None
    assert len(world.references()) == 35
    assert world.reconcile(inbox.source).matches


def test_a_partition_that_failed_does_not_keep_a_source_from_growing(world: World, inbox: Inbox) -> None:
    inbox.put("1.csv", [*entries(9), entry(10, amount="x")])
    (report,) = world.run(inbox.source)
    assert report.error is not None
    inbox.put("2.csv", entries(10, first=11))
    first, second = world.run(inbox.source)
    assert first.error is not None
    assert second.error is None
    assert inbox.states == {"0001": False, "0002": True}


def test_files_that_came_since_do_not_disturb_what_is_registered(world: World, inbox: Inbox) -> None:
    inbox.put("2.csv", entries(20))
    world.register(inbox.source)
    inbox.put("1.csv", entries(5, first=21))
    world.post(inbox.source, register=False)  # a resume
    assert world.reconcile(inbox.source).matches
    assert len(world.references()) == 20


def test_a_file_without_rows_is_kept_and_nothing_is_open(world: World, inbox: Inbox) -> None:
    inbox.put("1.csv", entries(10))
    world.post(inbox.source)
    inbox.put("2.csv", [])
    world.post(inbox.source)
    registration = inbox.registration
    assert [file.row_count for file in registration.files] == [10, 0]
    assert registration.completed_at is not None
    inbox.put("0.csv", entries(10, first=11))
    world.post(inbox.source)
    assert [file.name for file in inbox.registration.files] == ["1.csv", "2.csv", "0.csv"]
    assert world.reconcile(inbox.source).matches


def test_a_source_that_began_without_rows_grows(world: World, inbox: Inbox) -> None:
    inbox.put("1.csv", [])
    world.register(inbox.source)
    inbox.put("2.csv", entries(10))
    world.post(inbox.source)
    assert inbox.registration.revision == 1
    assert world.reconcile(inbox.source).matches


def test_a_registered_file_that_is_gone_is_named_and_refused(world: World, inbox: Inbox) -> None:
    gone = inbox.put("1.csv", entries(10))
    inbox.put("2.csv", entries(10, first=11))
    world.post(inbox.source)
    text = gone.read_bytes()
    gone.unlink()
    inbox.put("3.csv", entries(10, first=21))
    for attempt in (world.register, lambda path: open_work(load_definition(path), world.places)):
        with pytest.raises(SourceChangedError, match=r"lacks what was registered of it: 1\.csv; put it back"):
            attempt(inbox.source)
    gone.write_bytes(text)
    world.post(inbox.source)
    assert inbox.registration.revision == 1
    gone.unlink()
    world.post(inbox.source, accept_changed=True)
    assert inbox.registration.revision == 2
    assert world.value("SELECT sum(duplicates)::int FROM backfill_batches") == 20
    assert world.reconcile(inbox.source).matches


@pytest.mark.parametrize("change", ["a cell", "a row more", "a row less"])
def test_a_registered_file_that_changed_is_a_new_revision(world: World, inbox: Inbox, change: str) -> None:
    inbox.put("1.csv", entries(15))
    inbox.put("2.csv", entries(10, first=16))
    world.post(inbox.source)
    rows = {
        "a cell": [*entries(14), entry(15, note="other")],
        "a row more": [*entries(15), entry(90)],
        "a row less": entries(14),
    }[change]
    inbox.put("1.csv", rows)
    inbox.put("3.csv", entries(10, first=31))
    world.run(inbox.source, accept_changed=False)
    assert inbox.registration.revision == 2
    assert world.value("SELECT count(*)::int FROM ledger_entries WHERE reference_id LIKE 'R%%'") in (35, 36)


def test_another_mapping_is_no_growth(world: World, inbox: Inbox) -> None:
    inbox.put("1.csv", entries(10))
    world.post(inbox.source)
    inbox.put("2.csv", entries(10, first=11))
    inbox.source.write_text(
        inbox.source.read_text() + "rules: [{when: {note: {equals: zzz}}, filter: test}]\n"
    )
    world.post(inbox.source)
    assert inbox.registration.revision == 2


def test_generated_references_of_old_rows_stay_and_repeats_go_on(world: World) -> None:
    inbox = Inbox(world)
    inbox.source.write_text(inbox.source.read_text().replace("reference_id: ref", GENERATED))
    inbox.put("m.csv", [entry(1), entry(2), entry(1)])
    world.post(inbox.source)
    before = world.references()
    inbox.put("a.csv", [entry(1), entry(3)])
    world.post(inbox.source)
    after = world.references()
    assert set(before) < set(after)
    assert len(after) == 5  # three equal payments are three
    assert sorted(str(one).rsplit("-", 1)[1] for one in after) == ["0", "0", "0", "1", "2"]
    shutil.rmtree(world.places.intermediates_dir)
    assert world.reconcile(inbox.source).matches


def test_a_copy_of_a_file_is_refused_where_it_would_be_posted_again(world: World) -> None:
    inbox = Inbox(world)
    inbox.put("1.csv", entries(5))
    inbox.put("copy.csv", entries(5))
    generated = inbox.source.read_text().replace("reference_id: ref", GENERATED)
    inbox.source.write_text(generated)
    with pytest.raises(SourceFileError, match=r"copy\.csv of source s holds exactly what 1\.csv holds"):
        world.register(inbox.source)
    (inbox.folder / "copy.csv").unlink()
    world.post(inbox.source)
    for name in ("0.csv", "2.csv"):
        inbox.put(name, entries(5))
        with pytest.raises(SourceFileError, match=rf"{name} of source s holds exactly what 1\.csv holds"):
            world.register(inbox.source)
        (inbox.folder / name).unlink()
    inbox.put("2.csv", [])
    inbox.put("3.csv", [])
    world.post(inbox.source)
    inbox.put("really.csv", entries(5))
    world.post(inbox.source, accept_changed=True)
    world.post(inbox.source)  # it is registered now
    assert len(world.references()) == 10


def test_a_copy_of_a_file_with_references_of_its_own_is_duplicates(world: World, inbox: Inbox) -> None:
    inbox.put("1.csv", entries(5))
    inbox.put("2.csv", entries(5))
    world.post(inbox.source)
    assert len(world.references()) == 5
    assert world.value("SELECT sum(duplicates)::int FROM backfill_batches") == 5


def test_repaired_rows_under_generated_references_are_no_growth(world: World) -> None:
    """A new row of the content that a row was repaired to would get its reference, and be lost as its duplicate."""
    inbox = Inbox(world, max_error_rate="1")
    inbox.source.write_text(inbox.source.read_text().replace("reference_id: ref", GENERATED))
    inbox.put("1.csv", [entry(1), entry(2, amount="x")])
    world.post(inbox.source)
    fix(world, inbox.source, {2: {"amount": entry(2)[3]}})
    assert len(world.references()) == 2
    inbox.put("2.csv", [entry(2)])
    world.post(inbox.source)
    assert inbox.registration.revision == 2


def test_a_single_file_grows_by_whole_partitions(world: World) -> None:
    source = world.write("s", entries(20))
    world.post(source)
    world.write_rows("s", entries(33))
    world.post(source)
    assert world.query("SELECT revision, row_count::int FROM backfill_registrations") == [(1, 33)]
    assert world.value("SELECT sum(duplicates)::int FROM backfill_batches") == 0
    assert world.reconcile(source).matches


def test_a_single_file_whose_last_partition_was_not_full_is_a_new_revision(world: World) -> None:
    source = world.write("s", entries(25))
    world.post(source)
    world.write_rows("s", entries(33))
    world.post(source)
    assert world.value("SELECT max(revision) FROM backfill_registrations") == 2
    assert len(world.references()) == 33
    assert world.reconcile(source).matches


def test_cuts_of_known_files_stay_however_many_files_come(
    world: World, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many chunks a new file may give depends on the others; those that are there must not be cut anew."""
    monkeypatch.setattr(several, "CHUNK_COUNT_MAX", 8)
    inbox.put("1.csv", entries(40))
    world.post(inbox.source)
    assert len(inbox.states) == 4
    for number in range(2, 5):
        inbox.put(f"{number}.csv", entries(20, first=number * 100))
        world.post(inbox.source)
    registration = inbox.registration
    assert registration.revision == 1
    assert len(registration.partitions) == 8
    # There is no room for a ninth: all are cut anew.
    inbox.put("6.csv", entries(5, first=900))
    world.post(inbox.source)
    assert inbox.registration.revision == 2
    assert len(inbox.states) <= 8
    assert world.reconcile(inbox.source).matches


def test_only_the_named_files_are_registered(world: World, inbox: Inbox) -> None:
    inbox.put("1.csv", entries(10))
    inbox.put("2.csv", entries(10, first=11))
    register_source(load_definition(inbox.source), world.places, names=["2.csv"])
    world.post(inbox.source, register=False)
    assert [file.name for file in inbox.registration.files] == ["2.csv"]
    assert world.references() == [f"R{number:06d}" for number in range(11, 21)]
    register_source(load_definition(inbox.source), world.places, names=["1.csv", "2.csv"])
    world.post(inbox.source, register=False)
    assert [file.name for file in inbox.registration.files] == ["2.csv", "1.csv"]
    assert world.reconcile(inbox.source).matches


def test_the_frames_of_two_sets_of_files_in_one_home_are_not_mixed(world: World, inbox: Inbox) -> None:
    inbox.put("1.csv", entries(10))
    world.post(inbox.source)
    work = open_work(load_definition(inbox.source), world.places)
    inbox.put("2.csv", entries(10, first=11))
    world.post(inbox.source)
    grown = open_work(load_definition(inbox.source), world.places)
    assert work.intermediates.folder != grown.intermediates.folder
    assert PartitionFrames(grown, "0001", ()).validated().num_rows == 10
    assert not (work.intermediates.folder / "validated" / "0001.arrows").exists()
