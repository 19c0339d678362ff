"""What the inbox makes of files: which are complete, which are new, which are copies, and what is to be done next."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.ledger import inbox as ledger_inbox
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.sources.files import content
from backfill_pipeline.stages import inbox_files
from backfill_pipeline.stages.inbox import PATIENCE, SourceInbox, Step, examine
from backfill_pipeline.stages.inbox_files import is_in_inbox, look, strangers
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline_tests.stages.rolling_back import roll_back
from backfill_pipeline_tests.stages.world import HEADER, World, entries, entry

NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
SETTLE_S = 60


class Watched:
    """A folder that is looked at now and then, by a clock of the test's own."""

    def __init__(self, world: World, **settings: object) -> None:
        self.world = world
        self.folder = world.folder / "sources" / "in"
        self.folder.mkdir(parents=True)
        self.source = world.write("s", [], **({"file": None, "files": "in/*.csv"} | settings))
        self.now = NOON

    def put(self, name: str, rows: Sequence[Sequence[object]]) -> Path:
        path = self.folder / name
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
        return path

    def look(self, *, later_s: float = 30, remember: bool = True) -> SourceInbox:
        self.now += timedelta(seconds=later_s)
        definition = load_definition(self.source)
        with connect(self.world.url) as connection:
            found = look(
                connection, [definition], self.folder, now=self.now, settle_s=SETTLE_S, remember=remember
            )
            return examine(connection, definition, found, self.now)

    def settled(self) -> SourceInbox:
        """Looks until what is there is at rest."""
        self.look()
        return self.look(later_s=SETTLE_S)

    def take(self, step: Step) -> None:
        """Does what a step says, without an orchestrator."""
        definition = load_definition(self.source)
        if step.kind == "register":
            register_source(definition, self.world.places, names=step.names or None)
        elif step.kind == "post":
            self.world.run(self.source, register=False)
        else:
            self.world.reconcile(self.source)

    def process(self) -> list[str]:
        """Takes every step there is, as often as one is new; the kinds of the steps."""
        done: dict[str, str] = {}
        self.settled()
        for _ in range(10):
            fresh = [step for step in self.look().steps if step.signature not in done]
            if not fresh:
                return list(done.values())
            done[fresh[0].signature] = fresh[0].kind
            self.take(fresh[0])
        raise AssertionError(f"never at rest: {done}")

    def states(self) -> dict[str, str]:
        return {file.path.name: file.state for file in self.look().files}


@pytest.fixture
def watched(world: World) -> Watched:
    return Watched(world)


def test_a_file_that_still_grows_is_left_alone_and_one_at_rest_is_taken(watched: Watched) -> None:
    for count in range(1, 6):
        path = watched.put("1.csv", entries(count))
        found = watched.look(later_s=SETTLE_S)
        assert [file.state for file in found.files] == ["waiting"]
        assert found.steps == ()
    os.utime(path)  # its size is the same, its time is not
    assert watched.look(later_s=SETTLE_S).steps == ()
    assert watched.look(later_s=SETTLE_S - 1).steps == ()
    (step,) = watched.look(later_s=1).steps
    assert (step.kind, step.names) == ("register", ("1.csv",))


def test_an_old_time_of_a_file_makes_it_no_older_than_it_was_seen(watched: Watched) -> None:
    path = watched.put("1.csv", entries(5))
    for stamp in (0, 4_000_000_000):
        os.utime(path, (stamp, stamp))
        assert watched.look().steps == ()
    assert watched.look(later_s=SETTLE_S).steps != ()


def test_one_look_is_never_enough(watched: Watched) -> None:
    watched.put("1.csv", entries(5))
    assert watched.look(later_s=100_000).steps == ()


def test_empty_and_unfinished_files_are_not_taken(watched: Watched) -> None:
    (watched.folder / "0.csv").touch()
    for name in ("1.csv.part", ".1.csv", "~1.csv", "1.csv.filepart", "1.csv.tmp"):
        watched.put(name, entries(1))
    watched.source.write_text(watched.source.read_text().replace("in/*.csv", "in/*"))
    found = watched.settled()
    assert [(file.path.name, file.state, file.note) for file in found.files] == [
        ("0.csv", "waiting", "empty")
    ]
    assert found.steps == ()


def test_what_is_processed_is_registered_posted_and_reconciled_once(watched: Watched) -> None:
    watched.put("1.csv", entries(25))
    assert watched.process() == ["register", "post", "finish"]
    assert watched.process() == []
    assert watched.states() == {"1.csv": "done"}
    watched.put("2.csv", entries(5, first=26))
    assert watched.process() == ["register", "post", "finish"]
    assert len(watched.world.references()) == 30
    assert watched.world.value("SELECT sum(duplicates)::int FROM backfill_batches") == 0


def test_only_new_partitions_are_posted(watched: Watched) -> None:
    watched.put("2.csv", entries(20))
    watched.process()
    watched.put("1.csv", entries(20, first=21))
    register = watched.settled().steps[0]
    watched.take(register)
    (post,) = watched.look().steps
    assert (post.kind, post.first_key, post.last_key) == ("post", "0003", "0004")


def test_files_that_come_together_run_together_and_none_waits_for_ever(watched: Watched) -> None:
    watched.put("1.csv", entries(5))
    watched.look()
    growing = 1
    watched.put("2.csv", entries(growing, first=100))
    while not (steps := watched.look(later_s=SETTLE_S / 2).steps):
        growing += 1
        watched.put("2.csv", entries(growing, first=100))
    assert steps[0].names == ("1.csv",)
    assert growing * SETTLE_S / 2 >= PATIENCE.total_seconds() - SETTLE_S


def test_a_copy_under_another_name_is_left_out(watched: Watched) -> None:
    path = watched.put("1.csv", entries(5))
    watched.process()
    (watched.folder / "1 (2).csv").write_bytes(path.read_bytes())
    found = watched.settled()
    assert found.steps == ()
    copy = next(file for file in found.files if file.path.name == "1 (2).csv")
    assert (copy.state, copy.note) == ("copy", "has the content of 1.csv: left out")
    watched.put("2.csv", entries(5, first=6))
    assert watched.process() == ["register", "post", "finish"]
    assert len(watched.world.references()) == 10
    assert watched.states() == {"1.csv": "done", "1 (2).csv": "copy", "2.csv": "done"}


def test_two_copies_that_come_together_are_one(watched: Watched) -> None:
    path = watched.put("1.csv", entries(5))
    (watched.folder / "2.csv").write_bytes(path.read_bytes())
    assert watched.settled().steps[0].names == ("1.csv",)


def test_days_without_rows_are_no_copies_of_each_other(watched: Watched) -> None:
    watched.put("1.csv", [])
    watched.process()
    watched.put("2.csv", [])
    watched.process()
    watched.put("3.csv", entries(3))
    watched.process()
    assert watched.states() == {"1.csv": "done", "2.csv": "done", "3.csv": "done"}
    assert len(watched.world.references()) == 3


def test_a_file_that_was_touched_is_not_processed_again(watched: Watched) -> None:
    path = watched.put("1.csv", entries(5))
    watched.process()
    os.utime(path)
    assert watched.states() == {"1.csv": "waiting"}
    assert watched.process() == []


def test_a_corrected_file_is_a_new_revision(watched: Watched) -> None:
    watched.put("1.csv", entries(5))
    watched.process()
    watched.put("1.csv", entries(6))
    assert watched.process()[0] == "register"
    assert watched.world.value("SELECT max(revision) FROM backfill_registrations") == 2
    assert len(watched.world.references()) == 6


def test_a_processed_file_that_is_gone_is_named_and_nothing_is_launched(watched: Watched) -> None:
    path = watched.put("1.csv", entries(5))
    watched.process()
    path.unlink()
    watched.put("2.csv", entries(5, first=6))
    found = watched.settled()
    assert found.steps == ()
    assert found.trouble is not None
    assert "1.csv" in found.trouble
    assert "put it back" in found.trouble


def test_what_was_interrupted_is_the_next_step(watched: Watched) -> None:
    watched.put("1.csv", entries(30))
    watched.take(watched.settled().steps[0])
    first = watched.look().steps[0]
    watched.world.run(watched.source, keys=["0001"], register=False)
    second = watched.look().steps[0]
    assert (first.kind, second.kind, second.first_key) == ("post", "post", "0002")
    assert first.signature != second.signature  # it got further, so it may be tried again


def test_partitions_that_failed_are_told_and_not_tried_again(watched: Watched) -> None:
    watched.put("1.csv", [entry(1, amount="x")])
    watched.put("2.csv", entries(5, first=2))
    assert watched.process() == ["register", "post"]
    found = watched.look()
    assert found.steps == ()
    assert found.trouble is not None
    assert "partition 0001 was not posted" in found.trouble
    watched.put("3.csv", entries(5, first=7))
    assert watched.process() == ["register", "post"]  # the next day is not held up
    assert len(watched.world.references()) == 10


def test_the_signature_of_a_step_changes_with_files_and_definition_alone(watched: Watched) -> None:
    path = watched.put("1.csv", entries(5))
    first = watched.settled().steps[0].signature
    assert watched.look().steps[0].signature == first
    watched.source.write_text(watched.source.read_text().replace("constant: TRANSFER", "constant: FEE"))
    second = watched.look().steps[0].signature
    path.write_text(path.read_text().replace("note 1", "note 0"))
    third = watched.settled().steps[0].signature
    assert len({first, second, third}) == 3


def test_a_single_file_is_watched_too(world: World) -> None:
    watched = Watched(world, file="in/export.csv", files=None)
    assert watched.look().steps == ()
    watched.put("export.csv", entries(20))
    assert watched.process() == ["register", "post", "finish"]
    watched.put("export.csv", entries(30))
    assert watched.process() == ["register", "post", "finish"]
    assert world.query("SELECT revision, row_count::int FROM backfill_registrations") == [(1, 30)]
    assert watched.process() == []


def test_an_accounts_file_that_is_gone_is_told(watched: Watched) -> None:
    watched.put("1.csv", entries(5))
    (watched.folder.parent / "s_accounts.csv").unlink()
    found = watched.settled()
    assert found.steps == ()
    assert "s_accounts.csv" in str(found.trouble)


def test_a_file_is_read_once_and_only_by_looks_that_remember(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(
        inbox_files, "file_fingerprint", lambda file: read.append(file) or content.file_fingerprint(file)
    )
    path = watched.put("1.csv", entries(5))
    assert watched.look(remember=False).files[0].state == "waiting"
    assert watched.look(later_s=SETTLE_S, remember=False).files[0].state == "waiting"
    for _ in range(5):
        watched.look(later_s=SETTLE_S)
    assert read == [path]


def test_a_look_reads_for_a_while_and_the_next_goes_on(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.put("1.csv", entries(5))
    watched.look()
    monkeypatch.setattr(inbox_files, "HASH_S", 0.0)
    assert watched.look(later_s=SETTLE_S).files[0].state == "waiting"
    monkeypatch.undo()
    assert watched.look().files[0].state == "new"


def test_files_too_large_to_be_read_by_a_look_are_told_by_name_and_size(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_files, "HASH_BYTES_MAX", 10)
    watched.put("1.csv", entries(5))
    assert watched.process() == ["register", "post", "finish"]
    assert watched.states() == {"1.csv": "done"}
    watched.put("1.csv", entries(6))
    watched.settled()
    assert watched.states() == {"1.csv": "changed"}


def test_a_file_that_may_not_be_read_says_so(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, and tests run as root: the system's answers are given instead."""

    def refuse(file: Path) -> tuple[int, str]:
        raise SourceFileError(f"{file}: cannot be read: permission denied.")

    monkeypatch.setattr(inbox_files, "file_fingerprint", refuse)
    monkeypatch.setattr(inbox_files.os, "access", lambda path, mode: False)
    watched.put("1.csv", entries(5))
    (file,) = watched.settled().files
    assert (file.state, file.note) == ("waiting", "may not be read: give this process permission")


def test_a_refused_file_is_left_out_of_what_is_registered(watched: Watched) -> None:
    watched.put("1.csv", entries(5))
    bad = watched.put("2.csv", entries(5, first=6))
    watched.settled()
    definition = load_definition(watched.source)
    with connect(watched.world.url) as connection:
        found = look(
            connection, [definition], watched.folder, now=watched.now, settle_s=SETTLE_S, remember=False
        )
        inbox = examine(connection, definition, found, watched.now, {bad: "it is bad"})
    assert [(file.state, file.note) for file in inbox.files] == [("new", ""), ("refused", "it is bad")]
    assert [step.names for step in inbox.steps] == [("1.csv",)]


def test_files_that_are_gone_are_forgotten(watched: Watched) -> None:
    path = watched.put("1.csv", entries(5))
    watched.look()
    path.unlink()
    elsewhere = ledger_inbox.Observation(1, 1, NOON)
    with connect(watched.world.url) as connection:
        ledger_inbox.store(connection, {"/another/home/inbox/1.csv": elsewhere}, [])
    watched.look()
    with connect(watched.world.url) as connection:
        assert ledger_inbox.load(connection) == {"/another/home/inbox/1.csv": elsewhere}


def test_names_that_are_no_text_can_be_taken(watched: Watched) -> None:
    name = os.fsdecode(b"caf\xe9.csv")
    watched.put(name, entries(5))
    assert watched.process() == ["register", "post", "finish"]
    assert watched.states() == {name: "done"}
    watched.put("two\nlines.csv", entries(5, first=6))
    assert watched.process() == ["register", "post", "finish"]


def test_which_sources_take_files_from_the_inbox(world: World, tmp_path: Path) -> None:
    inbox = world.folder / "sources" / "in"
    for key, place, expected in (
        ("files", "in/*.csv", True),
        ("files", "in/*/x-*.csv", True),
        ("files", ["other/*.csv", "in/a/b.csv"], True),
        ("files", "*/x.csv", False),
        ("files", "inn/*.csv", False),
        ("file", "in/x.csv", True),
        ("file", "x.csv", False),
    ):
        source = world.write("s", [], **({"file": None, "files": None} | {key: place}))
        assert is_in_inbox(load_definition(source), inbox) is expected, place


def test_files_that_no_source_takes_are_listed(watched: Watched) -> None:
    taken = watched.put("1.csv", entries(1))
    (watched.folder / "deep").mkdir()
    (watched.folder / ".hidden").mkdir()
    for name in ("notes.txt", "deep/2.csv", ".gitignore", "3.csv.part", ".hidden/4.csv"):
        (watched.folder / name).touch()
    assert [path.name for path in strangers(watched.folder, [taken])] == ["notes.txt", "2.csv"]
    assert strangers(watched.folder / "nothing", []) == []


def test_a_run_by_hand_takes_what_lies_there_and_the_inbox_knows_it(watched: Watched) -> None:
    watched.put("1.csv", entries(5))
    watched.world.post(watched.source)
    watched.world.reconcile(watched.source)
    assert watched.process() == []
    assert watched.states() == {"1.csv": "done"}


def test_a_break_is_told(watched: Watched) -> None:
    watched.put("1.csv", entries(5))
    watched.process()
    watched.world.tamper("DELETE FROM ledger_entries WHERE reference_id = 'R000003'")
    watched.world.reconcile(watched.source)
    found = watched.look()
    assert found.steps == ()
    assert found.trouble == "ledger and source differ: backfill reconcile s tells where"


def test_a_change_while_partitions_are_open_is_refused_by_registering(watched: Watched) -> None:
    watched.put("1.csv", entries(30))
    watched.take(watched.settled().steps[0])
    watched.world.run(watched.source, keys=["0001"], register=False)
    watched.put("1.csv", entries(30, first=2))
    steps = watched.settled().steps
    assert [step.kind for step in steps] == ["register"]
    with pytest.raises(SourceChangedError, match="not posted yet"):
        watched.take(steps[0])


def test_what_a_person_rolled_back_is_not_posted_by_the_inbox(watched: Watched) -> None:
    watched.put("1.csv", entries(25))
    watched.process()
    roll_back(watched.world, "s", partition="0002")
    found = watched.look()
    assert found.steps == ()
    assert found.trouble == "partition 0002 was rolled back: backfill resume s posts it again"
    # What comes in is posted all the same.
    watched.put("2.csv", entries(15, first=26))
    watched.settled()
    watched.take(watched.look().steps[0])
    (step,) = watched.look().steps
    assert (step.kind, step.first_key, step.last_key) == ("post", "0004", "0005")


def test_a_run_of_the_inbox_ends_before_a_partition_that_was_rolled_back(watched: Watched) -> None:
    watched.put("1.csv", entries(40))
    watched.settled()
    watched.take(watched.look().steps[0])
    watched.world.run(watched.source, keys=["0003"], register=False)
    roll_back(watched.world, "s", partition="0003")
    (step,) = watched.look().steps
    assert (step.first_key, step.last_key) == ("0001", "0002")
