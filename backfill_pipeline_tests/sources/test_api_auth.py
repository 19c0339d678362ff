"""Credentials go where they belong, to nobody else, and can be read nowhere."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, quote_plus

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from backfill_pipeline.errors import BackfillError, SettingsError, SourceFileError, TransientSourceError
from backfill_pipeline.sources.http import credentials
from backfill_pipeline.sources.http.client import ApiClient
from backfill_pipeline.sources.http.credentials import Proof, hide
from backfill_pipeline.sources.http.stream import ApiStream
from backfill_pipeline.sources.http.transport import Answer, Outgoing
from backfill_pipeline_tests.sources.api_server import (
    PAGINATIONS,
    SECRET,
    USER,
    ApiServer,
    basic,
    json_response,
    read,
    record,
    section,
    served,
)

KINDS: dict[str, dict[str, object]] = {
    "bearer": {"kind": "bearer", "token_env": "BANK_SECRET"},
    "header": {"kind": "api_key", "header": "X-Api-Key", "value_env": "BANK_SECRET"},
    "param": {"kind": "api_key", "param": "api_key", "value_env": "BANK_SECRET"},
    "basic": {"kind": "basic", "user_env": "BANK_USER", "password_env": "BANK_SECRET"},
    "oauth2": {
        "kind": "oauth2",
        "client_id_env": "BANK_USER",
        "client_secret_env": "BANK_SECRET",
        "scope": "read",
    },
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setenv("BANK_SECRET", SECRET)
    monkeypatch.setenv("BANK_USER", USER)
    with served(ApiServer([record(one) for one in range(1, 8)])) as server:
        yield server


def auth(server: ApiServer, kind: str, **more: object) -> dict[str, object]:
    url = {"token_url": f"{server.url}/token"} if kind == "oauth2" else {}
    return {**KINDS[kind], **url, **more}


def proves(kind: str, request: Request) -> bool:
    sent = request.headers.get("authorization")
    match kind:
        case "bearer":
            return sent == f"Bearer {SECRET}"
        case "header":
            return request.headers.get("x-api-key") == SECRET
        case "param":
            return request.query_params.getlist("api_key") == [SECRET]
        case "basic":
            return sent == basic(USER, SECRET)
        case _:
            return sent is not None and sent.startswith("Bearer T")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["page", "link header", "link in the body"])
def test_every_page_is_asked_for_with_the_credentials(api: ApiServer, kind: str, style: str) -> None:
    api.wants = lambda request: proves(kind, request)
    api.style, pagination = PAGINATIONS[style]
    assert read(section(api.url, auth=auth(api, kind), pagination=pagination)).num_rows == 7
    assert len(api.asked) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_or_unusable_variable_is_one_sentence(
    api: ApiServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = section(api.url, auth=auth(api, kind))
    for value in ("", "line\nbreak", " leading", "café"):
        monkeypatch.setenv("BANK_SECRET", value)
        with pytest.raises(
            SettingsError, match="environment variable BANK_SECRET (is not set: set|holds)"
        ) as failed:
            read(asked)
        assert not value or value not in str(failed.value)
    assert api.asked == []


def forms(secret: str) -> list[str]:
    packed = [
        base64.b64encode(f"{USER}:{secret}".encode()).decode(),
        basic(quote_plus(USER), quote_plus(secret))[6:],
    ]
    return [secret, quote(secret), quote(secret, safe=""), quote_plus(secret), *packed]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [200, 302, 307, 400, 401, 403, 404, 429, 500])
def test_no_error_shows_a_secret_even_when_the_server_repeats_it(
    api: ApiServer, kind: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def echo(request: Request) -> Response:
        sent = f"{request.headers.get('authorization')} {request.headers.get('x-api-key')} {request.url}"
        sent += f" {request.query_params}"
        return Response(
            f"<p>you sent {sent}", status, {"Location": f"https://{'x' * 3}.example/{quote(sent)}"}
        )

    api.answer = echo
    asked = section(api.url, auth=auth(api, kind), max_attempts="2")
    with caplog.at_level(logging.DEBUG), pytest.raises(BackfillError) as failed:
        read(asked)
    shown = [str(failed.value), repr(failed.value), caplog.text, repr(asked), asked.model_dump_json()]
    shown += [ApiStream(asked, ["id"]).place, ApiStream(asked, ["id"]).name]
    for form in [*forms(SECRET), "T1"]:
        assert not [one for one in shown if form in one], (form, shown)


@pytest.mark.parametrize("kind", ["bearer", "basic", "oauth2"])
def test_credentials_that_are_not_accepted_name_their_variables(api: ApiServer, kind: str) -> None:
    api.wants = lambda request: False
    names = "BANK_SECRET holds" if kind == "bearer" else "BANK_USER and BANK_SECRET hold"
    with pytest.raises(SourceFileError, match=f"does not accept the credentials: check what {names}"):
        read(section(api.url, auth=auth(api, kind)))


def test_what_is_sent_is_not_shown_by_its_own_parts(api: ApiServer) -> None:
    """A traceback that nobody expected must not show them either."""
    outgoing = Outgoing(httpx.URL(api.url, params={"k": SECRET}), {"a": SECRET}, {"b": SECRET})
    for one in (
        outgoing,
        Proof({"a": SECRET}, (("b", SECRET),)),
        Answer(outgoing.url, 200, httpx.Headers(), b""),
    ):
        assert not [form for form in forms(SECRET) if form in repr(one)]


def test_a_secret_is_hidden_in_every_form_in_which_it_is_sent() -> None:
    text = " ".join(f"<{one}>" for one in forms(SECRET)[:4])
    assert hide(text, [SECRET]) == "<***> <***> <***> <***>"
    assert hide("a text", ["", "x y"]) == "a text"


# --- tokens -------------------------------------------------------------------------------------------------------


def test_one_token_serves_all_requests_and_is_asked_for_as_it_should(api: ApiServer) -> None:
    forms_seen: list[tuple[dict[str, list[str]], str | None]] = []

    def answer(form: dict[str, list[str]], request: Request) -> Response:
        forms_seen.append((form, request.headers.get("authorization")))
        return json_response({"access_token": "T9", "token_type": "bearer"})

    api.token_answer = answer
    paged = {"pagination": PAGINATIONS["page"][1]}
    read(section(api.url, auth=auth(api, "oauth2", audience="ledger"), **paged))
    asked = {"grant_type": ["client_credentials"], "scope": ["read"]}
    assert forms_seen == [({**asked, "audience": ["ledger"]}, basic(quote_plus(USER), quote_plus(SECRET)))]
    forms_seen.clear()
    read(section(api.url, auth=auth(api, "oauth2", client_in="body"), **paged))
    assert forms_seen == [({**asked, "client_id": [USER], "client_secret": [SECRET]}, None)]
    assert all("x-version" not in one.headers for one in api.asked)


def test_a_token_that_ends_soon_is_fetched_anew(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "TOKEN_LEEWAY_S", 0.2)

    def answer(form: object, request: Request) -> Response:
        return json_response({"access_token": f"T{api.tokens}", "expires_in": "0.4"})

    api.token_answer = answer
    api.before = lambda request: time.sleep(0.12)
    read(section(api.url, auth=auth(api, "oauth2"), pagination=PAGINATIONS["page"][1]))
    assert 2 <= api.tokens <= len(api.asked)  # how many is up to how fast the pages come


def test_a_token_that_is_revoked_is_renewed_once_per_request(api: ApiServer) -> None:
    api.wants = lambda request: request.headers["authorization"] != "Bearer T1"
    api.style = "none"
    assert read(section(api.url, auth=auth(api, "oauth2"))).num_rows == 7
    assert (api.tokens, len(api.asked)) == (2, 2)
    api.wants = lambda request: False
    with pytest.raises(SourceFileError, match="answers 401"):
        read(section(api.url, auth=auth(api, "oauth2")))
    assert (api.tokens, len(api.asked)) == (4, 4)


def test_threads_share_a_renewed_token(api: ApiServer) -> None:
    api.wants = lambda request: request.headers["authorization"] != "Bearer T1"
    with ApiClient(section(api.url, auth=auth(api, "oauth2"))) as client, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: client.get((), lambda answer: answer.body), range(40)))
    assert api.tokens == 2


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (
            json_response({"error": "invalid_client"}, 401),
            SourceFileError,
            "answers 401 .*invalid_client.*no token is given",
        ),
        (Response("busy", 503), TransientSourceError, "token: answers 503, after 5 tries"),
        (Response("{", media_type="application/json"), TransientSourceError, "what is no JSON"),
        (json_response({"token": "x"}), SourceFileError, "without an access_token"),
        (json_response({"access_token": "a b\n"}), SourceFileError, "access_token that cannot be sent"),
        (json_response({"access_token": "a", "token_type": "mac"}), SourceFileError, "no bearer token"),
        (Response("x" * 100_000), SourceFileError, "more than 65,536 bytes"),
        (Response(status_code=302, headers={"Location": "/entries"}), SourceFileError, "answers 302"),
    ],
)
def test_token_endpoints_that_give_no_token(
    api: ApiServer, answer: Response, error: type[BackfillError], sentence: str
) -> None:
    api.token_answer = lambda form, request: answer
    with pytest.raises(error, match=sentence):
        read(section(api.url, auth=auth(api, "oauth2")))
    assert api.asked == []


def test_the_token_endpoint_may_be_another_server_and_gets_nothing_else(api: ApiServer) -> None:
    api.style = "none"
    with served(ApiServer()) as other:
        asked = section(
            api.url, headers={"X-Version": "2"}, auth=auth(other, "oauth2"), params={"only": "here"}
        )
        assert read(asked).num_rows == 7
        assert (other.tokens, api.tokens) == (1, 0)


def test_a_key_in_a_link_is_replaced_by_ones_own(api: ApiServer) -> None:
    api.answer = lambda request: json_response(
        {
            "next": None if "b" in request.query_params else "?api_key=theirs&b=%C3%A4+1",
            "data": {"entries": [{"id": str(request.query_params.get("b"))}]},
        }
    )
    table = read(section(api.url, auth=auth(api, "param"), pagination={"kind": "link", "next": "next"}), "id")
    assert table["id"].to_pylist() == ["None", "ä 1"]
    assert [one.params["api_key"] for one in api.asked] == [SECRET, SECRET]
