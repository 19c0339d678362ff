"""Who asks an API: credentials, of which a definition holds nothing but the names of environment variables.

Belongs here: the kinds of credentials, what looks like a secret, and addresses that must not hold one.
Does not: reading the variables or sending anything (`sources/http/credentials.py`).
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Tag, model_validator

from backfill_pipeline.definition.base import Model, Name, problem

_SECRET: Final = re.compile(
    r"^(proxy-)?authorization$|^(set-)?cookie$|^(token|signature|sig|passwd|pwd|apikey)$"
    r"|(^|[-_])(api[-_]?key|access[-_]?key|secret|password|subscription[-_]key)$"
    r"|(access|auth|csrf|session|id|refresh|bearer|api)[-_]?token$|client[-_]?secret",
    re.IGNORECASE,
)


def looks_secret(name: str) -> bool:
    """Whether a header or a parameter of this name usually holds a secret."""
    return _SECRET.search(name) is not None


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise problem(
            "is no address, such as https://api.example.org/v1", value=_without_user(text)
        ) from None
    if parts.username is not None or parts.password is not None:
        raise problem(
            "holds a user or a password, which must not stand in an address: remove them, and use"
            " auth: {kind: basic, user_env: …, password_env: …}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise problem("must begin with https:// or http:// and name a host", value=text)
    if re.search(r"[\s\\]", text) or not text.isprintable():
        raise problem("must not hold spaces or backslashes", value=text)
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        raise problem("must end with its path: parameters go under params")
    return text


def _without_user(text: str) -> str:
    return re.sub(r"//[^/]*@", "//…@", text)


HttpUrl = Annotated[str, AfterValidator(_http_url)]


def check_encrypted(key: str, url: str, *, allow_http: bool) -> None:
    """Raises a problem where credentials would travel in the open."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname or ""):
        raise problem(
            "would send credentials unencrypted: use https, or set allow_http: true when the way there is safe",
            key,
            url,
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        # The value is not shown: who puts the secret itself here must not find it in a log.
        raise problem(
            "must be the name of an environment variable, such as BANK_TOKEN, not the secret itself"
        )
    return name


Variable = Annotated[str, AfterValidator(_variable)]
"""The name of the environment variable that holds a secret."""


def tag_of(value: object) -> str:
    """The tag of the model that a mapping with a `kind` is for."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return f"<{kind}>"


def kinds(*allowed: str) -> Callable[[object], object]:
    """Makes sure that a mapping says of which kind it is."""

    def known_kind(value: object) -> object:
        if isinstance(value, dict):
            if "kind" not in value:
                raise problem(f"is missing: allowed are {', '.join(allowed)}", "kind")
            if value["kind"] not in allowed:
                raise problem(
                    f"is no kind that there is: allowed are {', '.join(allowed)}", "kind", str(value["kind"])
                )
        elif not isinstance(value, Model):
            raise problem(f"must be a mapping with kind: {' or '.join(allowed)}")
        return value

    return known_kind


class BearerAuth(Model):
    """`Authorization: Bearer <token>`."""

    kind: Literal["bearer"]
    token_env: Variable


class ApiKeyAuth(Model):
    """A secret in a header or in a parameter of the address."""

    kind: Literal["api_key"]
    value_env: Variable
    header: Name | None = None
    param: Name | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.header is None) == (self.param is None):
            raise problem("needs either header or param: where the key goes")
        if self.header is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", self.header):
            raise problem("is no name of a header", "header", self.header)
        return self


class BasicAuth(Model):
    """User and password, as in RFC 7617."""

    kind: Literal["basic"]
    user_env: Variable
    password_env: Variable


class ClientCredentialsAuth(Model):
    """OAuth 2 client credentials: a token is fetched, used until shortly before it ends, and fetched anew."""

    kind: Literal["oauth2"]
    token_url: HttpUrl
    client_id_env: Variable
    client_secret_env: Variable
    scope: str | None = None
    audience: str | None = None
    client_in: Literal["header", "body"] = "header"


Auth = Annotated[
    Annotated[BearerAuth, Tag("<bearer>")]
    | Annotated[ApiKeyAuth, Tag("<api_key>")]
    | Annotated[BasicAuth, Tag("<basic>")]
    | Annotated[ClientCredentialsAuth, Tag("<oauth2>")],
    Discriminator(tag_of),
    BeforeValidator(kinds("bearer", "api_key", "basic", "oauth2")),
]
AnyAuth = BearerAuth | ApiKeyAuth | BasicAuth | ClientCredentialsAuth
