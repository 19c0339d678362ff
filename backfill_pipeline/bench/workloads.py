"""Workloads: the data that contenders work on, made once and used by all of them alike.

Belongs here: generating an export, mapping it once, and ledgers that are ready to post into.
Does not: what is measured (`contenders.py`, `commands.py`).

A contender gets its ledger as a copy of one template, in which the source is registered, its partitions are prepared
and its accounts are open. So all of them start from the same bytes, and none waits for another's preparation.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import yaml
from psycopg import sql

from backfill_pipeline.bench.figures import BrokenContenderError
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.embedded import EmbeddedServer
from backfill_pipeline.local.endpoint import ensure_database
from backfill_pipeline.local.generate import GeneratedExport, generate
from backfill_pipeline.settings import make_walkable_dir
from backfill_pipeline.stages.config import BackfillConfig
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.post import prepare_ledger
from backfill_pipeline.stages.prepare import PartitionFrames, StageName
from backfill_pipeline.stages.runner import PartitionRunner
from backfill_pipeline.stages.work import Places, SourceWork, open_work

Role = Literal["main", "small", "large", "huge", "skewed", "uuid"]

_PREPARING: tuple[StageName, ...] = ("validated",)
_SEED = 1
_SOURCE_ID = "bench"
_TWIN_ID = "bench_twin"
_DATABASE = "bench"
_TEMPLATE = "bench_template"


@dataclass(frozen=True, slots=True)
class Workload:
    """Which data.

    Attributes:
        role: its part in the report; no two workloads of a run share one.
        skew: share of all legs that fall on one account; 0 leaves the generator's own spread.
        references: whether references come in order, as exports have them, or at random.
    """

    role: Role
    entries: int
    accounts: int
    skew: float = 0.0
    references: Literal["sequential", "uuid"] = "sequential"

    @property
    def title(self) -> str:
        """For people."""
        kind = f", {self.skew:.0%} of all legs on one account" if self.skew else ""
        kind += ", random references" if self.references == "uuid" else ""
        return f"{self.entries:,} entries between {self.accounts:,} accounts{kind}"

    @property
    def unavailable(self) -> str:
        """Why `backfill generate` cannot make it, or "" when it can."""
        missing = set(self._options) - set(inspect.signature(generate).parameters)
        return f"the generator has no {', '.join(sorted(missing))}" if missing else ""

    @property
    def _options(self) -> dict[str, float | str]:
        options: dict[str, float | str] = {}
        if self.skew:
            options["skew"] = self.skew
        if self.references != "sequential":
            options["references"] = self.references
        return options

    def generate(self, directory: Path) -> GeneratedExport:
        """Writes the export: as `backfill generate` does, without spoilt rows."""
        make: Callable[..., GeneratedExport] = generate
        return make(self.entries, self.accounts, _SEED, 0.0, directory, name=_SOURCE_ID, **self._options)


@dataclass(frozen=True, slots=True)
class Bench:
    """One workload on one server: what every contender is given.

    Attributes:
        home: a directory for this workload; contenders may write there.
        source_file: the source definition of the export.
        twin_file: a definition of the same export under another source id.
        entries: VALIDATED_SCHEMA, all entries in source order, mapped from a file: they are in no process's own memory.
    """

    home: Path
    server: EmbeddedServer
    workload: Workload
    source_file: Path
    twin_file: Path
    entries: pa.Table

    @staticmethod
    @contextmanager
    def prepare(server: EmbeddedServer, home: Path, workload: Workload) -> Iterator[Bench]:
        """Makes export, template and entries; removes everything afterwards."""
        make_walkable_dir(home)
        try:
            export = workload.generate(home / "export")
            twin = _write_twin(export.definition_file)
            bench = Bench(home, server, workload, export.definition_file, twin, pa.table({}))
            bench._make_template()
            yield replace(bench, entries=_map_file(bench._entries_file))
        finally:
            _drop(server, _TEMPLATE)
            shutil.rmtree(home, ignore_errors=True)

    @contextmanager
    def fresh_ledger(self) -> Iterator[tuple[Connection, Places]]:
        """An empty, migrated ledger of its own, dropped afterwards."""
        with self._database(None) as connection:
            migrate(connection)
            connection.execute("CHECKPOINT")
            yield connection, self._places(_DATABASE)

    @contextmanager
    def prepared_ledger(self, *, constrained: bool = False) -> Iterator[tuple[Connection, SourceWork]]:
        """A ledger in which only posting is left to do, dropped afterwards.

        Args:
            constrained: with the balance constraints and the foreign keys applied.
        """
        places = self._places(_DATABASE)
        with self._database(_TEMPLATE) as connection:
            # Linked, not copied: our files are replaced as a whole and never changed in place.
            made = self._places(_TEMPLATE).intermediates_dir
            shutil.copytree(made, places.intermediates_dir, copy_function=os.link)
            if constrained and constraints.apply(connection).state != "applied":
                raise BrokenContenderError("the prepared ledger offends its own constraints")
            connection.execute("CHECKPOINT")
            yield connection, open_work(load_definition(self.source_file), places)

    def registered(self, places: Places) -> SourceWork:
        """The generated source, registered in a fresh ledger."""
        definition = load_definition(self.source_file)
        register_source(definition, places)
        return open_work(definition, places)

    @property
    def _entries_file(self) -> Path:
        return self.home / "entries.arrow"

    def _places(self, name: str) -> Places:
        folder = self.home / name
        return Places(self.server.url(name), folder / "intermediates", folder / "rejects")

    @contextmanager
    def _database(self, template: str | None) -> Iterator[Connection]:
        """The contenders' database, new; dropped afterwards, with the files that belong to it."""
        if template is None:
            ensure_database(self.server.url(_DATABASE))
        else:
            with connect(self.server.url("postgres")) as connection:
                # Files are copied as they are: through the WAL, the copy would be work for the next checkpoint.
                statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
                connection.execute(statement.format(sql.Identifier(_DATABASE), sql.Identifier(template)))
        try:
            with connect(self.server.url(_DATABASE)) as connection:
                yield connection
        finally:
            _drop(self.server, _DATABASE)
            shutil.rmtree(self.home / _DATABASE, ignore_errors=True)

    def _make_template(self) -> None:
        """Registers, prepares and opens accounts, as every run does before it posts."""
        places = self._places(_TEMPLATE)
        ensure_database(places.ledger_url)
        with connect(places.ledger_url) as connection:
            migrate(connection)
        work = self.registered(places)
        keys = [partition.key for partition in work.registration.partitions]
        runner = PartitionRunner(work, BackfillConfig(), _PREPARING, "prepare", _silent)
        for report in runner.run(keys):
            if report.error is not None:
                raise report.error
        prepare_ledger(work.definition, work.places, "prepare")
        work = open_work(work.definition, places)
        frames = (PartitionFrames(work, key, ()).validated() for key in keys)
        first = next(frames)
        with pa.OSFile(str(self._entries_file), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            writer.write_table(first)
            for frame in frames:
                writer.write_table(frame)


def _write_twin(definition_file: Path) -> Path:
    definition = yaml.safe_load(definition_file.read_text(encoding="utf-8"))
    twin = definition_file.with_name(f"{_TWIN_ID}.yaml")
    twin.write_text(yaml.safe_dump({**definition, "id": _TWIN_ID}, sort_keys=False), encoding="utf-8")
    return twin


def _map_file(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _drop(server: EmbeddedServer, database: str) -> None:
    with connect(server.url("postgres")) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
        )


def _silent(_message: str) -> None:
    return None
