"""What the models of a source definition are built from.

Belongs here: their base class, how they word what is wrong, and the types of single values.
Does not: any section of a definition (the other modules of this package).
"""

from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


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


def problem(message: str, key: str = "", value: str | None = None) -> PydanticCustomError:
    """An error whose sentence goes on after "<file>: <dotted key> "; `key` is below the model that raises it."""
    return PydanticCustomError("problem", "{text}", {"text": message, "key": key, "value": value})


def _zone_name(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise problem(
            "is not a time zone: allowed are IANA names such as UTC, Europe/Paris or America/New_York",
            value=name,
        ) from None
    return name


def _one_ascii_character(text: str) -> str:
    if len(text) != 1 or not text.isascii() or text in "\r\n\0":
        raise problem("must be one ASCII character that is no line break", value=text)
    return text


def _named(text: str) -> str:
    if not text.strip():
        raise problem("must not be empty", value=text)
    return text


def between(low: float, high: float) -> AfterValidator:
    """A number from `low` to `high`, both allowed."""

    def check(number: float) -> float:
        if not low <= number <= high:
            raise problem(f"is outside the allowed range of {low} to {high}", value=str(number))
        return number

    return AfterValidator(check)


def _column_rule(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


PlainColumn = BeforeValidator(_column_rule)
"""A plain text is short for `{column: text}`."""

ZoneName = Annotated[str, AfterValidator(_zone_name)]
Character = Annotated[str, AfterValidator(_one_ascii_character)]
Name = Annotated[str, AfterValidator(_named)]
