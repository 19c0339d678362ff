"""The ledger of a Sovereign Central Bank as a source: the section `scb` of a definition.

Belongs here: where the bank is, which days it is asked for, when, and how patiently; and how a day is asked for.
Does not: credentials (`api_auth.py`), a day as a source (`scb_days.py`), talking to the bank (`dual_ledger/`).
"""

import re
from datetime import date, timedelta
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, model_validator

from backfill_pipeline.definition.api import ApiSource, Cursors, Windows, day_text
from backfill_pipeline.definition.api_auth import Auth
from backfill_pipeline.definition.base import Model, Name, ZoneName, between, problem
from backfill_pipeline.definition.cron import CronText
from backfill_pipeline.definition.http_access import HttpAccess

CONTROL_COLUMNS: Final = ("reference", "booked_at", "debit_account", "credit_account", "amount", "currency")
"""What control totals are made of. They are read of every entry, whatever the mapping makes of them."""

_OUR_ORIGINS: Final = ("LOCAL", "OPENING")
_BANK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class NightlySync(Model):
    """When a bank's days are fetched without anybody asking for it."""

    enabled: bool = True
    cron: CronText = "0 3 * * *"
    timezone: ZoneName | None = None
    lookback_days: Annotated[int, between(0, 366)] = 3


class ScbSection(HttpAccess):
    """A Sovereign Central Bank that keeps one of our ledgers as well."""

    bank_id: str
    ledger: Name | None = None
    auth: Auth
    timezone: ZoneName
    start: Annotated[date, BeforeValidator(day_text)]
    nightly: NightlySync = NightlySync()
    send_entries: bool = True
    digest: bool = True
    fetch_workers: Annotated[int, between(1, 16)] = 4
    page_size: Annotated[int, between(1, 1_000_000)] = 1000
    batch_size: Annotated[int, between(1, 10_000)] = 1000
    send_attempts: Annotated[int, between(1, 1000)] = 10

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not _BANK_ID.fullmatch(self.bank_id) or self.bank_id in _OUR_ORIGINS:
            raise problem(
                "must be 1 to 63 letters, digits, dots, dashes or underscores, beginning with a letter or digit, and"
                f" neither {' nor '.join(_OUR_ORIGINS)}, which name entries of our own",
                "bank_id",
                self.bank_id,
            )
        if re.search(r"[\s\\/?#%]", self.bank_ledger):
            raise problem("must not hold spaces, slashes, or ? # %", "ledger", self.bank_ledger)
        return self

    @property
    def bank_ledger(self) -> str:
        """What the bank calls the ledger; its own id where nothing else is said."""
        return self.ledger or self.bank_id

    @property
    def address(self) -> str:
        """Where the bank's ledger is."""
        return f"{self.base_url.rstrip('/')}/ledgers/{self.bank_ledger}"

    def entries_api(self, first: date, last: date) -> ApiSource:
        """How the entries of days are asked for.

        Args:
            first: in the bank's time zone.
            last: the last day, itself included.
        """
        return self._api(
            f"ledgers/{self.bank_ledger}/entries",
            records="entries",
            pagination=Cursors(kind="cursor", next="next_cursor", size_param="limit", size=self.page_size),
            windows=Windows(
                start=first,
                end=last + timedelta(days=1),
                days=(last - first).days + 1,
                format="iso8601",
                timezone=self.timezone,
            ),
            key="reference",
        )

    def listing_api(self, what: str, records: str) -> ApiSource:
        """How another list of the ledger is asked for, such as `received` or `acknowledgements`."""
        return self._api(
            f"ledgers/{self.bank_ledger}/{what}",
            records=records,
            pagination=Cursors(kind="cursor", next="next_cursor", size_param="limit", size=self.page_size),
            key="reference",
        )

    def _api(self, path: str, **how: object) -> ApiSource:
        values = {**self.access(), "path": path, **how}
        return ApiSource.model_validate(values).written_under("scb")
