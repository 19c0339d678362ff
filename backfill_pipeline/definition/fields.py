"""The rules of fields: which columns feed a field of an entry, and how.

Belongs here: one small model per kind of rule, told apart by its keys, and the fields of an entry.
Does not: what the rules do to rows (`mapping/`).

A new kind of rule is one model here and one compiler in `mapping/transform.py`.
"""

import re
from datetime import date
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from backfill_pipeline.definition.base import Model, Name, ZoneName, problem

ISO_FORMAT: Final = "iso8601"
EPOCH_FORMATS: Final = ("epoch_seconds", "epoch_milliseconds", "epoch_days")
STRPTIME_DIRECTIVES: Final = "%Y %m %d %H %I %M %S %f %p %b %B %j %z %T %F %R %%"
"""What a strptime format may hold, apart from literal text. All are exact and mean the same on every machine."""


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
            raise problem("must differ from decimal_mark", "thousands_mark", self.thousands_mark)
        return self


class GeneratedReferenceRule(Model):
    """A reference made from the row's content: the hash of `columns` (default: all) and an occurrence number."""

    generate: bool
    columns: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.generate:
            raise problem(
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
            raise problem('has a meaning only with "format: epoch_days"', "epoch", str(self.epoch))
        if self.timezone is not None and self.format in ("epoch_seconds", "epoch_milliseconds"):
            raise problem(
                f"has no meaning with format {self.format}, which counts in UTC", "timezone", self.timezone
            )
        return self

    def _check_strptime(self) -> None:
        allowed = f"allowed are {ISO_FORMAT}, {', '.join(EPOCH_FORMATS)}, or a strptime format"
        if "%" not in self.format:
            raise problem(f"is unknown: {allowed} such as %d/%m/%Y %H:%M", "format", self.format)
        found = re.findall(r"%.?", self.format)
        if "%y" in found:
            raise problem(
                "has a two-digit year (%y), which leaves the century open: use %Y", "format", self.format
            )
        if unknown := [one for one in found if one not in STRPTIME_DIRECTIVES.split()]:
            raise problem(
                f"holds {unknown[0]}, which is not supported: allowed are {STRPTIME_DIRECTIVES}",
                "format",
                self.format,
            )
        parts = [one for part in found for one in _DIRECTIVE_PARTS.get(part, (part,)) if one != "%%"]
        expanded = set(parts)
        if len(parts) > len(expanded) or len(expanded & {"%m", "%b", "%B"}) > 1 or expanded >= {"%H", "%I"}:
            raise problem("gives a part of the time twice", "format", self.format)
        has_date = "%Y" in expanded and (
            "%j" in expanded or ("%d" in expanded and expanded & {"%m", "%b", "%B"})
        )
        if not has_date:
            raise problem("must give year, month and day (%Y %m %d, or %Y %j)", "format", self.format)
        if ("%I" in expanded) != ("%p" in expanded):
            raise problem("must use %I and %p together, or %H", "format", self.format)
        if "%z" not in expanded and self.timezone is None:
            raise problem(
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
