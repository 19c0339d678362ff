"""The rules of amounts and other numbers: which columns hold them, and how they are written.

Belongs here: the model of a number, its short form, and which options contradict each other.
Does not: reading numbers (`mapping/amounts.py`).
"""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from backfill_pipeline.definition.base import Model, Name, PlainColumn, problem

SPACES: Final = " \u00a0\u202f\u2009\u2007"
"""What `thousands_mark: space` means: space, no-break space, narrow no-break space, thin space, figure space."""

APOSTROPHES: Final = "'\u2019"
"""What `thousands_mark: apostrophe` means: the typewriter's and the typographic one."""

SIGN_CHARACTERS: Final = "+-\u2212()"
MINOR_UNIT_DECIMALS_MAX: Final = 18

MinorUnits = Literal["currency"] | int


def _minor_units(value: object) -> object:
    """`true` asks ISO 4217; a number is taken as it is."""
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    if isinstance(value, bool):
        return "currency" if value else None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if value in (None, "currency") or (isinstance(value, int) and value <= MINOR_UNIT_DECIMALS_MAX):
        return value
    raise problem(
        f"is neither true nor false nor a number of decimals from 0 to {MINOR_UNIT_DECIMALS_MAX}",
        value=str(value),
    )


def _one_or_more(value: object) -> object:
    """One text is short for a list of it."""
    return (value,) if isinstance(value, str) else value


def _plain_words(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Texts beside a number must not look like a part of it."""
    for text in texts:
        if any(one.isdigit() or one in SIGN_CHARACTERS for one in text) or text != text.strip():
            raise problem("may hold no digits, signs, brackets, and no white space at its ends", value=text)
        if not text.strip(".,'\u2019_ \u00a0\u202f\u2009\u2007"):
            raise problem("could be taken for a mark of the number", value=text)
    return texts


class SignRule(Model):
    """Where the sign of a number is told by a text: in a column of its own, or behind the number ("12.50 DR")."""

    column: Name | None = None
    negative: Annotated[tuple[str, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    positive: Annotated[tuple[str, ...], BeforeValidator(_one_or_more), Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if both := set(self.negative) & set(self.positive):
            raise problem("is negative as well", "positive", min(both))
        for key, texts in (("negative", self.negative), ("positive", self.positive)):
            if self.column is None:
                _plain_words(tuple(filter(None, texts)))
            elif padded := next((one for one in texts if one != one.strip()), None):
                raise problem("has white space at its ends, which values never have here", key, padded)
        return self


class NumberRule(Model):
    """A decimal number. Marks, symbols and signs other than a leading one are only understood when they are stated."""

    column: Name | None = None
    in_: Name | None = Field(default=None, alias="in")
    out: Name | None = None
    out_minus: bool = False
    numerator: Name | None = None
    denominator: Name | None = None
    decimal_mark: Literal[".", ","] = "."
    thousands_mark: (
        Literal[".", ",", " ", "'", "_", "\u00a0", "\u202f", "\u2009", "\u2019", "space", "apostrophe"] | None
    ) = None
    grouping: Literal["thousands", "indian"] = "thousands"
    whole_mark: Literal[".-", ".--", ",-", ",--", ".\u2013", ",\u2013", ".\u2014", ",\u2014"] | None = None
    symbols: Annotated[
        tuple[Name, ...], BeforeValidator(_one_or_more), AfterValidator(_plain_words), Field(min_length=1)
    ] = ()
    minus: Annotated[
        tuple[Literal["leading", "trailing", "parentheses"], ...],
        BeforeValidator(_one_or_more),
        Field(min_length=1),
    ] = ("leading",)
    sign: SignRule | None = None
    empty: Annotated[tuple[Name, ...], BeforeValidator(_one_or_more)] = ()
    minor_units: Annotated[MinorUnits | None, BeforeValidator(_minor_units)] = None
    absolute: bool = False
    zero: Literal["reject", "filter"] = "reject"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_columns()
        self._check_writing()
        self._check_signs()
        return self

    def _check_columns(self) -> None:
        for first, one, second, other in (
            ("in", self.in_, "out", self.out),
            ("numerator", self.numerator, "denominator", self.denominator),
        ):
            if (one is None) != (other is None):
                given, lacking = (first, second) if other is None else (second, first)
                raise problem(f"is needed with {given}: the name of a column", lacking)
        ways = [self.column, self.in_, self.numerator]
        if sum(way is not None for way in ways) != 1:
            raise problem("needs one of column, in and out, numerator and denominator")
        if self.numerator is not None:
            spelled = ("decimal_mark", "thousands_mark", "grouping", "whole_mark", "symbols", "minus")
            for key in (*spelled, "minor_units"):
                if key in self.model_fields_set:
                    raise problem("has no meaning with numerator and denominator, which are integers", key)
        if self.out_minus and self.out is None:
            raise problem("has a meaning only with in and out", "out_minus")

    def _check_writing(self) -> None:
        if self.decimal_mark == self.thousands_mark:
            raise problem("must differ from decimal_mark", "thousands_mark", self.thousands_mark)
        if self.grouping != "thousands" and self.thousands_mark is None:
            raise problem(f"is needed with grouping: {self.grouping}", "thousands_mark")
        if self.minor_units is not None and self.whole_mark is not None:
            raise problem(
                "has no meaning with minor_units, which are integers", "whole_mark", self.whole_mark
            )

    def _check_signs(self) -> None:
        if self.sign is not None:
            if self.in_ is not None:
                raise problem("contradicts in and out, which tell the sign already", "sign")
            if "minus" in self.model_fields_set:
                raise problem("contradicts sign: the number beside it has no sign of its own", "minus")
            if self.sign.column is None:
                if self.numerator is not None:
                    raise problem("is needed with numerator and denominator", "sign.column")
                texts = (*self.sign.negative, *self.sign.positive)
                if shared := next((one for one in self.symbols if one in texts), None):
                    raise problem("is a text of sign as well", "symbols", shared)
        if self.in_ is not None and "minus" in self.model_fields_set and not self.out_minus:
            raise problem("has a meaning with in and out only if out_minus is true", "minus")

    def columns_read(self) -> tuple[str, ...]:
        """The columns that the rule reads."""
        sign = None if self.sign is None else self.sign.column
        named = (self.column, self.in_, self.out, self.numerator, self.denominator, sign)
        return tuple(one for one in named if one is not None)


def _rate(rule: NumberRule) -> NumberRule:
    for key, stated in (
        ("in", rule.in_ is not None),
        ("sign", rule.sign is not None),
        ("absolute", rule.absolute),
        ("minor_units", rule.minor_units == "currency"),
        ("zero", rule.zero == "filter"),
    ):
        if stated:
            raise problem("has no meaning for a rate, which is above zero and belongs to no currency", key)
    return rule


def _balance(rule: NumberRule) -> NumberRule:
    if rule.zero == "filter":
        raise problem("has no meaning for a balance: zero makes no entry anyway", "zero", "filter")
    return rule


NumberField = Annotated[NumberRule, PlainColumn]
RateField = Annotated[NumberRule, PlainColumn, AfterValidator(_rate)]
BalanceField = Annotated[NumberRule, PlainColumn, AfterValidator(_balance)]
