"""What people write into the Launchpad, and how it says no.

Belongs here: the base of all run configuration.
Does not: any of its keys (`config.py`, `operations/`).
"""

from __future__ import annotations

import dagster as dg
from pydantic import ValidationError


class LaunchpadConfig(dg.Config):
    """Typed configuration of a run. A value that cannot be meant fails the run with a sentence for each, before
    anything is done.

    Dagster itself checks names and types, before it launches; what pydantic checks (ranges, and what must hold between
    keys) it would show as a traceback.
    """

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            said = "; ".join(
                f"{'.'.join(map(str, one['loc']))} is {one['input']} in the run's config: {one['msg']}"
                if one["loc"]
                else f"in the run's config, {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors(include_url=False)
            )
            raise dg.Failure(description=said, allow_retries=False) from None
