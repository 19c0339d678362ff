"""Credentials: what goes with a request so that an API answers it.

Belongs here: reading secrets from the environment, putting them where they belong, tokens and their end, and hiding
secrets in texts.
Does not: sending (`transport.py`), what a definition may say (`definition/api_auth.py`).
"""

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import quote, quote_plus

from backfill_pipeline.definition.api_auth import (
    AnyAuth,
    ApiKeyAuth,
    BasicAuth,
    BearerAuth,
    ClientCredentialsAuth,
)
from backfill_pipeline.errors import SettingsError

TOKEN_LEEWAY_S: Final = 30.0
"""A token is not used in the last seconds of its life: it must not end on its way."""

_HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True)
class Proof:
    """What is added to one request."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class Credentials(Protocol):
    """Whoever can prove who asks. Safe for several threads."""

    def proof(self) -> Proof:
        """What to add to the next request."""
        ...

    def renew(self, refused: Proof) -> bool:
        """Whether there is another proof now than the one that was refused."""
        ...

    def secrets(self) -> list[str]:
        """Texts that must not be shown, in every form in which they are sent."""
        ...

    def variables(self) -> tuple[str, ...]:
        """The environment variables that they are made of, for messages."""
        ...


FetchToken = Callable[[ClientCredentialsAuth, Mapping[str, str], Mapping[str, str]], Mapping[str, object]]
"""Sends a form with headers to the token endpoint; gives its answer."""


def credentials_of(auth: AnyAuth | None, fetch_token: FetchToken) -> Credentials:
    """The credentials that a definition names.

    Raises:
        SettingsError: an environment variable is missing or cannot be sent.
    """
    match auth:
        case None:
            return _Fixed(Proof(), (), ())
        case BearerAuth():
            token = _secret(auth.token_env, "auth.token_env")
            return _Fixed(Proof({"Authorization": f"Bearer {token}"}), (token,), (auth.token_env,))
        case ApiKeyAuth():
            key = _secret(auth.value_env, "auth.value_env")
            proof = (
                Proof({auth.header: key})
                if auth.header is not None
                else Proof(params=((auth.param or "", key),))
            )
            return _Fixed(proof, (key,), (auth.value_env,))
        case BasicAuth():
            user = _secret(auth.user_env, "auth.user_env")
            password = _secret(auth.password_env, "auth.password_env")
            basic = _basic(user, password)
            return _Fixed(
                Proof({"Authorization": f"Basic {basic}"}),
                (password, basic),
                (auth.user_env, auth.password_env),
            )
        case ClientCredentialsAuth():
            return _Tokens(auth, fetch_token)


def check_variables(auth: AnyAuth | None) -> None:
    """Raises SettingsError as `credentials_of` does; nothing is asked."""

    def nobody(*_: object) -> Mapping[str, object]:
        raise AssertionError("unreachable: nothing is sent")

    credentials_of(auth, nobody)


def hide(text: str, secrets: Iterable[str]) -> str:
    """A text in which no secret can be read, however it was encoded for sending."""
    for secret in secrets:
        for form in {
            secret,
            quote(secret),
            quote(secret, safe=""),
            quote_plus(secret),
            json.dumps(secret)[1:-1],
        }:
            if form:
                text = text.replace(form, _HIDDEN)
    return text


class _Fixed:
    """Credentials that do not change."""

    def __init__(self, proof: Proof, secrets: tuple[str, ...], variables: tuple[str, ...]) -> None:
        self._proof = proof
        self._secrets = secrets
        self._variables = variables

    def proof(self) -> Proof:
        return self._proof

    def renew(self, refused: Proof) -> bool:
        return False

    def secrets(self) -> list[str]:
        return list(self._secrets)

    def variables(self) -> tuple[str, ...]:
        return self._variables


class _Tokens:
    """OAuth 2 client credentials. One token serves all threads."""

    def __init__(self, auth: ClientCredentialsAuth, fetch_token: FetchToken) -> None:
        self._auth = auth
        self._fetch = fetch_token
        self._id = _secret(auth.client_id_env, "auth.client_id_env")
        self._secret = _secret(auth.client_secret_env, "auth.client_secret_env")
        self._lock = threading.Lock()
        self._token: str | None = None
        self._used_until_s = float("-inf")
        self._seen: list[str] = []

    def proof(self) -> Proof:
        with self._lock:
            if self._token is None or time.monotonic() >= self._used_until_s:
                self._renew()
            return self._as_proof()

    def renew(self, refused: Proof) -> bool:
        with self._lock:
            if self._token is None or self._as_proof() == refused:  # else another thread was faster
                self._renew()
        return True

    def secrets(self) -> list[str]:
        return [self._secret, _basic(quote_plus(self._id), quote_plus(self._secret)), *self._seen]

    def variables(self) -> tuple[str, ...]:
        return (self._auth.client_id_env, self._auth.client_secret_env)

    def _as_proof(self) -> Proof:
        return Proof({"Authorization": f"Bearer {self._token}"})

    def _renew(self) -> None:
        form = {"grant_type": "client_credentials"}
        form |= {
            name: value
            for name, value in (("scope", self._auth.scope), ("audience", self._auth.audience))
            if value is not None
        }
        headers = {}
        if self._auth.client_in == "header":
            # RFC 6749, 2.3.1: both are form-encoded before they become user and password.
            headers["Authorization"] = f"Basic {_basic(quote_plus(self._id), quote_plus(self._secret))}"
        else:
            form |= {"client_id": self._id, "client_secret": self._secret}
        answer = self._fetch(self._auth, form, headers)
        token, lives_s = str(answer["access_token"]), answer["expires_in"]
        self._token = token
        self._seen = [*self._seen[-3:], token]
        self._used_until_s = float("inf")
        if isinstance(lives_s, float):
            self._used_until_s = time.monotonic() + max(lives_s - TOKEN_LEEWAY_S, lives_s / 2)


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _secret(name: str, key: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise SettingsError(
            f"{key} is {name}, but the environment variable {name} is not set: set it to the secret, for every"
            " process that reads this source."
        )
    if not value.isprintable() or value != value.strip() or not value.isascii():
        raise SettingsError(
            f"the environment variable {name} holds spaces around its value, a line break or characters beyond"
            " ASCII, which cannot be sent: set it to the secret alone."
        )
    return value
