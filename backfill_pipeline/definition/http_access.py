"""How any HTTP server is asked: where it is, as whom, with which headers, and how patiently.

Belongs here: the keys that everything has in common that is asked over HTTP.
Does not: what is asked for (`api.py`, `scb.py`), kinds of credentials (`api_auth.py`), asking (`sources/http/`).
"""

import re
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from backfill_pipeline.definition.api_auth import (
    Auth,
    ClientCredentialsAuth,
    HttpUrl,
    check_encrypted,
    looks_secret,
)
from backfill_pipeline.definition.base import Model, Name, between, problem

_OWN_HEADERS: Final = frozenset(
    ("accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding", "te")
)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _fixed_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if looks_secret(name):
            remedy = f"auth: {{kind: api_key, header: {name}, value_env: MY_VARIABLE}}"
            if name.lower() == "authorization":
                remedy = "auth: {kind: bearer, token_env: MY_VARIABLE}, or kind: basic"
            raise problem(
                "looks like a secret, and none may stand in a file: put it into an environment variable and write"
                f" {remedy}",
                name,
            )
        if not _HEADER_NAME.fullmatch(name):
            raise problem("is no name of a header", name)
        if name.lower() in _OWN_HEADERS:
            raise problem("is set by the product itself: remove it", name)
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise problem("must be printable ASCII without spaces around it", name, value)
    return headers


class HttpAccess(Model):
    """Base of every section that is asked over HTTP."""

    base_url: HttpUrl
    headers: Annotated[dict[Name, str], AfterValidator(_fixed_headers)] = Field(default_factory=dict)
    auth: Auth | None = None
    allow_http: bool = False
    ca_file: Path | None = None
    requests_per_second: Annotated[float, between(0.001, 1000)] | None = None
    connect_timeout_s: Annotated[float, between(0.1, 300)] = 10
    read_timeout_s: Annotated[float, between(0.1, 3600)] = 60
    answer_timeout_s: Annotated[float, between(0.1, 86_400)] = 300
    max_attempts: Annotated[int, between(1, 20)] = 5
    backoff_s: Annotated[float, between(0, 60)] = 1
    retry_after_max_s: Annotated[float, between(0, 3600)] = 120
    max_page_bytes: Annotated[int, between(1024, 268_435_456)] = 16_777_216

    @model_validator(mode="after")
    def _nothing_in_the_open(self) -> Self:
        if self.auth is not None:
            check_encrypted("base_url", self.base_url, allow_http=self.allow_http)
            if isinstance(self.auth, ClientCredentialsAuth):
                check_encrypted("auth.token_url", self.auth.token_url, allow_http=self.allow_http)
        return self

    def access(self) -> dict[str, object]:
        """These keys and their values, for another section that is asked in the same way."""
        return {name: getattr(self, name) for name in HttpAccess.model_fields}
