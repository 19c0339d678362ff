"""What a user can write in a source definition, as pydantic models.

Belongs here: names, types, ranges and defaults of every key, and what must hold between keys.
Does not: reading YAML or wording its errors (`load.py`); what the rules do to rows (`mapping/`).

A field's rule is one small model of a discriminated family, told apart by its keys. A new kind of rule is one model
here and one compiler in `mapping/transform.py`.
"""

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from backfill_pipeline.definition.encodings import check_encoding

ISO_FORMAT: Final = "iso8601"
EPOCH_FORMATS: Final = ("epoch_seconds", "epoch_milliseconds", "epoch_days")
STRPTIME_DIRECTIVES: Final = "%Y %m %d %H %I %M %S %f %p %b %B %j %z %T %F %R %%"
"""What a strptime format may hold, apart from literal text. All are exact and mean the same on every machine."""


class Model(BaseModel):
    """Base of everything in a definition: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        if isinstance(data, dict):
            allowed = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in allowed:
                    raise PydanticCustomError(
                        "unknown_key", "unknown key", {"key": str(key), "allowed": allowed}
                    )
        return data


def _problem(message: str, key: str = "", value: str | None = None) -> PydanticCustomError:
    """An error whose sentence goes on after "<file>: <dotted key> "; `key` is below the model that raises it."""
    return PydanticCustomError("problem", "{text}", {"text": message, "key": key, "value": value})


def _zone_name(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _problem(
            "is not a time zone: allowed are IANA names such as UTC, Europe/Paris or America/New_York",
            value=name,
        ) from None
    return name


def _one_ascii_character(text: str) -> str:
    if len(text) != 1 or not text.isascii() or text in "\r\n\0":
        raise _problem("must be one ASCII character that is no line break", value=text)
    return text


def _named(text: str) -> str:
    if not text.strip():
        raise _problem("must not be empty", value=text)
    return text


def _between(low: float, high: float) -> AfterValidator:
    def check(number: float) -> float:
        if not low <= number <= high:
            raise _problem(f"is outside the allowed range of {low} to {high}", value=str(number))
        return number

    return AfterValidator(check)


ZoneName = Annotated[str, AfterValidator(_zone_name)]
Character = Annotated[str, AfterValidator(_one_ascii_character)]
Name = Annotated[str, AfterValidator(_named)]


# --- the file's dialect -----------------------------------------------------------------------------------------


class CsvDialect(Model):
    """How a delimited file is written. A quote inside a quoted field is doubled, as in RFC 4180."""

    delimiter: Character = ","
    quote: Character | None = '"'
    encoding: str = "utf-8"
    header: bool = True
    columns: tuple[Name, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delimiter == self.quote:
            raise _problem("must differ from delimiter", "quote", self.quote)
        if self.header and self.columns is not None:
            raise _problem(
                'is only for files without a header line: remove it, or set "header: false"', "columns"
            )
        if not self.header and not self.columns:
            raise _problem(
                'is needed with "header: false": the names of the columns in file order', "columns"
            )
        if self.columns and len(set(self.columns)) != len(self.columns):
            raise _problem("names a column twice", "columns", ", ".join(self.columns))
        if reason := check_encoding(self.encoding, self.delimiter, self.quote):
            raise _problem(reason, "encoding", self.encoding)
        return self


# --- the rules of fields ----------------------------------------------------------------------------------------


class ConstantRule(Model):
    """The same text for every row."""

    constant: Name


class ColumnRule(Model):
    """A column's text, trimmed. References use it: a default would give all rows without one the same reference."""

    column: Name


class TextRule(ColumnRule):
    """A column's text, trimmed; `default` where it is empty."""

    default: Name | None = None


class AccountRule(TextRule):
    """A column's text, trimmed, and looked up in the account map with `map: accounts`."""

    map: Literal["accounts"] | None = None


class NumberRule(Model):
    """A plain decimal number. Marks other than the point are only understood when they are stated."""

    column: Name
    decimal_mark: Literal[".", ","] = "."
    thousands_mark: Literal[".", ",", " ", "'", "_", "\u00a0", "\u202f"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.decimal_mark == self.thousands_mark:
            raise _problem("must differ from decimal_mark", "thousands_mark", self.thousands_mark)
        return self


class GeneratedReferenceRule(Model):
    """A reference made from the row's content: the hash of `columns` (default: all) and an occurrence number."""

    generate: bool
    columns: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.generate:
            raise _problem(
                "can only be true; give a column instead to read references from the source", "generate"
            )
        return self


class TimeRule(Model):
    """When an entry happened. Local times need the zone they are in; nothing is ever taken as "now"."""

    column: Name
    format: str = ISO_FORMAT
    timezone: ZoneName | None = None
    epoch: date | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.format not in (ISO_FORMAT, *EPOCH_FORMATS):
            self._check_strptime()
        if self.epoch is not None and self.format != "epoch_days":
            raise _problem('has a meaning only with "format: epoch_days"', "epoch", str(self.epoch))
        if self.timezone is not None and self.format in ("epoch_seconds", "epoch_milliseconds"):
            raise _problem(
                f"has no meaning with format {self.format}, which counts in UTC", "timezone", self.timezone
            )
        return self

    def _check_strptime(self) -> None:
        allowed = f"allowed are {ISO_FORMAT}, {', '.join(EPOCH_FORMATS)}, or a strptime format"
        if "%" not in self.format:
            raise _problem(f"is unknown: {allowed} such as %d/%m/%Y %H:%M", "format", self.format)
        found = re.findall(r"%.?", self.format)
        if "%y" in found:
            raise _problem(
                "has a two-digit year (%y), which leaves the century open: use %Y", "format", self.format
            )
        if unknown := [one for one in found if one not in STRPTIME_DIRECTIVES.split()]:
            raise _problem(
                f"holds {unknown[0]}, which is not supported: allowed are {STRPTIME_DIRECTIVES}",
                "format",
                self.format,
            )
        parts = [one for part in found for one in _DIRECTIVE_PARTS.get(part, (part,)) if one != "%%"]
        expanded = set(parts)
        if len(parts) > len(expanded) or len(expanded & {"%m", "%b", "%B"}) > 1 or expanded >= {"%H", "%I"}:
            raise _problem("gives a part of the time twice", "format", self.format)
        has_date = "%Y" in expanded and (
            "%j" in expanded or ("%d" in expanded and expanded & {"%m", "%b", "%B"})
        )
        if not has_date:
            raise _problem("must give year, month and day (%Y %m %d, or %Y %j)", "format", self.format)
        if ("%I" in expanded) != ("%p" in expanded):
            raise _problem("must use %I and %p together, or %H", "format", self.format)
        if "%z" not in expanded and self.timezone is None:
            raise _problem(
                f"is needed: format {self.format!r} reads no offset (%z), so name the zone of the times, such as UTC",
                "timezone",
            )


_DIRECTIVE_PARTS: Final = {"%T": ("%H", "%M", "%S"), "%F": ("%Y", "%m", "%d"), "%R": ("%H", "%M")}


def _rule_shape(value: object) -> object:
    """A plain column name is short for `{column: name}`."""
    return {"column": value} if isinstance(value, str) else value


def _rule_kind(value: object) -> str:
    """Which model of the family a mapping means: the one whose telling key it holds."""
    for key in ("constant", "generate"):
        if (isinstance(value, dict) and key in value) or hasattr(value, key):
            return f"<{key}>"
    return "<column>"


_Short = BeforeValidator(_rule_shape)
_Constant = Annotated[ConstantRule, Tag("<constant>")]
TextField = Annotated[_Constant | Annotated[TextRule, Tag("<column>")], Discriminator(_rule_kind), _Short]
AccountField = Annotated[
    _Constant | Annotated[AccountRule, Tag("<column>")], Discriminator(_rule_kind), _Short
]
ReferenceField = Annotated[
    Annotated[GeneratedReferenceRule, Tag("<generate>")] | Annotated[ColumnRule, Tag("<column>")],
    Discriminator(_rule_kind),
    _Short,
]
NumberField = Annotated[NumberRule, _Short]
TimeField = Annotated[TimeRule, _Short]
AnyRule = ConstantRule | ColumnRule | TextRule | AccountRule | NumberRule | GeneratedReferenceRule | TimeRule


def rule_columns(rule: AnyRule | None) -> tuple[str, ...]:
    """The source columns that a rule reads; none for constants and for a reference generated from all columns."""
    if isinstance(rule, GeneratedReferenceRule):
        return rule.columns or ()
    return () if rule is None or isinstance(rule, ConstantRule) else (rule.column,)


class EntryFields(Model):
    """Which rule feeds which field of a ledger entry."""

    ledger_id: TextField
    debit_account_id: AccountField
    credit_account_id: AccountField
    amount: NumberField
    currency_code: TextField
    asset_type: TextField = ConstantRule(constant="fiat")
    transaction_type: TextField
    reference_id: ReferenceField
    timestamp_utc: TimeField
    fx_rate: NumberField | None = None

    def rules(self) -> dict[str, AnyRule]:
        """Field → rule, without the fields that have none, in the order of the ENTRY frame."""
        return {name: rule for name in type(self).model_fields if (rule := getattr(self, name)) is not None}


# --- accounts ---------------------------------------------------------------------------------------------------


class AccountMap(Model):
    """From the source's account identifiers to the ledger's: written inline, or two columns of a CSV file."""

    inline: dict[Name, Name] | None = None
    file: Path | None = None
    from_: Name | None = Field(default=None, alias="from")
    to: Name | None = None
    csv: CsvDialect = CsvDialect()
    missing: Literal["reject", "keep"] = "reject"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.inline is None) == (self.file is None):
            raise _problem("needs either inline (a mapping) or file (a CSV file), not both")
        if self.file is not None and (self.from_ is None or self.to is None):
            raise _problem(
                "is needed with file: the column names are given as from and to",
                "to" if self.from_ else "from",
            )
        if self.inline is not None and (self.from_ is not None or self.to is not None):
            raise _problem(
                "has a meaning only with file", "from" if self.from_ else "to", self.from_ or self.to
            )
        return self


class AccountFields(Model):
    """Which rule feeds which field of an account."""

    id: AccountField
    currency_code: TextField
    asset_type: TextField = ConstantRule(constant="fiat")
    normal_side: TextField = ConstantRule(constant="debit")
    opening_balance: NumberField | None = None

    def rules(self) -> dict[str, AnyRule]:
        """Field → rule, without the fields that have none."""
        return {name: rule for name in type(self).model_fields if (rule := getattr(self, name)) is not None}


CURRENCY_PLACEHOLDER: Final = "{currency_code}"


class Opening(Model):
    """How opening balances become entries: each against the equity account of its currency, at one moment."""

    ledger_id: Name
    equity_account_id: Name = f"OPENING-BALANCE-EQUITY-{CURRENCY_PLACEHOLDER}"
    as_of: AwareDatetime
    transaction_type: Name = "OPENING_BALANCE"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if CURRENCY_PLACEHOLDER not in self.equity_account_id:
            raise _problem(
                f"must hold {CURRENCY_PLACEHOLDER}, because an account has one currency",
                "equity_account_id",
                self.equity_account_id,
            )
        if "{" in self.equity_account_id.replace(CURRENCY_PLACEHOLDER, ""):
            raise _problem(
                f"may hold no placeholder but {CURRENCY_PLACEHOLDER}",
                "equity_account_id",
                self.equity_account_id,
            )
        return self


class Accounts(Model):
    """Where the source's accounts and their opening balances come from."""

    file: Path
    csv: CsvDialect = CsvDialect()
    fields: AccountFields
    opening: Opening | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.fields.opening_balance is not None and self.opening is None:
            raise _problem(
                "is needed with fields.opening_balance: ledger_id and as_of of the opening entries", "opening"
            )
        return self


# --- the whole --------------------------------------------------------------------------------------------------


class RunConfig(Model):
    """The strategy document's §3.1 for one source. None: the product's default, which is decided elsewhere."""

    batch_size: Annotated[int, _between(1, 1_000_000)] | None = None
    checkpoint_interval: Annotated[int, _between(1, 1_000_000)] | None = None
    max_retries: Annotated[int, _between(0, 20)] | None = None
    retry_delay: Annotated[int, _between(0, 60_000)] | None = Field(default=None, description="milliseconds")
    parallel_workers: Annotated[int, _between(1, 16)] | None = None
    skip_duplicates: bool | None = None
    validate_balances: bool | None = None
    online: bool | None = None


def _metadata_keys(value: object) -> object:
    """A list of columns is short for a mapping of each column name to itself."""
    if not isinstance(value, list | tuple):
        return value
    if repeated := next((one for one in value if value.count(one) > 1), None):
        raise _problem("names a column twice", value=str(repeated))
    return {column: column for column in value}


class SourceDefinition(Model):
    """One source: where it is, how it is written, and what its rows mean. See `load.load_definition`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    type: Literal["csv"]
    description: str | None = None
    file: Path
    csv: CsvDialect = CsvDialect()
    fields: EntryFields
    metadata: Annotated[dict[Name, Name], BeforeValidator(_metadata_keys)] = Field(default_factory=dict)
    account_map: AccountMap | None = None
    accounts: Accounts | None = None
    unknown_accounts: Literal["reject", "create"] = "reject"
    partition_rows: Annotated[int, _between(1, 10_000_000)] | None = None
    max_error_rate: Annotated[float, _between(0, 1)] = 0.01
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
    def _consistent(self) -> Self:
        if self.account_map is None:
            for place, rules in (("fields", self.fields.rules()), ("accounts.fields", self.account_rules())):
                for name, rule in rules.items():
                    if isinstance(rule, AccountRule) and rule.map is not None:
                        raise _problem(
                            "needs an account_map, which is not defined", f"{place}.{name}.map", rule.map
                        )
        return self

    @property
    def path(self) -> Path:
        """The YAML file that this definition was read from."""
        return self._path

    def account_rules(self) -> dict[str, AnyRule]:
        """Field → rule of the accounts file; empty without one."""
        return {} if self.accounts is None else self.accounts.fields.rules()

    def columns_read(self) -> dict[str, str]:
        """Source column → the key of the definition that reads it (the first one), for error messages."""
        found: dict[str, str] = {}
        for name, rule in self.fields.rules().items():
            for column in rule_columns(rule):
                found.setdefault(column, f"fields.{name}")
        for column in self.metadata.values():
            found.setdefault(column, "metadata")
        return found
