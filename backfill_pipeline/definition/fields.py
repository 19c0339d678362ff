"""The rules of fields: which columns feed a field of an entry, and how.

Belongs here: one small model per kind of rule, told apart by its keys, and the fields of an entry.
Does not: what the rules do to rows (`mapping/`).

A new kind of rule is one model here and one compiler in `mapping/`.
"""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from backfill_pipeline.definition.base import Model, Name, PlainColumn, problem
from backfill_pipeline.definition.numbers import NumberField, NumberRule, RateField
from backfill_pipeline.definition.steps import Steps, Template, template_columns
from backfill_pipeline.definition.times import TimeField, TimeRule


class ConstantRule(Model):
    """The same text for every row."""

    constant: Name

    def columns_read(self) -> tuple[str, ...]:
        """No column."""
        return ()


class ColumnRule(Steps):
    """A column's text. References use it: a default would give all rows without one the same reference."""

    column: Name

    def columns_read(self) -> tuple[str, ...]:
        """The columns that the rule reads."""
        return (self.column,)


class TemplateRule(Steps):
    """A text with columns in braces; empty where one of the columns is, so that no two rows get the same half of it."""

    template: Template

    def columns_read(self) -> tuple[str, ...]:
        """The columns that the rule reads."""
        return template_columns(self.template)


class TextRule(ColumnRule):
    """A column's text; `default` where it is empty after all steps."""

    default: Name | None = None


class TextTemplate(TemplateRule):
    """A template; `default` where it is empty after all steps."""

    default: Name | None = None


class AccountRule(TextRule):
    """A column's text, looked up in the account map with `map: accounts`, after everything else."""

    map: Literal["accounts"] | None = None


class AccountTemplate(TextTemplate):
    """A template, looked up in the account map with `map: accounts`, after everything else."""

    map: Literal["accounts"] | None = None


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

    def columns_read(self) -> tuple[str, ...]:
        """The columns that the reference is made of; none when it is made of all."""
        return self.columns or ()


def _rule_kind(value: object) -> str:
    """Which model of the family a mapping means: the one whose telling key it holds."""
    for key in ("constant", "generate", "template"):
        if (isinstance(value, dict) and key in value) or hasattr(value, key):
            return f"<{key}>"
    return "<column>"


_Constant = Annotated[ConstantRule, Tag("<constant>")]
TextField = Annotated[
    _Constant | Annotated[TextRule, Tag("<column>")] | Annotated[TextTemplate, Tag("<template>")],
    Discriminator(_rule_kind),
    PlainColumn,
]
AccountField = Annotated[
    _Constant | Annotated[AccountRule, Tag("<column>")] | Annotated[AccountTemplate, Tag("<template>")],
    Discriminator(_rule_kind),
    PlainColumn,
]
ReferenceField = Annotated[
    Annotated[GeneratedReferenceRule, Tag("<generate>")]
    | Annotated[ColumnRule, Tag("<column>")]
    | Annotated[TemplateRule, Tag("<template>")],
    Discriminator(_rule_kind),
    PlainColumn,
]
Value = ConstantRule | ColumnRule | TemplateRule
"""Every rule for a text: the family of TextField, AccountField and, but for generated ones, ReferenceField."""

ValueField = AccountField
"""A value expression, as derived columns and `set` of rules take it: whatever a text may be made of."""

AnyRule = Value | NumberRule | GeneratedReferenceRule | TimeRule


def rule_columns(rule: AnyRule | None) -> tuple[str, ...]:
    """The source columns that a rule reads; none for constants and for a reference generated from all columns."""
    return () if rule is None else rule.columns_read()


class EntryFields(Model):
    """Which rule feeds which field of a ledger entry."""

    ledger_id: TextField
    account_id: AccountField | None = None
    debit_account_id: AccountField | None = Field(default=None, validate_default=True)
    credit_account_id: AccountField | None = Field(default=None, validate_default=True)
    amount: NumberField
    currency_code: TextField
    asset_type: TextField = ConstantRule(constant="fiat")
    transaction_type: TextField
    reference_id: ReferenceField
    timestamp_utc: TimeField
    fx_rate: RateField | None = None

    @field_validator("debit_account_id", "credit_account_id")
    @classmethod
    def _entries_or_legs(cls, rule: Value | None, others: ValidationInfo) -> Value | None:
        """A row is an entry, with two accounts, or one leg of a transaction, with one.

        Told field by field, so that it is told beside whatever else is wrong. An account_id that is wrong in itself is
        not among the others.
        """
        if "account_id" in others.data:
            leg = others.data["account_id"] is not None
            if rule is None and not leg:
                raise problem("is missing")
            if rule is not None and leg:
                raise problem(
                    "is given beside account_id: a row is an entry with two accounts, or a leg with one"
                )
        return rule

    def rules(self) -> dict[str, AnyRule]:
        """Field → rule, without the fields that have none, in the order of the ENTRY frame."""
        return {name: rule for name in type(self).model_fields if (rule := getattr(self, name)) is not None}
