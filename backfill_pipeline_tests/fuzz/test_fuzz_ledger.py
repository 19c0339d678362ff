"""Fuzzed files all the way into a ledger: the equation holds there, and reconciliation agrees."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.errors import BackfillError, SourceFileError
from backfill_pipeline_tests.fuzz.files import FILE_TARGETS
from backfill_pipeline_tests.fuzz.mutations import mutated
from backfill_pipeline_tests.fuzz.targets import BUSY, as_yaml_gives_it, check_sentence
from backfill_pipeline_tests.stages.world import World

KINDS = sorted(FILE_TARGETS)


@pytest.fixture
def world(ledger_url: str, tmp_path: Path) -> World:
    return World(ledger_url, tmp_path)


def backfill(world: World, number: int, kind: str, data: bytes) -> bool:
    """Posts and reconciles a file as a source of its own; False when it is refused, which takes one sentence."""
    target, folder = FILE_TARGETS[kind], world.folder / "sources"
    folder.mkdir(exist_ok=True)
    file, path = folder / f"f{number}{target.suffix}", folder / f"f{number}.yaml"
    file.write_bytes(data)
    whole = {"id": f"f{number}", "file": file.name, **BUSY, **target.settings}
    whole |= {"max_error_rate": "1", "unknown_accounts": "create", "partition_rows": "3"}
    path.write_text(yaml.safe_dump(as_yaml_gives_it(whole), sort_keys=False))
    try:
        reports = world.run(path)
    except SourceFileError as error:
        check_sentence(error)
        assert world.query("SELECT 1 FROM backfill_registrations WHERE source_id = %s", f"f{number}") == []
        return False
    for report in reports:
        if isinstance(report.error, BackfillError):
            check_sentence(report.error)
        assert report.error is None, report.error
    outcome = world.query(
        "SELECT coalesce(sum(o.read), 0), coalesce(sum(o.posted + o.duplicates + o.conflicts + o.rejected + o.filtered), 0),"
        " coalesce(sum(o.conflicts + o.rejected), 0), coalesce(sum(o.rejects_recorded), 0)"
        " FROM backfill_partition_outcomes o JOIN backfill_partitions p ON p.id = o.partition_id"
        " JOIN backfill_registrations r ON r.id = p.registration_id WHERE r.source_id = %s",
        f"f{number}",
    )
    read, accounted, bad, kept = outcome[0]
    assert (read, bad) == (accounted, kept)
    found = world.reconcile(path)
    assert found.matches, found
    assert found.read == read
    return True


@pytest.mark.slow
@pytest.mark.e2e
@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fuzzed_files_in_one_ledger(world: World, data: st.DataObject) -> None:
    for number in range(40):
        kind = KINDS[number % len(KINDS)]
        target = FILE_TARGETS[kind]
        content = target.seeds[0] if number < len(KINDS) else data.draw(mutated(target.seeds, target.words))
        usable = backfill(world, number, kind, content)
        assert usable or number >= len(KINDS), "a good file was refused"
