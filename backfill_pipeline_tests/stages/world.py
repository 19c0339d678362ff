"""A small world for whole backfills: sources written to order, a ledger of its own, and what is in it afterwards.

Shared by the tests of stages, orchestration and the command.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg import sql

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.models import RunConfig, SourceDefinition
from backfill_pipeline.stages.config import effective_config
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.prepare import STAGES, StageName
from backfill_pipeline.stages.reconcile import ReconciliationReport, reconcile
from backfill_pipeline.stages.runner import PartitionReport, PartitionRunner
from backfill_pipeline.stages.work import Places, open_work
from backfill_pipeline_tests.postgresql import Server

CHECKOUT = Path(__file__).resolve().parents[2]
AMLSIM_DIR = Path(os.environ.get("AMLSIM_DIR", CHECKOUT.parent / "shared" / "data" / "amlsim"))
needs_amlsim = pytest.mark.skipif(
    not (AMLSIM_DIR / "transactions.csv").is_file(),
    reason=f"no AMLSim data in {AMLSIM_DIR}: set AMLSIM_DIR to the folder with transactions.csv and nodes.csv",
)
FIELDS = {
    "ledger_id": {"constant": "MASTER"},
    "debit_account_id": "debit",
    "credit_account_id": "credit",
    "amount": "amount",
    "currency_code": "currency",
    "transaction_type": {"constant": "TRANSFER"},
    "reference_id": "ref",
    "timestamp_utc": {"column": "time", "format": "iso8601"},
}
"""Of a definition whose columns are those of HEADER."""
HEADER = ("ref", "debit", "credit", "amount", "currency", "time", "note")

# What an entry is, without what differs from one posting of it to the next: id, posted_at, batch_id.
_ENTRIES = """
    SELECT ledger_id, reference_id, debit_account_id, credit_account_id, amount::text, currency_code, asset_type,
           transaction_type, timestamp_utc, fx_rate::text, metadata::text, source_row
    FROM ledger_entries ORDER BY ledger_id, reference_id
"""
_ACCOUNTS = """
    SELECT id, currency_code, asset_type, normal_side, balance::text, available_balance::text, reserved_balance::text
    FROM bank_accounts ORDER BY id
"""
_CONVERSIONS = """
    SELECT e.ledger_id, e.reference_id, c.side, c.account_id, c.currency_code, c.amount::text
    FROM ledger_entry_conversions c JOIN ledger_entries e ON e.id = c.entry_id
    ORDER BY 1, 2, 3
"""
_REJECTS = """
    SELECT source_id, revision, partition_key, x.source_row, x.source_line, x.byte_offset, x.stage,
           x.code, x.field, x.reason, x.raw
    FROM backfill_rejects x JOIN backfill_partitions p ON p.id = x.partition_id
    JOIN backfill_registrations r ON r.id = p.registration_id ORDER BY 1, 2, 4
"""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Snapshot:
    """Everything that two ledgers must have in common to be the same."""

    entries: tuple[tuple[object, ...], ...]
    accounts: tuple[tuple[object, ...], ...]
    conversions: tuple[tuple[object, ...], ...]
    rejects: tuple[tuple[object, ...], ...]


def snapshot(url: str) -> Snapshot:
    with psycopg.connect(url) as connection:
        return Snapshot(
            *(
                tuple(connection.execute(query).fetchall())
                for query in (_ENTRIES, _ACCOUNTS, _CONVERSIONS, _REJECTS)
            )
        )


def assert_same_ledger(actual: Snapshot, expected: Snapshot) -> None:
    """Compares piece by piece, and shows the first differences instead of a hundred thousand rows."""
    for name in ("entries", "accounts", "conversions", "rejects"):
        ours, theirs = getattr(actual, name), getattr(expected, name)
        if ours != theirs:
            lost, extra = sorted(set(theirs) - set(ours), key=str), sorted(set(ours) - set(theirs), key=str)
            pytest.fail(
                f"{name} differ: {len(lost)} lost, first {lost[:3]}; {len(extra)} extra, first {extra[:3]}"
            )


@dataclass
class World:
    """A ledger, a folder of source files, and folders for what the product writes."""

    url: str
    folder: Path
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        self.places = Places(
            self.url, self.folder / "home" / "intermediates", self.folder / "home" / "rejects"
        )

    # --- sources ------------------------------------------------------------------------------------------------

    def write(
        self,
        source_id: str,
        rows: Iterable[Sequence[object]],
        *,
        accounts: Mapping[str, object] | Sequence[str] = ("A", "B", "C"),
        header: Sequence[str] = HEADER,
        **settings: object,
    ) -> Path:
        """Writes an export with its source file. `settings` replace keys of the definition; None removes one.

        Accounts are US dollars, debit-normal, with the given opening balances (none when only names are given).
        """
        folder = self.folder / "sources"
        folder.mkdir(exist_ok=True)
        self.write_rows(source_id, rows, header=header)
        openings = accounts if isinstance(accounts, Mapping) else dict.fromkeys(accounts, 0)
        with (folder / f"{source_id}_accounts.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "opening"), *openings.items()])
        definition: dict[str, object] = {
            "id": source_id,
            "type": "csv",
            "description": "written by a test",
            "file": f"{source_id}.csv",
            "fields": dict(FIELDS),
            "metadata": ["note"],
            "accounts": {
                "file": f"{source_id}_accounts.csv",
                "fields": {
                    "id": "id",
                    "currency_code": {"constant": "USD"},
                    "normal_side": {"constant": "debit"},
                    "opening_balance": "opening",
                },
                "opening": {"ledger_id": "MASTER", "as_of": "2023-12-31T23:59:59Z"},
            },
            "partition_rows": "10",
            **settings,
        }
        path = folder / f"{source_id}.yaml"
        kept = {key: value for key, value in definition.items() if value is not None}
        path.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
        return path

    def write_rows(
        self, source_id: str, rows: Iterable[Sequence[object]], *, header: Sequence[str] = HEADER
    ) -> Path:
        """Writes the export alone, over the one before."""
        path = self.folder / "sources" / f"{source_id}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
        return path

    # --- running without an orchestrator -------------------------------------------------------------------------

    def register(self, path: Path, *, accept_changed: bool = False) -> SourceDefinition:
        definition = load_definition(path)
        register_source(definition, self.places, accept_changed=accept_changed)
        return definition

    def run(
        self,
        path: Path,
        *,
        keys: Sequence[str] | None = None,
        selected: Collection[StageName] = STAGES,
        run_id: str | None = None,
        accept_changed: bool = False,
        register: bool = True,
        **config: object,
    ) -> list[PartitionReport]:
        """Registers a source and takes partitions through stages, as the assets do."""
        definition = self.register(path, accept_changed=accept_changed) if register else load_definition(path)
        work = open_work(definition, self.places)
        runner = PartitionRunner(
            work=work,
            config=effective_config(definition.config, RunConfig.model_validate(config)),
            selected=selected,
            run_id=run_id or f"run {next(_numbers)}",
            log=lambda message: None,
        )
        wanted = [partition.key for partition in work.registration.partitions] if keys is None else keys
        return list(runner.run(wanted))

    def post(self, path: Path, **arguments: object) -> list[PartitionReport]:
        """Runs, and insists that every partition went well."""
        reports = self.run(path, **arguments)
        errors = [(report.key, report.error) for report in reports if report.error is not None]
        assert not errors, errors
        return reports

    def reconcile(self, path: Path) -> ReconciliationReport:
        return reconcile(open_work(load_definition(path), self.places))

    # --- looking ------------------------------------------------------------------------------------------------

    def query(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *parameters: object) -> object:
        return self.query(statement, *parameters)[0][0]

    def references(self) -> list[object]:
        """References of all entries but the opening ones."""
        return [
            reference
            for (reference,) in self.query(
                "SELECT reference_id FROM ledger_entries WHERE transaction_type <> 'OPENING_BALANCE' ORDER BY 1"
            )
        ]

    def rejects(self) -> list[tuple[object, ...]]:
        return self.query(
            "SELECT source_row, stage, code, field FROM backfill_rejects ORDER BY partition_id, source_row"
        )

    def tamper(self, statement: str, *parameters: object) -> int:
        """Changes the ledger behind its back, as a superuser can: no trigger fires."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SET session_replication_role = replica")
            return connection.execute(statement, parameters or None).rowcount

    def snapshot(self) -> Snapshot:
        return snapshot(self.url)


def entry(number: int, **other: object) -> list[object]:
    """A good row of HEADER: 1.00 and more from A to B, a minute after the one before."""
    row: dict[str, object] = {
        "ref": f"R{number:06d}",
        "debit": "A",
        "credit": "B",
        "amount": f"{number % 90 + 1}.00",
        "currency": "USD",
        "time": f"2024-01-{number // 1440 % 28 + 1:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00Z",
        "note": f"note {number}",
        **other,
    }
    return [row[name] for name in HEADER]


def entries(count: int, *, first: int = 1, **other: object) -> list[list[object]]:
    return [entry(number, **other) for number in range(first, first + count)]


@contextmanager
def whole_database(server: Server) -> Iterator[str]:
    """The URL of a new, empty database. Dagster's, which the product makes beside it, goes with it."""
    with server.empty_database() as url:
        try:
            yield url
        finally:
            name = sql.Identifier(f"{psycopg.conninfo.conninfo_to_dict(url)['dbname']}_dagster")
            with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
