"""Repairing rejects as a person does: export them, change cells, send the file again."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger import replays
from backfill_pipeline.stages.reject_export import latest_cells, source_cells, write_export
from backfill_pipeline.stages.replay import ReplayReport, replay_rejects
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.stages.world import World

_numbers = itertools.count(1)


def export(world: World, source: Path) -> Path:
    """The open rejects of a source, as `backfill rejects export` writes them."""
    work = open_work(load_definition(source), world.places)
    with work.connect() as connection:
        states = replays.reject_states(connection, work.registration.id, open_only=True)
    file = world.folder / f"rejects-{next(_numbers)}.csv"
    with file.open("wb") as opened:
        write_export(opened, work.registration, states, latest_cells(states, source_cells(work, states)))
    return file


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def rewrite(file: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> Path:
    """Puts what `change` makes of the rows into the file."""
    rows = rows_of(file)
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(change(rows))
    return file


def repair(file: Path, cells: Mapping[int, Mapping[str, object]]) -> Path:
    """Changes cells: source row → column → what is written into it."""
    return rewrite(
        file,
        lambda rows: [
            row | {name: str(value) for name, value in cells.get(int(row["reject.row"]), {}).items()}
            for row in rows
        ],
    )


def replay(world: World, source: Path, file: Path) -> ReplayReport:
    return replay_rejects(
        load_definition(source),
        world.places,
        file,
        run_id=f"replay {next(_numbers)}",
        replayed_by="a test",
        log=lambda message: None,
    )


def fix(world: World, source: Path, cells: Mapping[int, Mapping[str, object]]) -> ReplayReport:
    """Exports, repairs and replays."""
    return replay(world, source, repair(export(world, source), cells))
