"""Whatever goes wrong on the way, the records are the same, or there is one sentence; and never more memory than allowed."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import subprocess
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from backfill_pipeline.errors import SourceFileError, TransientSourceError
from backfill_pipeline.sources.http.stream import ApiStream
from backfill_pipeline_tests.sources.api_server import (
    PAGINATIONS,
    TRANSIENT,
    ApiServer,
    json_response,
    raw_server,
    read,
    record,
    section,
    served,
)

GOOD = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n{"data":{"entries":[{"id":1}]}}'
GOOD = GOOD.replace(b"29", str(len(GOOD.partition(b"\r\n\r\n")[2])).encode())


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with served(ApiServer()) as server:
        yield server


def entries(number: int) -> list[str]:
    return [record(one) for one in range(1, number + 1)]


# --- faults that go away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", TRANSIENT)
def test_each_fault_is_tried_again_and_changes_nothing(api: ApiServer, fault: str) -> None:
    api.records = entries(7)
    api.faults = deque(["", fault, fault, "", fault])
    stream = ApiStream(section(api.url, pagination=PAGINATIONS["page"][1]), ["id"])
    assert sum(piece.fields.num_rows for piece in stream.records()) == 7
    report = stream.report()
    assert report is not None
    assert (report["pages"], report["retries"], report["requests"]) == (4, 3, 7)
    assert report["bytes"] > 200


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_fault_that_stays_is_one_sentence_after_so_many_tries(api: ApiServer, fault: str) -> None:
    api.records, api.faults = entries(7), deque([fault] * 9)
    with pytest.raises(
        TransientSourceError, match=r"/entries: page 1, page=1: .*, after 3 tries: try again later"
    ):
        read(section(api.url, pagination=PAGINATIONS["page"][1], max_attempts="3"))
    assert len(api.asked) == 3


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(list(PAGINATIONS)),
    count=st.integers(0, 11),
    runs=st.lists(st.lists(st.sampled_from(TRANSIENT), max_size=3), max_size=8),
)
def test_any_faults_within_the_tries_give_the_records_of_an_undisturbed_reading(
    shared: ApiServer, name: str, count: int, runs: list[list[str]]
) -> None:
    shared.style, pagination = PAGINATIONS[name]
    shared.records = entries(count)
    asked = section(shared.url, pagination=pagination, max_attempts="4", total="meta.total", key="id")
    shared.faults = deque()
    undisturbed = read(asked)
    shared.faults = deque(fault for run in runs for fault in [*run, ""])
    assert read(asked).equals(undisturbed)
    assert undisturbed.num_rows == count


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with served(ApiServer()) as server:
        yield server


def test_a_connection_that_is_hung_up_or_talks_nonsense_is_tried_again() -> None:
    for first in (None, b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le", GOOD[:-7]):
        with raw_server([first, GOOD]) as url:
            assert read(section(url), "id")["id"].to_pylist() == ["1"]


def test_an_address_that_cannot_be_one() -> None:
    with pytest.raises(SourceFileError, match="https://ä--b..x/entries: is no address that can be asked"):
        read(section("https://ä--b..x"))


def test_a_server_that_is_not_there(api: ApiServer) -> None:
    with pytest.raises(TransientSourceError, match="cannot be reached: .*refused.*, after 2 tries"):
        read(section("http://127.0.0.1:1", max_attempts="2"))


def test_a_server_that_does_not_answer_in_time(api: ApiServer) -> None:
    api.before = lambda request: time.sleep(1.0)
    with pytest.raises(TransientSourceError, match="does not answer within api.read_timeout_s, after 1 try"):
        read(section(api.url, max_attempts="1", read_timeout_s="0.2"))


def test_a_server_that_answers_drop_by_drop_is_left(api: ApiServer) -> None:
    sent: list[bytes] = []

    def drops() -> object:
        for _ in range(1_000):
            time.sleep(0.05)
            sent.append(b" ")
            yield sent[-1]

    api.answer = lambda request: StreamingResponse(drops(), media_type="application/json")
    with pytest.raises(TransientSourceError, match="takes too long to send its answer"):
        read(section(api.url, max_attempts="1", answer_timeout_s="0.3"))
    assert len(sent) < 1_000  # it did not wait for all of them


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_pause_that_a_server_asks_for_is_kept(api: ApiServer, form: str) -> None:
    api.records, api.faults = entries(1), deque(["429"])
    api.retry_after = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    began = time.monotonic()
    read(section(api.url))
    assert 0.9 < time.monotonic() - began < 30  # and not as long as it would wait at most


def test_a_pause_that_is_asked_for_is_never_longer_than_allowed(api: ApiServer) -> None:
    for form in ("86400", formatdate(time.time() + 1e6, usegmt=True), "9" * 400):
        api.records, api.faults, api.retry_after = entries(1), deque(["503"]), form
        began = time.monotonic()
        read(section(api.url, retry_after_max_s="0.2"))
        assert 0.15 < time.monotonic() - began < 60


@pytest.mark.parametrize("form", ["soon", "-5", "", "Wed, 99 Foo 2024 25:61:00 GMT"])
def test_a_pause_that_cannot_be_understood_is_ones_own(api: ApiServer, form: str) -> None:
    api.records, api.faults, api.retry_after = entries(1), deque(["503"]), form
    assert read(section(api.url)).num_rows == 1


def test_requests_are_kept_apart(api: ApiServer) -> None:
    api.records = entries(7)
    began = time.monotonic()
    read(section(api.url, pagination=PAGINATIONS["page"][1], requests_per_second="10"))
    assert len(api.asked) == 4
    assert time.monotonic() - began >= 0.3


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, r"answers 400 and says 'no, because': check api.params"),
        (401, r"answers 401 .*: it wants credentials: add api.auth"),
        (403, r"answers 403 .*: the credentials do not suffice"),
        (404, r"answers 404 .*: nothing is at this address: check api.base_url and api.path"),
        (410, r"answers 410"),
        (202, r"answers 202"),
        (206, r"answers 206"),
        (304, r"a redirect that leads nowhere"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(api: ApiServer, status: int, sentence: str) -> None:
    api.answer = lambda request: Response("no,\n  because\x1b[31m"[:13], status)
    with pytest.raises(SourceFileError, match=sentence):
        read(section(api.url))
    assert len(api.asked) == 1


def test_a_page_for_logging_in_is_no_answer(api: ApiServer) -> None:
    api.answer = lambda request: Response("<html>\n<h1>Log in</h1>" + "x" * 5000, media_type="text/html")
    with pytest.raises(
        SourceFileError, match="answers with text/html instead of JSON, which begins '<html> <h1>Log in"
    ):
        read(section(api.url))
    assert len(api.asked) == 1


def test_json_that_says_it_is_plain_text_or_nothing_is_read(api: ApiServer) -> None:
    for kind in ("text/plain", None, "application/problem+json", "APPLICATION/JSON ; charset=x"):
        api.answer = lambda request, kind=kind: Response('{"data":{"entries":[{"id":1}]}}', media_type=kind)
        assert read(section(api.url), "id").num_rows == 1


# --- redirects and links ------------------------------------------------------------------------------------------


def test_redirects_within_the_server_are_followed_with_credentials(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANK_TOKEN", "abc")
    api.records = entries(2)
    plain = api.page

    def answer(request: Request) -> Response:
        assert request.headers["authorization"] == "Bearer abc"
        if "moved" not in request.query_params:
            return RedirectResponse("/entries?moved=1", 302)
        return Response(plain(request)[0], media_type="application/json")

    api.answer = answer
    assert read(section(api.url, auth={"kind": "bearer", "token_env": "BANK_TOKEN"})).num_rows == 2


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        (
            "https://127.0.0.1:{port}/entries",
            "redirects to https://127.0.0.1:{port}, which is another server",
        ),
        ("http://localhost:{port}/entries", "redirects to http://localhost:{port}, which is another server"),
        ("//evil.example/entries?q=hidden", "redirects to http://evil.example, which is another server"),
        ("http://127.0.0.1:1/", "redirects to http://127.0.0.1:1, which is another server"),
        ("http://user:hidden@127.0.0.1:{port}/entries", "an address with a user in it"),
        ("file:///etc/passwd", "which is another server"),
        ("http://a:x1/", "to what is no address"),
        ("/entries", "redirects more than 5 times"),
    ],
)
def test_redirects_elsewhere_are_refused(api: ApiServer, location: str, sentence: str) -> None:
    port = api.url.rpartition(":")[2]
    api.answer = lambda request: Response(
        status_code=307, headers={"Location": location.replace("{port}", port)}
    )
    with pytest.raises(SourceFileError, match=sentence.replace("{port}", port)) as failed:
        read(section(api.url))
    assert "hidden" not in str(failed.value)


@pytest.mark.parametrize("where", ["body", "header"])
def test_links_elsewhere_are_refused(api: ApiServer, where: str) -> None:
    target = "https://evil.example/x?token=hidden"
    headers = {"Link": f'<{target}>; rel="next"'} if where == "header" else {}
    api.answer = lambda request: Response(
        json.dumps({"next": target, "data": {"entries": [{"id": 1}]}}),
        headers=headers,
        media_type="application/json",
    )
    pagination = {"kind": "link"} if where == "header" else {"kind": "link", "next": "next"}
    with pytest.raises(
        SourceFileError, match="links to https://evil.example, which is another server"
    ) as failed:
        read(section(api.url, pagination=pagination))
    assert "hidden" not in str(failed.value)


# --- hostile bodies -----------------------------------------------------------------------------------------------


def test_a_page_that_is_too_large_is_left_at_the_limit(api: ApiServer) -> None:
    sent = 0

    def flood() -> object:
        nonlocal sent
        for _ in range(4000):
            sent += 65536
            yield b" " * 65536

    api.answer = lambda request: StreamingResponse(flood(), media_type="application/json")
    with pytest.raises(
        SourceFileError, match="more than 100,000 bytes: ask for smaller pages .* api.max_page_bytes"
    ):
        read(section(api.url, max_page_bytes="100000"))
    assert sent < 64 << 20
    assert len(api.asked) == 1


def test_a_small_body_that_unpacks_to_a_huge_one_is_left_at_the_limit(api: ApiServer) -> None:
    bomb = gzip.compress(b" " * (200 << 20))
    api.answer = lambda request: Response(
        bomb, headers={"Content-Encoding": "gzip"}, media_type="application/json"
    )
    asked = section(api.url, max_page_bytes="1000000")
    tracemalloc.start()
    try:
        with pytest.raises(SourceFileError, match="more than 1,000,000 bytes"):
            read(asked)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_gzip_is_unpacked_also_in_parts(api: ApiServer) -> None:
    body = b'{"data":{"entries":[{"id":1}]}}'
    packed = gzip.compress(body[:9]) + gzip.compress(body[9:])
    api.answer = lambda request: Response(
        packed, headers={"Content-Encoding": "gzip"}, media_type="application/json"
    )
    assert read(section(api.url), "id").num_rows == 1


def test_a_packing_that_was_not_asked_for_is_refused(api: ApiServer) -> None:
    api.answer = lambda request: Response(
        b"x", headers={"Content-Encoding": "br"}, media_type="application/json"
    )
    with pytest.raises(SourceFileError, match="in the encoding 'br', which was not asked for"):
        read(section(api.url))


def test_json_nested_too_deeply_is_refused_at_once(api: ApiServer) -> None:
    api.answer = lambda request: Response("[" * 1_000_000, media_type="application/json")
    for records in ("", "data.entries"):
        with pytest.raises(SourceFileError, match="nested too deeply"):
            read(section(api.url, records=records))
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    api.answer = lambda request: Response(f'{{"data":{{"entries":[{deep}]}}}}', media_type="application/json")
    with pytest.raises(SourceFileError, match="nested too deeply"):
        read(section(api.url))


def test_bytes_that_are_no_utf8_are_refused_at_once(api: ApiServer) -> None:
    api.answer = lambda request: Response(
        b'{"data":{"entries":[{"id":"\xe9"}]}}', media_type="application/json"
    )
    with pytest.raises(SourceFileError, match="not UTF-8, the first at byte 27 of the body"):
        read(section(api.url))
    assert len(api.asked) == 1


@pytest.mark.parametrize(
    "body",
    ["", "{", '{"data":', '{"data":{"entries":[]}', '{"data":{"entries":[NaN]}}', '{"data" {', '{"a":1,}', "{,}",
     '{"data":{"entries":[1,]}}', '{"data":{"entries":[]}} x', '{1:2}', '{"a":"\x01"}', '["', '{"a', "é"],
)  # fmt: skip
def test_what_is_no_json_is_tried_again_and_then_told(api: ApiServer, body: str) -> None:
    api.answer = lambda request: Response(body, media_type="application/json")
    with pytest.raises(TransientSourceError, match="broken JSON"):
        read(section(api.url, max_attempts="2"))
    assert len(api.asked) == 2


def test_a_name_that_is_given_twice_where_it_matters_is_refused(api: ApiServer) -> None:
    api.answer = lambda request: Response(
        '{"data":{"entries":[]},"data":{"entries":[{}]}}', media_type="application/json"
    )
    with pytest.raises(SourceFileError, match="gives data.entries twice"):
        read(section(api.url))


def test_an_own_certificate_needs_its_authority(tmp_path: Path) -> None:
    with pytest.raises(
        SourceFileError, match=r"api.ca_file is .*none.pem, which cannot be read as certificates"
    ):
        read(section("https://127.0.0.1:1", ca_file=str(tmp_path / "none.pem")))


def test_nothing_is_logged_that_holds_an_address(api: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    api.records = entries(1)
    with caplog.at_level(logging.DEBUG):
        read(section(api.url, params={"q": "zebra"}))
    assert "zebra" not in caplog.text
    assert "x-total-count" not in caplog.text


def test_a_huge_number_stays_text(api: ApiServer) -> None:
    number = "9" * 10_000
    api.answer = lambda request: Response(
        f'{{"data":{{"entries":[{{"id":{number}}}]}}}}', media_type="application/json"
    )
    assert read(section(api.url), "id")["id"].to_pylist() == [number]
    api.answer = lambda request: json_response({"data": {"entries": []}, "next": None})
    assert read(section(api.url), "id").num_rows == 0


# --- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that nobody signed, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    named = ["-subj", "/CN=bank", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, "req", "-x509", *named, *made], check=True, capture_output=True)
    return certificate, key


def test_certificates_are_verified_and_an_authority_of_ones_own_may_be_named(
    certificate: tuple[Path, Path],
) -> None:
    with served(ApiServer([record(1)], style="none"), certificate) as api:
        with pytest.raises(
            SourceFileError, match="certificate that is not trusted .self.signed certificate.*api.ca_file"
        ):
            read(section(api.url))
        assert read(section(api.url, ca_file=str(certificate[0]))).num_rows == 1
        api.answer = lambda request: Response(
            status_code=302, headers={"Location": str(request.url.replace(scheme="http"))}
        )
        with pytest.raises(
            SourceFileError, match="redirects to http://127.0.0.1:[0-9]+, which is unencrypted"
        ):
            read(section(api.url, ca_file=str(certificate[0])))
        assert len(api.asked) == 2
