"""Asking an API: requests with credentials, and what is said when it does not answer as it should.

Belongs here: credentials and their renewal, redirects, tokens, and the sentences for people.
Does not: retries and limits (`transport.py`), pages (`pages.py`).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Self, TypeVar

import httpx

from backfill_pipeline.definition.api import ApiSource
from backfill_pipeline.definition.api_auth import ClientCredentialsAuth
from backfill_pipeline.errors import BackfillError, SourceFileError, TransientSourceError
from backfill_pipeline.sources.http.addresses import followed, origin_of
from backfill_pipeline.sources.http.credentials import credentials_of, hide
from backfill_pipeline.sources.http.failures import AnswerError, BrokenAnswerError, RefusedError
from backfill_pipeline.sources.http.transport import Answer, Outgoing, Transport, excerpt

T = TypeVar("T")

_REDIRECTS_MAX: Final = 5
_TOKEN_BYTES_MAX: Final = 1 << 16
_JSON_TYPES: Final = frozenset(
    (
        "",
        "application/json",
        "application/json-lines",
        "application/jsonl",
        "application/jsonlines",
        "application/ndjson",
        "application/octet-stream",
        "application/x-jsonlines",
        "application/x-ndjson",
        "text/json",
        "text/plain",
    )
)
"""What an answer may say that it is; a page for logging in says text/html."""


_KEY: Final = re.compile(
    r"\bapi\.(auth|base_url|ca_file|headers|(?:connect|read)_timeout_s|max_page_bytes)\b"
)
"""Keys of the section `api` that other sections have too."""

_ELSEWHERE: Final = (
    (" and api.path", ""),
    ("api.params, api.headers and api.pagination", "api.headers"),
    (" (pagination.size)", " (page_size)"),
)
"""Keys that they do not have."""


class RequestRefusedError(SourceFileError):
    """The server does not take a request, and would not take it again.

    Attributes:
        status: the number of its answer.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class ApiClient:
    """Asks one API. Safe for several threads; close it, or use it in a `with`."""

    def __init__(self, api: ApiSource, *, beside: "ApiClient | None" = None) -> None:
        """
        Args:
            api: whom to ask, as who, and how patiently.
            beside: asks another address of the same server as the same user. Connections, tokens, the pace and the
                traffic of both are one, and both end when that one is closed.

        Raises:
            SettingsError: an environment variable for a secret is missing.
            SourceFileError: the address or the certificates cannot be used.
        """
        self._api = api
        self._origin = _address(api.address)
        if beside is None:
            self._credentials = credentials_of(api.auth, self._fetch_token)
            self._transport = Transport(api)
        else:
            assert origin_of(self._origin) == origin_of(beside._origin), "credentials go to one server"
            self._credentials, self._transport = beside._credentials, beside._transport

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        self._transport.close()

    @property
    def place(self) -> str:
        """The address that is asked, without parameters."""
        return self._api.address

    def traffic(self) -> dict[str, int]:
        """Requests so far, how many of them were retries, and bytes received."""
        return self._transport.traffic.counts()

    def link(self, text: str, seen_on: httpx.URL) -> httpx.URL:
        """A link of an answer as an address that may be asked; raises AnswerError when it leads elsewhere."""
        return followed(text, seen_on=seen_on, origin=self._origin, what="links")

    def get(
        self,
        params: Sequence[tuple[str, str]],
        read: Callable[[Answer], T],
        *,
        url: httpx.URL | None = None,
        part: str = "",
        hint: str = "",
    ) -> T:
        """Asks until `read` can make something of the answer.

        Args:
            params: what to ask for.
            read: makes something of the answer; raises AnswerError, or BrokenAnswerError to have it asked again.
            url: where, from `link`; unless given, the address of the definition.
            part: what is asked for, in messages, such as "page 3".
            hint: what else may be the matter when the server knows nothing of it.

        Raises:
            SourceFileError: the API refuses, or answers what cannot be used.
            TransientSourceError: it could not be read within `max_attempts`.
        """
        with self._sentences(part, hint):
            return self._get(_with_params(url or self._origin, params), read)

    def post(
        self, body: bytes, read: Callable[[Answer], T], *, headers: Mapping[str, str], part: str = ""
    ) -> T:
        """Sends JSON until `read` can make something of the answer: the same bytes and headers every time.

        Only for servers that know a repeated request again, as by an Idempotency-Key: one whose answer was lost is
        sent once more. Redirects are not followed.

        Args:
            body: JSON.
            read: as in `get`.
            headers: of this request.
            part: what is sent, in messages.

        Raises:
            RequestRefusedError: the server does not take the request as a whole.
            SourceFileError: it answers what cannot be used.
            TransientSourceError: there was no whole answer within `max_attempts`. It may have taken the request.
        """
        with self._sentences(part, ""):
            return self._proven(self._origin, read, headers, body)

    def hidden(self, text: str) -> str:
        """A text of the server in which none of our secrets can be read."""
        return hide(text, self._credentials.secrets())

    def refuse(self, text: str, part: str = "") -> SourceFileError:
        """An error about what the API answered; the text goes on after its address."""
        return self._sentence(part, text)

    def _get(self, url: httpx.URL, read: Callable[[Answer], T]) -> T:
        redirects = 0
        while True:
            try:
                return self._proven(url, read)
            except RefusedError as error:
                if error.location is None or not 300 <= error.status < 400:
                    raise
                redirects += 1
                if redirects > _REDIRECTS_MAX:
                    raise AnswerError(f"redirects more than {_REDIRECTS_MAX} times") from None
                url = followed(error.location, seen_on=url, origin=self._origin, what="redirects")

    def _proven(
        self,
        url: httpx.URL,
        read: Callable[[Answer], T],
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> T:
        """Sends a request with the credentials, once more with new ones when the server wants those."""
        proof = self._credentials.proof()
        renewed = False
        while True:
            outgoing = Outgoing(
                _with_params(url, proof.params),
                {**self._api.headers, **(headers or {}), **proof.headers},
                content=content,
            )
            try:
                return self._transport.send(
                    outgoing, lambda answer: read(_as_json(answer)), limit_bytes=self._api.max_page_bytes
                )
            except RefusedError as error:
                if error.status != 401 or renewed or not self._credentials.renew(proof):
                    raise
                renewed = True
                proof = self._credentials.proof()

    # --- sentences ----------------------------------------------------------------------------------------------

    @contextmanager
    def _sentences(self, part: str, hint: str) -> Iterator[None]:
        """What is wrong with an answer, for the rest of the product."""
        try:
            yield
        except AnswerError as error:
            raise self._sentence(part, str(error)) from None
        except RefusedError as error:
            text = self._keyed(self._refusal(error, hint))
            raise RequestRefusedError(f"{self._where(part)}: {self.hidden(text)}.", error.status) from None
        except BrokenAnswerError as error:
            raise self._again(part, str(error)) from None

    def _where(self, part: str) -> str:
        return f"{self._api.address}: {part}" if part else self._api.address

    def _keyed(self, text: str) -> str:
        """A sentence that names the keys of the section that the user wrote."""
        if self._api.section == "api":
            return text
        for own, other in _ELSEWHERE:
            text = text.replace(own, other)
        return _KEY.sub(rf"{self._api.section}.\1", text)

    def _sentence(self, part: str, text: str) -> SourceFileError:
        return SourceFileError(f"{self._where(part)}: {self.hidden(self._keyed(text))}.")

    def _again(self, part: str, text: str) -> TransientSourceError:
        tries = self._api.max_attempts
        return TransientSourceError(
            f"{self._where(part)}: {self.hidden(self._keyed(text))}, after {tries} {'try' if tries == 1 else 'tries'}:"
            f" try again later, or raise {self._api.section}.max_attempts."
        )

    def _refusal(self, error: RefusedError, hint: str) -> str:
        said = f" and says {error.excerpt!r}" if error.excerpt else ""
        variables = self._credentials.variables()
        held = f"what {' and '.join(variables)} {'holds' if len(variables) == 1 else 'hold'}"
        match error.status:
            case 401 if not variables:
                return f"answers 401{said}: it wants credentials: add api.auth"
            case 401:
                return f"answers 401{said}: it does not accept the credentials: check {held}"
            case 403:
                return f"answers 403{said}: the credentials do not suffice{f': check {held}' if variables else ''}"
            case 400 | 404 | 410 | 416 | 422 if hint:
                return f"answers {error.status}{said}: {hint}"
            case 404 | 410:
                return f"answers {error.status}{said}: nothing is at this address: check api.base_url and api.path"
            case status if 300 <= status < 400:
                return f"answers {status}, a redirect that leads nowhere: check api.base_url"
            case status:
                return f"answers {status}{said}: check api.params, api.headers and api.pagination"

    # --- tokens -------------------------------------------------------------------------------------------------

    def _fetch_token(
        self, auth: ClientCredentialsAuth, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> Mapping[str, object]:
        """The token endpoint's answer: access_token, and expires_in as a float or None."""
        names = f"{auth.client_id_env} and {auth.client_secret_env}"
        hidden = [form.get("client_secret", ""), headers.get("Authorization", "").removeprefix("Basic ")]
        try:
            return self._transport.send(
                Outgoing(_address(auth.token_url), headers, form), _token, limit_bytes=_TOKEN_BYTES_MAX
            )
        except RefusedError as error:
            said = f" and says {error.excerpt!r}" if error.excerpt else ""
            text = f"answers {error.status}{said}: no token is given: check what {names} hold"
            failure: BackfillError = SourceFileError(f"{auth.token_url}: {self._hidden_in(text, hidden)}.")
        except AnswerError as error:
            failure = SourceFileError(f"{auth.token_url}: {self._hidden_in(str(error), hidden)}.")
        except BrokenAnswerError as error:
            failure = TransientSourceError(
                f"{auth.token_url}: {self._hidden_in(str(error), hidden)}, after {self._api.max_attempts} tries: try"
                " again later."
            )
        raise failure

    def _hidden_in(self, text: str, more: Sequence[str]) -> str:
        return hide(self.hidden(text), more)


def _address(text: str) -> httpx.URL:
    try:
        return httpx.URL(text)
    except httpx.InvalidURL:
        raise SourceFileError(
            f"{text}: is no address that can be asked: check the name of the host."
        ) from None


def _with_params(url: httpx.URL, params: Sequence[tuple[str, str]]) -> httpx.URL:
    """The address with these parameters, in place of any of the same names."""
    if not params:
        return url
    own = {name for name, _ in params}
    kept = [(name, value) for name, value in url.params.multi_items() if name not in own]
    return url.copy_with(params=[*kept, *params])


def _as_json(answer: Answer) -> Answer:
    """The answer, unless it says of itself that it is something else, as a page for logging in is."""
    kind = answer.headers.get("content-type", "").split(";")[0].strip().lower()
    if answer.body and kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise AnswerError(
            f"answers with {kind[:60]} instead of JSON, which begins {excerpt(answer.body)!r}: check api.base_url and"
            " api.path"
        )
    return answer


def _token(answer: Answer) -> Mapping[str, object]:
    try:
        found: object = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise BrokenAnswerError("answers with what is no JSON") from None
    token = found.get("access_token") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(token, str) or not token:
        raise AnswerError("answers without an access_token")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise AnswerError("answers with an access_token that cannot be sent")
    if str(found.get("token_type", "bearer")).lower() != "bearer":
        raise AnswerError("answers with a token that is no bearer token")
    return {"access_token": token, "expires_in": _lifetime_s(found.get("expires_in"))}


def _lifetime_s(value: object) -> float | None:
    """Seconds; None when the server does not say."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found < 1e9 else None
