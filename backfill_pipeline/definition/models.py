"""The source definition: what a user writes in one YAML file, as a pydantic model.

Belongs here: its top level, and what must hold between its sections.
Does not: the sections (the other modules of this package), reading YAML or wording its errors (`load.py`), what the
rules do to rows (`mapping/`).
"""

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from backfill_pipeline.definition.accounts import AccountMap, Accounts
from backfill_pipeline.definition.api import ApiSource
from backfill_pipeline.definition.base import Model, Name, between, problem
from backfill_pipeline.definition.database import DatabaseSection
from backfill_pipeline.definition.fields import AnyRule, ColumnRule, ConstantRule, EntryFields, ValueField
from backfill_pipeline.definition.formats import CsvDialect, FixedFormat, ParquetFormat, XlsxFormat
from backfill_pipeline.definition.lookups import Lookup
from backfill_pipeline.definition.names import check_names, source_columns
from backfill_pipeline.definition.rules import Rule
from backfill_pipeline.definition.scb import CONTROL_COLUMNS, ScbSection
from backfill_pipeline.definition.stated_balances import StatedBalances
from backfill_pipeline.definition.statements import CamtFormat, Mt940Format
from backfill_pipeline.definition.transactions import Transactions, check_transactions


class RunConfig(Model):
    """The strategy document's §3.1 for one source. None: the product's default, which is decided elsewhere."""

    batch_size: Annotated[int, between(1, 1_000_000)] | None = None
    checkpoint_interval: Annotated[int, between(1, 1_000_000)] | None = None
    max_retries: Annotated[int, between(0, 20)] | None = None
    retry_delay: Annotated[int, between(0, 60_000)] | None = Field(default=None, description="milliseconds")
    parallel_workers: Annotated[int, between(1, 16)] | None = None
    skip_duplicates: bool | None = None
    validate_balances: bool | None = None
    online: bool | None = None


class Freshness(Model):
    """How long ago at most a source was proven equal to the ledger; a check warns when it was longer."""

    at_most_hours: Annotated[int, between(1, 8784)]


def _metadata_keys(value: object) -> object:
    """A list of columns is short for a mapping of each column name to itself."""
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        return value
    if repeated := next((one for one in value if value.count(one) > 1), None):
        raise problem("names a column twice", value=str(repeated))
    return {column: column for column in value}


def _one_or_more(value: object) -> object:
    """One text is short for a list of one."""
    return [value] if isinstance(value, str | Path) else value


_OWNER: Final = re.compile(r"team:[\w.-]+|[\w.+-]+@[\w-]+(\.[\w-]+)+", re.ASCII)


def _owner(text: str) -> str:
    if not _OWNER.fullmatch(text):
        raise problem("must be an e-mail address, or team: and a name such as team:payments", value=text)
    return text


Owner = Annotated[str, AfterValidator(_owner)]
"""Whom to ask about a source: an e-mail address, or a team."""

SECTIONS: Final = ("csv", "fixed", "parquet", "xlsx", "mt940", "camt", "database", "api", "scb")
"""Sections that only the type of their name may have."""

SECTIONS_NEEDED: Final = ("fixed", "database", "api", "scb")
"""Those without which the type of their name says nothing."""

LIVE_TYPES: Final[frozenset[str]] = frozenset({"database", "api", "scb"})
"""Types that are read from where they are kept, not from files."""


class SourceDefinition(Model):
    """One source: where it is, how it is written, and what its rows mean. See `load.load_definition`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    type: Literal["csv", "jsonl", "fixed", "parquet", "xlsx", "mt940", "camt", "database", "api", "scb"]
    description: str | None = None
    owners: Annotated[tuple[Owner, ...], BeforeValidator(_one_or_more)] = ()
    file: Path | None = None
    files: Annotated[tuple[Path, ...], BeforeValidator(_one_or_more)] | None = None
    member: Name | None = None
    csv: CsvDialect = CsvDialect()
    fixed: FixedFormat | None = None
    parquet: ParquetFormat = ParquetFormat()
    database: DatabaseSection | None = None
    api: ApiSource | None = None
    scb: ScbSection | None = None
    xlsx: XlsxFormat = XlsxFormat()
    mt940: Mt940Format = Mt940Format()
    camt: CamtFormat = CamtFormat()
    columns: dict[Name, ValueField] = Field(default_factory=dict)
    fields: EntryFields
    transactions: Transactions | None = None
    rules: tuple[Rule, ...] = ()
    lookups: dict[Name, Lookup] = Field(default_factory=dict)
    metadata: Annotated[dict[Name, Name], BeforeValidator(_metadata_keys)] = Field(default_factory=dict)
    account_map: AccountMap | None = None
    accounts: Accounts | None = None
    stated_balances: StatedBalances = ()
    unknown_accounts: Literal["reject", "create"] = "reject"
    partition_rows: Annotated[int, between(1, 10_000_000)] | None = None
    max_error_rate: Annotated[float, between(0, 1)] = 0.01
    freshness: Freshness | None = None
    online: bool = False
    config: RunConfig = Field(default=RunConfig(), validate_default=True)

    _path: Path = PrivateAttr(default=Path())

    @field_validator("config")
    @classmethod
    def _online_unless_it_says_otherwise(cls, config: RunConfig, others: ValidationInfo) -> RunConfig:
        """An online source is the default of its runs; `online` comes before `config`, so it is read already."""
        if config.online is None and others.data.get("online"):
            return config.model_copy(update={"online": True})
        return config

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        """A source is one file or several, written in one way."""
        if self.is_live:
            for key in ("file", "files"):
                if getattr(self, key) is not None:
                    raise problem(f"is given, but type is {self.type}: remove it", key)
        elif self.file is None and not self.files:
            raise problem("is missing: name the export with file, or several with files", "file")
        if self.file is not None and self.files is not None:
            raise problem("is given beside file: remove one of them", "files")
        if self.member is not None and self.file is not None and self.file.suffix.lower() != ".zip":
            raise problem("is only for a file whose name ends in .zip", "member", self.member)
        for section in SECTIONS:
            if self.type != section and section in self.model_fields_set:
                raise problem(f"is given, but type is {self.type}: remove it", section)
        if self.type in SECTIONS_NEEDED and getattr(self, self.type) is None:
            raise problem(f"is needed with type {self.type}", self.type)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_names(
            self.columns,
            self.rules,
            self.lookups,
            self.fields,
            self.account_rules(),
            self.stated_balances,
            has_account_map=self.account_map is not None,
        )
        check_transactions(self.transactions, self.columns, self.fields)
        if self.transactions is not None and self.stated_balances:
            raise problem(
                "cannot go together with transactions, whose entries are made of several rows: remove it",
                "stated_balances",
            )
        return self

    @model_validator(mode="after")
    def _same_at_the_bank(self) -> Self:
        """Both ledgers name an entry alike, and an entry of a bank is in the one ledger that is kept with it."""
        if self.scb is None:
            return self
        for key, reason in (
            ("transactions", "records are entries"),
            ("stated_balances", "records are entries"),
            ("freshness", "days are expected by scb.nightly"),
        ):
            if getattr(self, key):
                raise problem(f"cannot go together with type scb, whose {reason}: remove it", key)
        if not isinstance(self.fields.ledger_id, ConstantRule):
            raise problem(
                "must be a constant with type scb: the one ledger that is kept with the bank",
                "fields.ledger_id",
            )
        if self.fields.reference_id != ColumnRule(column="reference") or "reference" in self.columns:
            raise problem(
                "must be the column reference, as it is, with type scb: both ledgers name an entry alike",
                "fields.reference_id",
            )
        opening = None if self.accounts is None else self.accounts.opening
        if opening is not None and opening.ledger_id != self.dual_ledger_id:
            raise problem(
                f"must be {self.dual_ledger_id} with type scb, as fields.ledger_id says: both sides begin with it",
                "accounts.opening.ledger_id",
                opening.ledger_id,
            )
        for number, rule in enumerate(self.rules):
            for field in ("ledger_id", "reference_id"):
                if field in (rule.set or {}):
                    raise problem("must not be set by a rule with type scb", f"rules.{number}.set.{field}")
        return self

    @property
    def dual_ledger_id(self) -> str | None:
        """Our ledger that a Sovereign Central Bank keeps too; None for every other type."""
        rule = self.fields.ledger_id
        return rule.constant if self.scb is not None and isinstance(rule, ConstantRule) else None

    @property
    def path(self) -> Path:
        """The YAML file that this definition was read from."""
        return self._path

    @property
    def is_live(self) -> bool:
        """Whether the source may say something else each time it is read, and only reading it tells."""
        return self.type in LIVE_TYPES

    @property
    def place(self) -> str:
        """Where the export is, for messages: its file, or the patterns of several."""
        if self.database is not None:
            return self.database.place
        if self.api is not None:
            return self.api.address
        if self.scb is not None:
            return self.scb.address
        return ", ".join(str(one) for one in self.files or (self.file,))

    @property
    def place_key(self) -> str:
        """The key that names the place."""
        if self.is_live:
            return self.type
        return "file" if self.files is None else "files"

    def account_rules(self) -> dict[str, AnyRule]:
        """Field → rule of the accounts file; empty without one."""
        return {} if self.accounts is None else self.accounts.fields.rules()

    def columns_read(self) -> dict[str, str]:
        """Source column → the key of the definition that reads it (the first one), for error messages."""
        found = source_columns(self.columns, self.rules, self.fields, self.metadata, self.stated_balances)
        control = {} if self.scb is None else dict.fromkeys(CONTROL_COLUMNS, "scb")
        legs = {} if self.transactions is None else self.transactions.columns_read(self.columns)
        return control | legs | found
