"""Who is let in: bearer tokens, and tokens for client credentials (RFC 6749, 6750).

Belongs here: reading Authorization, what refusals look like, the token endpoint.
Does not: which tokens there are (`tokens.py`).
"""

import base64
import binascii
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

from backfill_pipeline.scb_simulator.contract import Token
from backfill_pipeline.scb_simulator.web.calls import (
    Call,
    Guard,
    Operation,
    ProblemError,
    Reply,
    json_bytes,
    model_reply,
)

_REALM: Final = 'realm="scb-simulator"'


def admit(call: Call, guard: Guard) -> None:
    """Lets a request pass.

    Raises:
        ProblemError: it has no token, or one that opens nothing here.
    """
    tokens = call.bank.tokens
    if guard == "none":
        return
    if guard == "admin" and not tokens.admin_is_open:
        raise ProblemError(
            403, "admin_closed", "the admin API is closed: the simulator was started without an admin token"
        )
    token = bearer(call)
    if token is None:
        challenge = f"Bearer {_REALM}"
        raise ProblemError(
            401, "no_token", "send Authorization: Bearer and a token", {"WWW-Authenticate": challenge}
        )
    if not (tokens.opens_admin(token) if guard == "admin" else tokens.opens_api(token)):
        raise invalid_token()


def invalid_token() -> ProblemError:
    """The refusal of a token that is wrong or has ended."""
    challenge = f'Bearer {_REALM}, error="invalid_token"'
    detail = "this token opens nothing here, or has ended: get another one"
    return ProblemError(401, "invalid_token", detail, {"WWW-Authenticate": challenge})


def bearer(call: Call) -> str | None:
    """The bearer token of a request, if it has one."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def issue_token(call: Call) -> Reply:
    """A token for client credentials, in the Authorization header (Basic) or in the body."""
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return _oauth_error(400, "invalid_request", "the body must be application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(call.body.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return _oauth_error(400, "invalid_request", "the body cannot be read")
    form = dict(pairs)
    if len(form) != len(pairs):
        return _oauth_error(400, "invalid_request", "a parameter is given twice")
    client = _client(call, form)
    if client is None:
        return _oauth_error(401, "invalid_client", "send the client's id and secret, in one way")
    if form.get("grant_type") != "client_credentials":
        return _oauth_error(400, "unsupported_grant_type", "grant_type must be client_credentials")
    token = call.bank.tokens.issue(*client)
    if token is None:
        return _oauth_error(401, "invalid_client", "there is no such client")
    lifetime_s = int(call.bank.tokens.lifetime_s)
    return model_reply(Token(access_token=token, token_type="Bearer", expires_in=lifetime_s))  # noqa: S106 - "Bearer" is a kind of token, not one


def _client(call: Call, form: dict[str, str]) -> tuple[str, str] | None:
    """Id and secret, or None unless they are given in exactly one way."""
    scheme, _, value = call.headers.get("authorization", "").partition(" ")
    in_body = form.get("client_id"), form.get("client_secret")
    if scheme.lower() == "basic" and in_body[1] is None:
        try:
            user, colon, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return None
        return (unquote_plus(user), unquote_plus(secret)) if colon else None
    if scheme or in_body[0] is None or in_body[1] is None:
        return None
    return in_body[0], in_body[1]


def _oauth_error(status: int, error: str, description: str) -> Reply:
    headers = {"WWW-Authenticate": f"Basic {_REALM}"} if status == 401 else {}
    body = {"error": error, "error_description": description}
    return Reply(json_bytes(body), status, headers=headers)


OPERATIONS: Final = (
    Operation(
        "token",
        "POST",
        "/oauth/token",
        "Get a token for client credentials (RFC 6749, 4.4); it ends after expires_in seconds",
        issue_token,
        {200: Token, 400: None, 401: None},
        guard="none",
    ),
)
