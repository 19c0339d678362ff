"""Who is at the keyboard: the name that decisions are recorded under.

Belongs here: finding that name.
Does not: checking who it is. A name is as good as who may set it; the audit log also keeps who the database saw.
"""

from __future__ import annotations

import getpass
import os
import socket

from backfill_pipeline.errors import UsageError

ACTOR_VARIABLE = "BACKFILL_ACTOR"


def person(given: str | None = None) -> str:
    """Who does this: as given, else as BACKFILL_ACTOR says, else the user of the operating system and its host.

    Raises:
        UsageError: a blank name was given, as by a variable that is not set: nobody else is recorded for it; or one
            that cannot be recorded.
    """
    if given is not None and not given.strip():
        raise UsageError("--by is blank: write who does this, or leave it out")
    if named := recordable(given or os.environ.get(ACTOR_VARIABLE, "")).strip():
        return named
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user without a name, as in some containers
        return f"unknown@{socket.gethostname()}"


def recordable(text: str) -> str:
    """The text, which the audit log is to keep.

    Raises:
        UsageError: it came as bytes that are no UTF-8.
    """
    if any("\ud800" <= one <= "\udfff" for one in text):
        raise UsageError(f"{text!a} is not written in UTF-8: a terminal of another encoding sent it")
    return text
