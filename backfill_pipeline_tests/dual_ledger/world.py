"""Two ledgers that must be the same: a simulated bank over HTTP, and a PostgreSQL ledger with its source definitions.

Shared by the tests of the dual-ledger sync. The shortest use:

    def test_something(dual: Dual) -> None:      # fixture of conftest.py: one bank SCB-01, 3 days of 40 entries
        definition = dual.definition()           # type scb, id scb_01, ledger "OURS-SCB-01"
        dual.open()                              # accounts, opening balances, marked dual
        dual.post_day(FIRST_DAY)                 # without the sync: registered, extracted, …, posted
        dual.faults({"kind": "dropped", "count": 1})
        dual.assert_equal()                      # entry by entry, and everything acknowledged

Banks of another shape: fixture `make_dual`, `with running_dual(url, folder, ledgers=3, days=30) as dual`.
"""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
import yaml

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import day_definition
from backfill_pipeline.ledger.batches import OPENING_ORIGIN
from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.changes import Change
from backfill_pipeline.scb_simulator.contract import AcknowledgementKept, EntryReceived, LogLine
from backfill_pipeline.scb_simulator.faults import AnyFault, make_faults
from backfill_pipeline.scb_simulator.ledger import amount_text
from backfill_pipeline.scb_simulator.options import make_options
from backfill_pipeline.scb_simulator.server import TOKEN_LIFETIME_S, Simulator, running
from backfill_pipeline.scb_simulator.tokens import Credentials
from backfill_pipeline.scb_simulator.told import acknowledgements_after, received_after
from backfill_pipeline.stages.config import effective_config
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.post import prepare_ledger
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline.stages.runner import PartitionReport, PartitionRunner
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.stages.world import World

FIRST_DAY = date(2024, 3, 29)
"""Of the simulated banks. The third day, 2024-03-31, has 23 hours in Paris."""

SMALL: Mapping[str, object] = {
    "start": FIRST_DAY.isoformat(),
    "days": 3,
    "entries_per_day": 40,
    "timezone": "Europe/Paris",
}

_ALL = 1 << 40
# Accounts whose balance is not what the legs of their entries make it.
_DRIFT = """
    SELECT a.id, a.balance::text, coalesce(l.balance, 0)::text FROM bank_accounts a LEFT JOIN (
        SELECT account_id, sum(CASE side WHEN a.normal_side THEN amount ELSE -amount END) AS balance
        FROM ledger_entry_legs JOIN bank_accounts a ON a.id = account_id GROUP BY account_id
    ) l ON l.account_id = a.id
    WHERE a.balance <> coalesce(l.balance, 0)
"""
_LOST = """
    SELECT source_id, revision, partition_key FROM backfill_partition_outcomes
    WHERE status = 'posted' AND read <> posted + duplicates + conflicts + rejected + filtered
"""
_numbers = itertools.count(1)


class Booked(NamedTuple):
    """An entry, as both ledgers must have it. `amount` is compared as a number, `booked_at` as a moment."""

    reference: str
    booked_at: datetime
    debit: str
    credit: str
    amount: Decimal
    currency: str
    type: str


@dataclass
class Dual(World):
    """A simulated bank and our ledger.

    Attributes:
        simulator: the bank, served over HTTP by a thread of this process. `simulator.bank` is a look inside.
    """

    simulator: Simulator = field(kw_only=True)

    # --- definitions --------------------------------------------------------------------------------------------

    @property
    def ledgers(self) -> list[str]:
        """Ids of the bank's ledgers: SCB-01, SCB-02, …"""
        return list(self.simulator.bank.books)

    @property
    def sources_dir(self) -> Path:
        return self.folder / "sources"

    @property
    def environment(self) -> dict[str, str]:
        """The bank's credentials, for processes of their own."""
        credentials = self.simulator.credentials
        return {
            "SCB_SIMULATOR_TOKEN": credentials.token or "",
            "SCB_SIMULATOR_CLIENT_ID": credentials.client_id or "",
            "SCB_SIMULATOR_CLIENT_SECRET": credentials.client_secret or "",
        }

    def write_scb(
        self,
        bank: str = "SCB-01",
        *,
        accounts: Sequence[str] | None = None,
        auth: str = "bearer",
        scb: Mapping[str, object] | None = None,
        **settings: object,
    ) -> Path:
        """Writes the definition of a bank's ledger and its accounts file, over the ones before.

        Args:
            bank: the bank's ledger, whose name is also the bank's id.
            accounts: ids of those to open here; None for all that the bank has.
            auth: bearer or oauth2.
            scb: keys of the section `scb` to replace; None as a value removes one.
            settings: keys of the definition to replace; None removes one.
        """
        self.sources_dir.mkdir(parents=True, exist_ok=True)
        source_id = source_id_of(bank)
        self._write_accounts(bank, accounts)
        section: dict[str, object] = {
            "base_url": self.simulator.base_url,
            "bank_id": bank,
            "auth": self._auth(auth),
            "timezone": self.book(bank).ledger.options.timezone,
            "start": self.simulator.bank.options.start.isoformat(),
            "page_size": 1000,
            "backoff_s": 0,
            **(scb or {}),
        }
        definition: dict[str, object] = {
            "id": source_id,
            "type": "scb",
            "description": "written by a test",
            "scb": {key: value for key, value in section.items() if value is not None},
            "fields": {
                "ledger_id": {"constant": our_ledger(bank)},
                "debit_account_id": "debit_account",
                "credit_account_id": "credit_account",
                "amount": "amount",
                "currency_code": "currency",
                "transaction_type": "type",
                "reference_id": "reference",
                "timestamp_utc": {"column": "booked_at"},
            },
            "metadata": ["narrative", "metadata.channel", "metadata.batch"],
            "accounts": {
                "file": f"{source_id}_accounts.csv",
                "fields": {
                    "id": "id",
                    "currency_code": "currency",
                    "normal_side": "side",
                    "opening_balance": "opening",
                },
                "opening": {"ledger_id": our_ledger(bank), "as_of": self._opened_at(bank)},
            },
            **settings,
        }
        path = self.sources_dir / f"{source_id}.yaml"
        kept = {key: value for key, value in definition.items() if value is not None}
        path.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
        return path

    def definition(self, bank: str = "SCB-01") -> SourceDefinition:
        """The definition of a bank's ledger, written first where there is none."""
        path = self.sources_dir / f"{source_id_of(bank)}.yaml"
        return load_definition(path if path.is_file() else self.write_scb(bank))

    def definitions(self) -> list[SourceDefinition]:
        """Those of all ledgers."""
        return [self.definition(bank) for bank in self.ledgers]

    def days(self) -> list[date]:
        """All days of the bank."""
        options = self.simulator.bank.options
        return [options.start + timedelta(days=number) for number in range(options.days)]

    # --- our side -----------------------------------------------------------------------------------------------

    def open(self, bank: str = "SCB-01") -> None:
        """Opens the accounts of a bank's ledger, posts opening balances, and marks the ledger as dual."""
        definition = self.definition(bank)
        section = definition.scb
        assert section is not None
        prepare_ledger(definition, self.places, "open")
        self.query("SELECT mark_dual_ledger(%s, %s, %s)", our_ledger(bank), bank, section.send_entries)

    def post_day(self, day: date, bank: str = "SCB-01", *, accept_changed: bool = False) -> PartitionReport:
        """Takes a day through all stages without the sync: what the sync is built on, and nothing else."""
        definition = day_definition(self.definition(bank), day)
        register_source(definition, self.places, accept_changed=accept_changed)
        work = open_work(definition, self.places)
        runner = PartitionRunner(
            work=work,
            config=effective_config(definition.config, None),
            selected=STAGES,
            run_id=f"run {next(_numbers)}",
            log=lambda message: None,
        )
        reports = list(runner.run([partition.key for partition in work.registration.partitions]))
        assert [report.error for report in reports] == [None] * len(reports)
        return reports[-1]

    def post_here(
        self,
        reference: str,
        *,
        bank: str = "SCB-01",
        amount: str = "12.50",
        currency: str = "EUR",
        at: str = "2024-03-29T12:00:00Z",
        debit: str | None = None,
        credit: str | None = None,
        metadata: str | None = None,
    ) -> None:
        """Posts an entry that the bank does not know, as a live system would; by default between two shared accounts."""
        shared = [
            one.id for one in self.book(bank).ledger.accounts if one.shared and one.currency == currency
        ]
        self.query(
            "SELECT post_ledger_entry(p_debit_account_id => %s, p_credit_account_id => %s, p_amount => %s,"
            " p_currency_code => %s, p_asset_type => 'fiat', p_transaction_type => 'TRANSFER',"
            " p_ledger_id => %s, p_reference_id => %s, p_metadata => %s, p_timestamp_utc => %s)",
            debit or shared[0],
            credit or shared[1],
            Decimal(amount),
            currency,
            our_ledger(bank),
            reference,
            metadata,
            at,
        )

    def entries_here(self, bank: str = "SCB-01", *, origin: str | None = None) -> dict[str, Booked]:
        """Entries of our ledger by reference, without opening balances.

        Args:
            bank: whose ledger.
            origin: LOCAL or the bank's id; None for both.
        """
        rows = self.query(
            "SELECT reference_id, timestamp_utc, debit_account_id, credit_account_id, amount, currency_code,"
            " transaction_type, coalesce(b.origin, 'LOCAL') FROM ledger_entries e"
            " LEFT JOIN backfill_batches b ON b.id = e.batch_id"
            " WHERE e.ledger_id = %s AND coalesce(b.origin, 'LOCAL') <> %s",
            our_ledger(bank),
            OPENING_ORIGIN,
        )
        found = [Booked(*row[:7]) for row in rows if origin in (None, row[7])]
        by_reference = {one.reference: one for one in found}
        assert len(by_reference) == len(found), "a reference was posted twice"
        return by_reference

    def outbox(self, bank: str = "SCB-01") -> list[tuple[object, ...]]:
        """Rows for a bank: reference, kind, status, attempts, last_error."""
        return self.query(
            "SELECT reference_id, kind, status, attempts, last_error FROM dual_ledger_outbox"
            " WHERE destination = %s ORDER BY id",
            bank,
        )

    def outbox_states(self, bank: str = "SCB-01") -> dict[tuple[str, str], int]:
        """(kind, status) → rows."""
        return dict(Counter((str(row[1]), str(row[2])) for row in self.outbox(bank)))

    # --- the bank's side ----------------------------------------------------------------------------------------

    def book(self, bank: str = "SCB-01") -> Book:
        return self.simulator.bank.books[bank]

    def entries_there(self, bank: str = "SCB-01", day: date | None = None) -> dict[str, Booked]:
        """The bank's own copy, from inside: no fault can touch it."""
        book = self.book(bank)
        calendar = book.ledger.calendar
        first = book.ledger.start_s if day is None else calendar.start_s(day)
        end = book.ledger.end_s if day is None else calendar.start_s(day + timedelta(days=1))
        entries, more = book.page(first, end, None, 2_000_000)
        assert not more
        return {
            one.reference: Booked(
                one.reference,
                datetime.fromisoformat(one.booked_at),
                one.debit_account,
                one.credit_account,
                Decimal(one.amount),
                one.currency,
                one.type,
            )
            for one in entries
        }

    def acknowledged(self, bank: str = "SCB-01") -> dict[str, AcknowledgementKept]:
        """What the bank was told of its own entries, by reference."""
        with self.simulator.bank.store.read() as connection:
            return {one.reference: one for one in acknowledgements_after(connection, bank, 0, _ALL)}

    def received(self, bank: str = "SCB-01") -> dict[str, EntryReceived]:
        """Entries of ours that the bank has, by reference."""
        with self.simulator.bank.store.read() as connection:
            return {one.reference: one for one in received_after(connection, bank, 0, _ALL)}

    def later(self) -> None:
        """Some hours go by for the outbox: whatever waits for its time is due."""
        for statement in (
            "UPDATE dual_ledger_outbox SET next_attempt_at = now() WHERE next_attempt_at > now()",
            "UPDATE dual_ledger_deliveries SET next_attempt_at = now() WHERE next_attempt_at > now()",
            "UPDATE dual_ledger_banks SET open_until = now() WHERE open_until > now()",
        ):
            self.query(statement)

    def faults(self, *faults: Mapping[str, object]) -> None:
        """These faults from now on, and no others."""
        self.simulator.bank.switches.replace(make_faults([dict(one) for one in faults], "test"))

    def fired(self) -> dict[str, int]:
        """Kind of fault → how often it struck."""
        struck: Counter[str] = Counter()
        for one in self.simulator.bank.switches.current():
            struck[one.fault.kind] += one.fired
        return dict(struck)

    def log(self) -> list[LogLine]:
        """The requests that the bank saw."""
        return self.simulator.bank.log.lines()

    def add_late(self, day: date, count: int = 1, bank: str = "SCB-01") -> list[str]:
        """Entries that come late for a day; returns their references."""
        return [one.reference for one in self.book(bank).add_late(day, count, 0)]

    def change(self, reference: str, amount: str | None = None, bank: str = "SCB-01") -> None:
        """Changes an entry of the bank; by default its amount grows by one smallest unit."""
        book = self.book(bank)
        entry = book.find(reference)
        assert entry is not None
        minor = entry.minor + 1
        if amount is not None:
            exponent = len(amount_text(0, entry.currency).partition(".")[2])
            minor = int(Decimal(amount).scaleb(exponent))
        book.change(entry, Change(entry.debit_account, entry.credit_account, minor))

    # --- both ---------------------------------------------------------------------------------------------------

    def assert_entries_equal(self, bank: str = "SCB-01", days: Sequence[date] | None = None) -> None:
        """Entry by entry: every entry of the bank is here with every field, once, and none is here that it lacks.

        Args:
            bank: whose ledger.
            days: those that must be here; None for all. Of other days nothing may be here.
        """
        here = self.entries_here(bank, origin=bank)
        there: dict[str, Booked] = {}
        for day in self.days() if days is None else days:
            there |= self.entries_there(bank, day)
        lost, extra = sorted(set(there) - set(here)), sorted(set(here) - set(there))
        changed = [
            (there[one], here[one]) for one in sorted(set(here) & set(there)) if here[one] != there[one]
        ]
        if lost or extra or changed:
            pytest.fail(
                f"{bank}: {len(lost)} lost, first {lost[:3]}; {len(extra)} extra, first {extra[:3]};"
                f" {len(changed)} different, first {changed[:3]}"
            )

    def assert_nothing_lost(self, bank: str = "SCB-01") -> list[str]:
        """As `assert_equal`, but an entry that the bank changed after it was posted may differ, as a reported conflict.

        Returns:
            The references that differ.
        """
        here, there = self.entries_here(bank, origin=bank), self.entries_there(bank)
        assert set(here) == set(there), (
            f"{bank}: lost {sorted(set(there) - set(here))[:3]}, extra {sorted(set(here) - set(there))[:3]}"
        )
        conflicts = " ".join(
            str(raw)
            for (raw,) in self.query(
                "SELECT raw FROM backfill_rejects_now WHERE code = 'conflict' AND state = 'open'"
            )
        )
        differing = [reference for reference in there if here[reference] != there[reference]]
        unreported = [reference for reference in differing if reference not in conflicts]
        assert not unreported, f"{bank}: {unreported} differ, and no conflict was reported"
        self.assert_told(bank)
        self.assert_counts()
        return differing

    def assert_told(self, bank: str = "SCB-01") -> None:
        """The bank knows of every entry here what it must, once, and nothing else."""
        own = self.entries_here(bank, origin=bank)
        acknowledged = self.acknowledged(bank)
        assert set(acknowledged) == set(own), sorted(set(acknowledged) ^ set(own))[:5]
        assert {one.status for one in acknowledged.values()} <= {"posted"}
        received = self.received(bank)
        sent = self.entries_here(bank, origin="LOCAL")
        assert set(received) == set(sent), sorted(set(received) ^ set(sent))[:5]
        for reference, ours in sent.items():
            theirs = received[reference]
            assert (Decimal(theirs.amount), theirs.currency, theirs.debit_account, theirs.credit_account) == (
                ours.amount,
                ours.currency,
                ours.debit,
                ours.credit,
            ), reference
        states = {state for _, state in self.outbox_states(bank)}
        assert states <= {"ACKNOWLEDGED"}, self.outbox_states(bank)
        rows = [str(row[0]) for row in self.outbox(bank)]
        assert sorted(rows) == sorted([*own, *sent]), "the outbox and the ledger name other entries"

    def assert_equal(self, bank: str | None = None, days: Sequence[date] | None = None) -> None:
        """Both, of one ledger or of all; and balances are what entries make them."""
        for one in self.ledgers if bank is None else [bank]:
            self.assert_entries_equal(one, days)
            self.assert_told(one)
        self.assert_counts()

    def assert_counts(self) -> None:
        """Posted partitions add up: read = posted + duplicates + conflicts + rejected + filtered; balances follow legs."""
        assert self.query(_LOST) == []
        assert self.query(_DRIFT) == []

    # --- how it is put together ---------------------------------------------------------------------------------

    def _write_accounts(self, bank: str, wanted: Sequence[str] | None) -> None:
        rows = [
            (one.id, one.currency, one.normal_side, amount_text(one.opening_minor, one.currency))
            for one in self.book(bank).ledger.accounts
            if wanted is None or one.id in wanted
        ]
        with (self.sources_dir / f"{source_id_of(bank)}_accounts.csv").open(
            "w", newline="", encoding="utf-8"
        ) as file:
            csv.writer(file).writerows([("id", "currency", "side", "opening"), *rows])

    def _auth(self, kind: str) -> dict[str, str]:
        if kind == "bearer":
            return {"kind": "bearer", "token_env": "SCB_SIMULATOR_TOKEN"}
        assert kind == "oauth2"
        return {
            "kind": "oauth2",
            "token_url": f"{self.simulator.base_url}/oauth/token",
            "client_id_env": "SCB_SIMULATOR_CLIENT_ID",
            "client_secret_env": "SCB_SIMULATOR_CLIENT_SECRET",
        }

    def _opened_at(self, bank: str) -> str:
        ledger = self.book(bank).ledger
        return ledger.calendar.written(ledger.start_s - 1)


def source_id_of(bank: str) -> str:
    """SCB-01 → scb_01"""
    return bank.lower().replace("-", "_")


def our_ledger(bank: str) -> str:
    """SCB-01 → OURS-SCB-01"""
    return f"OURS-{bank}"


@contextmanager
def running_dual(
    url: str,
    folder: Path,
    *,
    faults: Sequence[AnyFault] | None = None,
    state: Path | None = None,
    port: int = 0,
    credentials: Credentials | None = None,
    token_lifetime_s: float = TOKEN_LIFETIME_S,
    monkeypatch: pytest.MonkeyPatch | None = None,
    **options: object,
) -> Iterator[Dual]:
    """A bank that is served until the block ends, beside a migrated ledger.

    Args:
        url: of the ledger.
        folder: for definitions and what the product writes.
        faults: those to begin with.
        state: the simulator's state file; with the same `state`, `port` and `credentials` a bank comes back.
        port: 0 takes a free one.
        credentials: None makes new ones.
        token_lifetime_s: of issued tokens.
        monkeypatch: puts the credentials into this process's environment.
        options: of the simulator, over SMALL.
    """
    made = make_options({**SMALL, **options}, "test")
    with running(
        made,
        faults=faults,
        state=state,
        port=port,
        credentials=credentials,
        token_lifetime_s=token_lifetime_s,
    ) as simulator:
        dual = Dual(url, folder, simulator=simulator)
        if monkeypatch is not None:
            for name, value in dual.environment.items():
                monkeypatch.setenv(name, value)
        yield dual


def execute(url: str, statement: str, *parameters: object) -> int:
    """Runs a statement as the ledger's owner; returns how many rows it touched."""
    with psycopg.connect(url) as connection:
        return connection.execute(statement, parameters or None).rowcount
