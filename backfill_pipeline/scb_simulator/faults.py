"""The faults that a simulated bank can be told to have.

Belongs here: their kinds and settings, how they are written on a command line, and when one strikes.
Does not: counting requests (`fault_switches.py`), doing it (`web/`).
"""

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from backfill_pipeline.errors import UsageError
from backfill_pipeline.scb_simulator.dice import Dice
from backfill_pipeline.scb_simulator.options import Model, between, first_problem

Route = Literal[
    "ledgers",
    "entries",
    "totals",
    "accounts",
    "acknowledge",
    "acknowledgements",
    "push",
    "received",
    "token",
    "health",
]
"""What a fault can strike: the operations of the API, by the names that its OpenAPI document has for them."""

_EVERY: Final[tuple[Route, ...]] = (
    "ledgers",
    "entries",
    "totals",
    "accounts",
    "acknowledge",
    "acknowledgements",
    "push",
    "received",
    "token",
)
_GUARDED: Final = _EVERY[:-1]
_CHANCES: Final = 2**53

Seconds = Annotated[float, between(0, 3600)]


class Fault(Model):
    """When a fault strikes; each kind adds what it does.

    Of all requests to its operations, the first `after` are left alone; each further one is struck with the
    probability, until `count` have been. Which ones depends on the seed and on how many there were before, and on
    nothing else.

    Attributes:
        alone: faults behind one that strikes do not see the request: it decides what the answer is.
        possible: the operations that it can strike.
    """

    alone: ClassVar[bool] = False
    possible: ClassVar[tuple[Route, ...]] = _EVERY

    probability: Annotated[float, between(0, 1)] = 1.0
    count: Annotated[int, between(1, 10**9)] | None = None
    after: Annotated[int, between(0, 10**9)] = 0
    seed: Annotated[int, between(0, 2**63 - 1)] = 1
    operations: tuple[Route, ...] = ()

    @property
    def targets(self) -> tuple[Route, ...]:
        """The operations that it strikes: those that it can, unless `operations` says which."""
        return self.operations or self.possible

    def strikes(self, kind: str, seen: int, fired: int) -> bool:
        """Whether it strikes the next request.

        Args:
            kind: of the fault.
            seen: requests to its operations before this one.
            fired: how many of those it struck.
        """
        if seen < self.after or (self.count is not None and fired >= self.count):
            return False
        return Dice(self.seed, kind).one(seen, _CHANCES) < self.probability * _CHANCES


class Throttled(Fault):
    """429 with Retry-After, in seconds or as a date."""

    alone = True
    kind: Literal["throttled"]
    retry_after_s: Annotated[int, between(0, 3600)] = 1
    retry_after_as: Literal["seconds", "date"] = "seconds"


class ServerError(Fault):
    """500, 502 or 503 instead of the answer."""

    alone = True
    kind: Literal["server_error"]
    status: Literal[500, 502, 503] = 503


class Slow(Fault):
    """The answer comes later."""

    kind: Literal["slow"]
    delay_s: Seconds = 1.0


class Dropped(Fault):
    """The connection is closed before anything is answered; the request has no effect."""

    alone = True
    kind: Literal["dropped"]


class Truncated(Fault):
    """Half of the body comes, with the Content-Length of the whole, then the connection is closed."""

    kind: Literal["truncated"]


class Down(Fault):
    """From the request that it strikes on, everything is refused (503) or closed for a while."""

    alone = True
    possible = (*_EVERY, "health")
    kind: Literal["down"]
    for_s: Seconds = 5.0
    how: Literal["refuse", "close"] = "refuse"


class ExpiredToken(Fault):
    """401 invalid_token; a token from /oauth/token is really void from then on."""

    alone = True
    possible = _GUARDED
    kind: Literal["expired_token"]


class DuplicatePage(Fault):
    """A request for a further page gets the page before it once more, whose next_cursor asks for this page again."""

    alone = True
    possible = ("entries",)
    kind: Literal["duplicate_page"]


class OverlappingPages(Fault):
    """A further page begins with the last entries of the page before it."""

    alone = True
    possible = ("entries",)
    kind: Literal["overlapping_pages"]
    entries: Annotated[int, between(1, 1000)] = 1


class LoopingCursor(Fault):
    """next_cursor leads to the same page again."""

    alone = True
    possible = ("entries",)
    kind: Literal["looping_cursor"]


class LateEntries(Fault):
    """After the last page of a listing was served, further entries appear in its last day."""

    possible = ("entries",)
    kind: Literal["late_entries"]
    entries: Annotated[int, between(1, 1000)] = 1
    appear_after_s: Annotated[float, between(0, 31_536_000)] = 0.0


class ChangedEntry(Fault):
    """After a page was served, one of its entries is another; totals follow."""

    possible = ("entries",)
    kind: Literal["changed_entry"]
    what: Literal["amount", "account"] = "amount"


class WrongTotals(Fault):
    """Totals that are off by one: an entry, or the smallest unit of the first currency."""

    possible = ("totals",)
    kind: Literal["wrong_totals"]
    what: Literal["count", "sum"] = "sum"


class LostAnswer(Fault):
    """What was sent takes effect, but the connection is closed instead of an answer."""

    possible = ("acknowledge", "push")
    kind: Literal["lost_answer"]


AnyFault = Annotated[
    Throttled
    | ServerError
    | Slow
    | Dropped
    | Truncated
    | Down
    | ExpiredToken
    | DuplicatePage
    | OverlappingPages
    | LoopingCursor
    | LateEntries
    | ChangedEntry
    | WrongTotals
    | LostAnswer,
    Field(discriminator="kind"),
]
_KINDS: Final[tuple[type[Fault], ...]] = get_args(get_args(AnyFault)[0])
KINDS: Final[dict[str, type[Fault]]] = {
    get_args(one.model_fields["kind"].annotation)[0]: one for one in _KINDS
}
"""The kinds by name."""

_ADAPTER: Final[TypeAdapter[AnyFault]] = TypeAdapter(AnyFault)
_WRITTEN: Final = re.compile(r"(?P<kind>[a-z_]+)(:(?P<settings>.*))?")


def make_fault(data: object, where: str) -> AnyFault:
    """A fault from a mapping with its `kind`.

    Raises:
        UsageError: the sentence begins with `where`.
    """
    if not isinstance(data, dict) or data.get("kind") not in KINDS:
        raise UsageError(f"{where}: kind must be one of {', '.join(KINDS)}")
    try:
        fault = _ADAPTER.validate_python(data)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error).removeprefix(data['kind'] + '.')}") from None
    if unfit := [route for route in fault.operations if route not in fault.possible]:
        allowed = ", ".join(fault.possible)
        raise UsageError(
            f"{where}: operations holds {unfit[0]}, where {fault.kind} cannot strike: allowed are {allowed}"
        )
    return fault


def make_faults(data: object, where: str) -> list[AnyFault]:
    """Faults from a list, as it stands in a YAML file.

    Raises:
        UsageError: naming the fault by its position from 1.
    """
    if not isinstance(data, list):
        raise UsageError(f"{where}: faults must be a list, such as - {{kind: throttled, count: 1}}")
    return [make_fault(one, f"{where}: fault {number}") for number, one in enumerate(data, start=1)]


def written_faults(texts: Sequence[str]) -> list[AnyFault]:
    """Faults from the command line: `throttled:probability=0.1,operations=entries+totals`.

    Raises:
        UsageError: quoting the text.
    """
    found: list[AnyFault] = []
    for text in texts:
        where = f"--fault {text}"
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise UsageError(f"{where}: write it as KIND or KIND:key=value,key=value")
        data: dict[str, object] = {"kind": match["kind"]}
        for setting in (match["settings"] or "").split(","):
            key, equals, value = setting.partition("=")
            if setting and not equals:
                raise UsageError(f"{where}: {setting} is not key=value")
            if setting:
                data[key] = int(value) if value.isascii() and value.isdigit() else value
        if isinstance(data.get("operations"), str):
            data["operations"] = str(data["operations"]).split("+")
        found.append(make_fault(data, where))
    return found


def dumped(fault: AnyFault) -> dict[str, object]:
    """A fault as a mapping that `make_fault` takes."""
    data: dict[str, object] = _ADAPTER.dump_python(fault, mode="json")
    return data
