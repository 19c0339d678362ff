"""What a simulated bank is made of: its ledgers, their days and their size.

Belongs here: the options, their limits and defaults, reading them from YAML, and what must stay the same for a state.
Does not: faults (`faults.py`), credentials (`tokens.py`), where it listens and keeps its state (`server.py`).
"""

import re
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from backfill_pipeline.errors import UsageError
from backfill_pipeline.money import CURRENCY_DECIMALS

ACCOUNTS_PER_CURRENCY_MIN: Final = 4
ENTRIES_MAX: Final = 10**9
"""Entries of a ledger, over all its days."""

_DAYS = (date(1980, 1, 1), date(2200, 1, 1))
_LEDGER_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,39}")
_PER_LEDGER: Final = (
    "timezone",
    "entries_per_day",
    "currencies",
    "accounts",
    "known_share",
    "unknown_accounts",
)


def between(low: float, high: float) -> AfterValidator:
    """A number from `low` to `high`, both allowed."""

    def check(number: float) -> float:
        if not low <= number <= high:
            raise ValueError(f"must be from {low} to {high}, not {number}")
        return number

    return AfterValidator(check)


def _ledger_id(text: str) -> str:
    if not _LEDGER_ID.fullmatch(text):
        raise ValueError(f"must be up to 40 letters, digits, - and _, not {text!r}")
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"must be an IANA time zone such as Europe/Paris, not {name!r}") from None
    return name


def _currencies(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _known_currencies(codes: tuple[str, ...]) -> tuple[str, ...]:
    for code in codes:
        if CURRENCY_DECIMALS.get(code) is None:
            raise ValueError(f"must be ISO 4217 codes of currencies with a minor unit, and {code!r} is none")
    if not codes or len(set(codes)) != len(codes):
        raise ValueError("must name at least one currency, and each once")
    return codes


class Model(BaseModel):
    """Base of options and faults: unknown keys are errors, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LedgerOptions(Model):
    """One ledger of the bank.

    Attributes:
        timezone: of the bank: where its days begin and end.
        accounts: all currencies together; half of those of a currency are shared with us.
        known_share: of entries between two shared accounts; all others have an account that only the bank knows.
        unknown_accounts: what becomes of entries sent to it whose accounts the ledger does not have.
    """

    id: Annotated[str, AfterValidator(_ledger_id)]
    timezone: Annotated[str, AfterValidator(_zone)] = "Europe/Paris"
    entries_per_day: Annotated[int, between(0, 10_000_000)] = 1000
    currencies: Annotated[
        tuple[str, ...], BeforeValidator(_currencies), AfterValidator(_known_currencies)
    ] = ("EUR", "USD", "JPY", "KWD")
    accounts: Annotated[int, between(4, 100_000)] = 40
    known_share: Annotated[float, between(0, 1)] = 0.9
    unknown_accounts: Literal["refuse", "accept"] = "refuse"

    @model_validator(mode="after")
    def _enough_accounts(self) -> Self:
        needed = ACCOUNTS_PER_CURRENCY_MIN * len(self.currencies)
        if self.accounts < needed:
            raise ValueError(
                f"accounts must be at least {needed} for {len(self.currencies)} currencies, not {self.accounts}"
            )
        return self


class Options(Model):
    """The whole bank. The same options give the same ledgers on every machine.

    Attributes:
        start: the first day of every ledger.
        days: how many days the ledgers have.
    """

    seed: Annotated[int, between(0, 2**63 - 1)] = 1
    start: date = date(2024, 3, 1)
    days: Annotated[int, between(1, 36_600)] = 31
    ledgers: tuple[LedgerOptions, ...] = (LedgerOptions(id="SCB-01"),)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not _DAYS[0] <= self.start or not self.start + timedelta(days=self.days) <= _DAYS[1]:
            raise ValueError(f"start and days must stay between {_DAYS[0]} and {_DAYS[1]}")
        ids = [ledger.id.casefold() for ledger in self.ledgers]
        if not ids or len(set(ids)) != len(ids):
            raise ValueError("ledgers must be at least one, each with an id of its own")
        for ledger in self.ledgers:
            if (entries := ledger.entries_per_day * self.days) > ENTRIES_MAX:
                raise ValueError(f"entries_per_day times days must be at most {ENTRIES_MAX}, not {entries}")
        return self

    def identity(self) -> dict[str, str]:
        """Everything that what it serves depends on, one line each: a state belongs to one of these."""
        lines = {"seed": str(self.seed), "start": str(self.start), "days": str(self.days)}
        lines["ledgers"] = ", ".join(ledger.id for ledger in self.ledgers)
        for ledger in self.ledgers:
            for key in _PER_LEDGER:
                value = getattr(ledger, key)
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                lines[f"{key} of {ledger.id}"] = text
        return lines


def read_file(path: Path) -> dict[str, object]:
    """The YAML file of a simulator, as a mapping: options, and faults under `faults`.

    Raises:
        UsageError: it cannot be read, or is no mapping.
    """
    try:
        data: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): name the simulator's YAML file"
        ) from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text: name the simulator's YAML file") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise UsageError(f"{path}{line}: this is not YAML that can be read") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}: must hold keys and values, such as entries_per_day: 1000")
    return {str(key): value for key, value in data.items()}


def make_options(data: Mapping[str, object], where: str) -> Options:
    """Options from a file and the command line together.

    Args:
        data: as in the file, without `faults`. `ledgers` is a number, a list of ids, or a list of mappings; what
            is said of ledgers beside it holds for all of them.
        where: what to name in errors.

    Raises:
        UsageError: with the key and what is allowed.
    """
    common = {key: data[key] for key in _PER_LEDGER if key in data}
    whole = {key: value for key, value in data.items() if key not in _PER_LEDGER}
    whole["ledgers"] = [
        {**common, **one} if isinstance(one, dict) else one for one in _listed(whole.get("ledgers", 1), where)
    ]
    try:
        return Options.model_validate(whole)
    except ValidationError as error:
        text = first_problem(error)
        # What was said once for all ledgers is named as it was said.
        for key in common:
            text = re.sub(rf"^ledgers\.[0-9]+\.{key}\b", key, text)
        raise UsageError(f"{where}: {text}") from None


def _listed(ledgers: object, where: str) -> list[object]:
    """One mapping per ledger, however they were written."""
    if isinstance(ledgers, int) and not isinstance(ledgers, bool):
        if not 1 <= ledgers <= 99:
            raise UsageError(f"{where}: ledgers must be from 1 to 99, not {ledgers}")
        return [{"id": f"SCB-{number:02d}"} for number in range(1, ledgers + 1)]
    if isinstance(ledgers, str):
        return [{"id": one.strip()} for one in ledgers.split(",")]
    if isinstance(ledgers, list):
        return [{"id": one} if isinstance(one, str) else one for one in ledgers]
    raise UsageError(f"{where}: ledgers must be a number, a list of ids, or a list of ledgers")


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, as "key reason"."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key} is no key that there is"
    if first["type"] == "missing":
        return f"{key} is missing"
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    reason = reason if first["type"] == "value_error" else reason[0].lower() + reason[1:]
    return f"{key} {reason}" if key else reason
