"""Who may ask: credentials from the environment, and tokens that end.

Belongs here: reading and making credentials, issuing and checking tokens.
Does not: the HTTP side of it (`web/guard.py`).

Without any credentials in the environment the simulator makes its own and writes them to a file that only its owner can
read: they appear neither on a command line nor in what the command prints.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backfill_pipeline.errors import SettingsError, UsageError
from backfill_pipeline.scb_simulator.store import Store

TOKEN: Final = "SCB_SIMULATOR_TOKEN"  # noqa: S105 - the name of a variable
CLIENT_ID: Final = "SCB_SIMULATOR_CLIENT_ID"
CLIENT_SECRET: Final = "SCB_SIMULATOR_CLIENT_SECRET"  # noqa: S105 - the name of a variable
ADMIN_TOKEN: Final = "SCB_SIMULATOR_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
VARIABLES: Final = (TOKEN, CLIENT_ID, CLIENT_SECRET, ADMIN_TOKEN)

_SECRET_LENGTH: Final = (8, 512)
_LINE: Final = re.compile(r"export ([A-Z_]+)=([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What opens the API; what is None opens nothing. Never shown, not even by repr."""

    token: str | None = field(default=None, repr=False)
    client_id: str | None = field(default=None, repr=False)
    client_secret: str | None = field(default=None, repr=False)
    admin_token: str | None = field(default=None, repr=False)

    @classmethod
    def random(cls) -> "Credentials":
        """One of each, as nobody can guess them."""
        return cls(*(secrets.token_urlsafe(32) for _ in VARIABLES))


def from_environment(environment: Mapping[str, str]) -> Credentials | None:
    """The credentials of the environment, or None where it has none at all.

    Raises:
        SettingsError: one cannot be used; values are never quoted.
    """
    found = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if not found:
        return None
    low, high = _SECRET_LENGTH
    for name, value in found.items():
        if not (value.isascii() and value.isprintable() and " " not in value and low <= len(value) <= high):
            raise SettingsError(
                f"The environment variable {name} must be {low} to {high} printable ASCII characters without spaces."
            )
    if (CLIENT_ID in found) != (CLIENT_SECRET in found):
        missing = CLIENT_SECRET if CLIENT_ID in found else CLIENT_ID
        raise SettingsError(f"The environment variable {missing} is needed with its other half.")
    if TOKEN not in found and CLIENT_ID not in found:
        raise SettingsError(
            f"The environment variable {ADMIN_TOKEN} is set alone: set {TOKEN} too, or {CLIENT_ID} and {CLIENT_SECRET}."
        )
    if ADMIN_TOKEN in found and found[ADMIN_TOKEN] == found.get(TOKEN):
        raise SettingsError(f"The environment variable {ADMIN_TOKEN} must differ from {TOKEN}.")
    return Credentials(*(found.get(name) for name in VARIABLES))


def made_up(file: Path) -> Credentials:
    """Credentials of a simulator that was given none: those in the file, or new ones that are written there.

    Args:
        file: for a shell to source; mode 0600.

    Raises:
        UsageError: the file cannot be written, or holds something else.
    """
    try:
        if file.exists():
            return _read(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        made = Credentials.random()
        values = (made.token, made.client_id, made.client_secret, made.admin_token)
        text = "".join(f"export {name}={value}\n" for name, value in zip(VARIABLES, values, strict=True))
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(text)
    except OSError as error:
        raise UsageError(
            f"{file} cannot be used for credentials ({error.strerror}): set {TOKEN} and {ADMIN_TOKEN} instead"
        ) from error
    return made


def _read(file: Path) -> Credentials:
    found = dict(_LINE.findall(file.read_text(encoding="utf-8", errors="replace")))
    if set(found) != set(VARIABLES):
        raise UsageError(
            f"{file} does not hold the credentials that this simulator made: delete it for new ones"
        )
    return Credentials(*(found[name] for name in VARIABLES))


class Tokens:
    """Tokens that were issued for client credentials, kept by their hashes."""

    def __init__(
        self,
        store: Store,
        credentials: Credentials,
        lifetime_s: float,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.lifetime_s = lifetime_s
        self._store = store
        self._credentials = credentials
        self._now_s = now_s

    def issue(self, client_id: str, client_secret: str) -> str | None:
        """A new token, or None when this is not the client."""
        own = self._credentials
        # Both are compared, whatever the first says: how long it takes tells nothing.
        known = _same(client_id, own.client_id) & _same(client_secret, own.client_secret)
        if not known:
            return None
        token = secrets.token_urlsafe(32)
        with self._store.write() as connection:
            connection.execute("DELETE FROM tokens WHERE expires_s < ?", (self._now_s() - 86_400,))
            connection.execute(
                "INSERT INTO tokens VALUES (?, ?)", (_hash(token), self._now_s() + self.lifetime_s)
            )
        return token

    def opens_api(self, token: str) -> bool:
        """Whether a token is the API's own, or was issued and has not ended."""
        if _same(token, self._credentials.token):
            return True
        with self._store.read() as connection:
            row: tuple[float] | None = connection.execute(
                "SELECT expires_s FROM tokens WHERE sha256 = ?", (_hash(token),)
            ).fetchone()
        return row is not None and self._now_s() < row[0]

    @property
    def admin_is_open(self) -> bool:
        """Whether there is an admin token at all."""
        return self._credentials.admin_token is not None

    def opens_admin(self, token: str) -> bool:
        """Whether this is the admin's token."""
        return _same(token, self._credentials.admin_token)

    def end(self, token: str) -> None:
        """An issued token is void from now on."""
        with self._store.write() as connection:
            connection.execute("UPDATE tokens SET expires_s = 0 WHERE sha256 = ?", (_hash(token),))


def _same(given: str, own: str | None) -> bool:
    return own is not None and hmac.compare_digest(given.encode(), own.encode())


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
