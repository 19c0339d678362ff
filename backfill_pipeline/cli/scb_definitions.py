"""Ready source definitions for a simulated bank: `backfill scb-simulator --definitions DIR`.

Belongs here: writing one file per ledger, with its accounts, as a person would write them.
Does not: serving the bank (`scb_simulator.py` beside it).

A file that is there already may have been edited: of such a file only the address is brought up to date, which is
another one at each start unless a port is given.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from backfill_pipeline.errors import UsageError
from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.calendar import utc_text
from backfill_pipeline.scb_simulator.ledger import BankLedger, amount_text
from backfill_pipeline.scb_simulator.server import Simulator
from backfill_pipeline.scb_simulator.tokens import CLIENT_ID, CLIENT_SECRET, TOKEN, Credentials

ADDRESS: Final = "SCB_URL"
"""The environment variable that stands for another address of the bank."""

_ADDRESSES: Final = re.compile(
    r"^( *(?:base_url: \$\{SCB_URL:-|token_url: ))http://[^/}\s]+(.*)$", re.MULTILINE
)


def write_definitions(folder: Path, simulator: Simulator) -> list[Path]:
    """Writes a definition and its accounts for each ledger of a bank that serves; returns the definitions.

    Args:
        folder: where to; made when it is not there.
        simulator: whose address and credentials they name.

    Raises:
        UsageError: a file cannot be written, or one of that name is something else.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, ledger in _named(simulator.bank.books):
            accounts, path = folder / f"{name}_accounts.csv", folder / f"{name}.yaml"
            if not accounts.exists():
                accounts.write_text(_accounts(ledger), encoding="utf-8")
            if path.exists():
                text = _moved(path, ledger.id, simulator.base_url)
            else:
                text = _definition(name, ledger, accounts.name, simulator)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(
            f"no definitions can be written to {folder} ({reason}): name another folder with --definitions"
        ) from None
    return written


def _named(books: Mapping[str, Book]) -> Iterator[tuple[str, BankLedger]]:
    """Ledgers by ids of sources, made of their own: SCB-01 becomes scb_01."""
    taken: set[str] = set()
    for ledger_id, book in books.items():
        name = re.sub(r"[^a-z0-9]+", "_", ledger_id.lower()).strip("_")
        name = name if re.match(r"[a-z]", name) else f"scb_{name}"
        while name in taken:
            name += "_"
        taken.add(name)
        yield name, book.ledger


def _moved(path: Path, ledger_id: str, base_url: str) -> str:
    """A definition that was written before, with the address of now."""
    text = path.read_text(encoding="utf-8")
    if f"bank_id: {ledger_id}\n" not in text:
        raise UsageError(
            f"{path} is there already and about something else than ledger {ledger_id}: name another folder with"
            " --definitions"
        )
    return _ADDRESSES.sub(rf"\g<1>{base_url}\g<2>", text)


def _accounts(ledger: BankLedger) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "currency", "side", "opening"])
    for one in ledger.accounts:
        writer.writerow([one.id, one.currency, one.normal_side, amount_text(one.opening_minor, one.currency)])
    return out.getvalue()


def _definition(name: str, ledger: BankLedger, accounts: str, simulator: Simulator) -> str:
    opened = utc_text(ledger.start_s - 1)
    return f"""\
# Ledger {ledger.id} of a simulated bank, as backfill scb-simulator --definitions wrote it.
id: {name}
type: scb
scb:
  base_url: ${{{ADDRESS}:-{simulator.base_url}}}
  bank_id: {ledger.id}
  auth: {_auth(simulator.base_url, simulator.credentials)}
  timezone: {ledger.options.timezone}
  start: {ledger.first_day}
{_nightly(ledger)}
fields:
  ledger_id: {{constant: {ledger.id}}}
  debit_account_id: debit_account
  credit_account_id: credit_account
  amount: amount
  currency_code: currency
  transaction_type: type
  reference_id: reference
  timestamp_utc: {{column: booked_at}}
metadata: [narrative, metadata.channel, metadata.batch]

accounts:
  file: {accounts}
  fields: {{id: id, currency_code: currency, normal_side: side, opening_balance: opening}}
  opening: {{ledger_id: {ledger.id}, as_of: {opened}}}
"""


def _auth(base_url: str, credentials: Credentials) -> str:
    if credentials.token is not None:
        return f"{{kind: bearer, token_env: {TOKEN}}}"
    return (
        f"{{kind: oauth2, token_url: {base_url}/oauth/token, client_id_env: {CLIENT_ID},"
        f" client_secret_env: {CLIENT_SECRET}}}"
    )


def _nightly(ledger: BankLedger) -> str:
    """No night of a bank whose days are all over brings anything."""
    over = datetime.fromtimestamp(ledger.end_s, UTC) < datetime.now(UTC) - timedelta(days=1)
    if over:
        return "  nightly: {enabled: false}        # its days are all over\n"
    return "  nightly: {cron: 0 3 * * *}\n"
