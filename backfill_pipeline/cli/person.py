"""Who is at the keyboard: the name that decisions are recorded under.

Belongs here: finding that name.
Does not: checking it. A name is as good as who may set it; the audit log also keeps who the database saw.
"""

from __future__ import annotations

import getpass
import os
import socket

ACTOR_VARIABLE = "BACKFILL_ACTOR"


def person(given: str | None = None) -> str:
    """Who does this: as given, else as BACKFILL_ACTOR says, else the user of the operating system and its host."""
    if named := (given or os.environ.get(ACTOR_VARIABLE, "")).strip():
        return named
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user without a name, as in some containers
        return f"unknown@{socket.gethostname()}"
