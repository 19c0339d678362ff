"""Findings: what a check says, and checks that cannot take others down with them.

Belongs here: the outcomes, and turning whatever a check meets into a finding.
Does not: the checks.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from backfill_pipeline.errors import BackfillError
from backfill_pipeline.wording import printable

_SENTENCE_LENGTH_MAX: Final = 600
_URL_PASSWORD: Final = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/]*@", re.IGNORECASE)
_HIDDEN: Final = "***"
# A shorter secret would blank out ordinary words.
_SECRET_LENGTH_MIN: Final = 4


class Outcome(StrEnum):
    """How a check ended. `not looked` says that it could not, or had nothing to look at, and why."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_LOOKED = "not looked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says.

    Attributes:
        name: of the check.
        sentence: one, for the operator.
        remedy: a command that can be pasted into a shell; None where there is nothing to do.
    """

    name: str
    outcome: Outcome
    sentence: str
    remedy: str | None = None


Look = Callable[[], Finding]


def ok(name: str, sentence: str) -> Finding:
    """All is well."""
    return Finding(name, Outcome.OK, sentence)


def warning(name: str, sentence: str, remedy: str) -> Finding:
    """Work goes on, and somebody should look at it."""
    return Finding(name, Outcome.WARNING, sentence, remedy)


def problem(name: str, sentence: str, remedy: str) -> Finding:
    """Work cannot go on, or what it promises does not hold."""
    return Finding(name, Outcome.PROBLEM, sentence, remedy)


def not_looked(name: str, why: str, remedy: str | None = None) -> Finding:
    """Nothing is known."""
    return Finding(name, Outcome.NOT_LOOKED, why, remedy)


def looked(name: str, look: Look, remedy: str = "backfill doctor") -> Finding:
    """The finding of a check, whatever happens to it.

    Args:
        name: of the check.
        look: makes the finding.
        remedy: for the case that the check fails itself.
    """
    try:
        return look()
    except BackfillError as error:
        return problem(name, str(error), remedy)
    except Exception as error:  # the doctor works where nothing works: no check may take the others with it
        text = " ".join(str(error).split()) or "no reason given"
        return problem(name, f"this could not be looked at ({type(error).__name__}: {text})", remedy)


def looked_in_time(
    checks: Sequence[tuple[str, Look]],
    timeout_s: float,
    remedy: str,
    *,
    late: str,
    afterwards: Callable[[], None] = lambda: None,
) -> list[Finding]:
    """The findings of checks that may hang, one after the other, for so long in all.

    A check that does not return is left alone: its thread ends with the process.

    Args:
        checks: names and looks, in order.
        timeout_s: for all of them together.
        remedy: what to do where one is late or fails.
        late: completes "no answer within N s: …".
        afterwards: cleans up after them.

    Returns:
        a finding for each: the one that is late is a problem, those after it were not looked at.
    """
    done: list[Finding] = []

    def work() -> None:
        for name, look in checks:
            done.append(looked(name, look, remedy))
        afterwards()

    thread = threading.Thread(target=work, name="doctor", daemon=True)
    thread.start()
    thread.join(timeout_s)
    found = list(done)
    missing = [name for name, _ in checks[len(found) :]]
    if missing:
        found.append(problem(missing[0], f"no answer within {timeout_s:g} s: {late}", remedy))
    found += [not_looked(name, f'the check "{missing[0]}" did not end') for name in missing[1:]]
    return found


def harmless(finding: Finding, secrets: Collection[str]) -> Finding:
    """The finding as it can be shown to anybody: no secret, nothing that moves a terminal's cursor."""
    return replace(
        finding,
        sentence=printable(_hidden(" ".join(finding.sentence.split()), secrets), _SENTENCE_LENGTH_MAX),
        remedy=None if finding.remedy is None else printable(_hidden(finding.remedy, secrets)),
    )


def _hidden(text: str, secrets: Collection[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SECRET_LENGTH_MIN:
            text = text.replace(secret, _HIDDEN)
    return _URL_PASSWORD.sub(rf"\g<before>{_HIDDEN}@", text)
