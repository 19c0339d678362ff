"""Conditional rules: what rows that meet conditions become, or that they are left out or rejected.

Belongs here: conditions, and what a rule may do.
Does not: whether the columns and lookups that a rule names exist (`models.py`), applying rules (`mapping/rules.py`).
"""

from decimal import Decimal
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from backfill_pipeline.definition.base import Model, Name, problem
from backfill_pipeline.definition.fields import ConstantRule, ValueField
from backfill_pipeline.definition.steps import Pattern

_DIGITS_BEFORE, _DIGITS_AFTER = 20, 18
COMPARISONS: Final = ("above", "below", "at_least", "at_most", "between")
"""The operators that read a column as a number."""


def _fits(number: Decimal) -> Decimal:
    exponent = number.as_tuple().exponent if number.is_finite() else 1
    too_fine = not isinstance(exponent, int) or -exponent > _DIGITS_AFTER
    if not number.is_finite() or too_fine or abs(number) >= Decimal(10) ** _DIGITS_BEFORE:
        raise problem(
            f"must be a decimal number with at most {_DIGITS_BEFORE} digits before and {_DIGITS_AFTER} after the point",
            value=str(number),
        )
    return number


Limit = Annotated[Decimal, AfterValidator(_fits)]
Texts = Annotated[tuple[str, ...], Field(min_length=1)]


def _short_condition(value: object) -> object:
    """A text is short for `equals`, a list for `in`."""
    if isinstance(value, str):
        return {"equals": value}
    return {"in": value} if isinstance(value, list | tuple) else value


class Condition(Model):
    """What must hold for a column's text, without white space around it. Everything that is given must hold."""

    equals: str | None = None
    not_equals: str | None = None
    in_: Texts | None = Field(default=None, alias="in")
    not_in: Texts | None = None
    regex: Pattern | None = None
    starts_with: Name | None = None
    empty: bool | None = None
    not_empty: bool | None = None
    above: Limit | None = None
    below: Limit | None = None
    at_least: Limit | None = None
    at_most: Limit | None = None
    between: tuple[Limit, Limit] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise problem("says nothing: give equals, in, regex, empty, above, below or another operator")
        if self.between is not None and self.between[0] > self.between[1]:
            raise problem("gives the higher limit first", "between")
        return self

    @property
    def compares(self) -> bool:
        """Whether the column is read as a number."""
        return any(getattr(self, name) is not None for name in COMPARISONS)


Conditions = Annotated[
    dict[Name, Annotated[Condition, BeforeValidator(_short_condition)]], Field(min_length=1)
]
"""Column → what must hold for it; all of them must."""


class Rule(Model):
    """Conditions, and exactly one thing that is done to the rows that meet them and no rule before.

    A rule without conditions takes all that is left.
    """

    name: Name | None = None
    when: Conditions | None = None
    any: Annotated[tuple[Conditions, ...], Field(min_length=1)] | None = None
    unless: Conditions | None = None
    set: Annotated[dict[Name, ValueField], Field(min_length=1)] | None = None
    filter: Name | None = None
    reject: Name | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [name for name in ("set", "filter", "reject") if getattr(self, name) is not None]
        if not given:
            raise problem("does nothing: give set, filter or reject")
        if len(given) > 1:
            raise problem(f"cannot go together with {given[0]}: a rule does one thing", given[1])
        reference = (self.set or {}).get("reference_id")
        if isinstance(reference, ConstantRule) or getattr(reference, "default", None) is not None:
            raise problem(
                "would give several rows the same reference: use a column or a template, without default",
                "set.reference_id",
            )
        return self

    def conditions(self) -> list[Conditions]:
        """All groups of conditions of the rule."""
        return [group for group in (self.when, *(self.any or ()), self.unless) if group is not None]

    def columns_read(self) -> dict[str, str]:
        """Column → the key below the rule that reads it."""
        found: dict[str, str] = {}
        for key, groups in (("when", [self.when]), ("any", list(self.any or ())), ("unless", [self.unless])):
            for column in (column for group in groups for column in group or ()):
                found.setdefault(column, key)
        for target, value in (self.set or {}).items():
            for column in value.columns_read():
                found.setdefault(column, f"set.{target}")
        return found
