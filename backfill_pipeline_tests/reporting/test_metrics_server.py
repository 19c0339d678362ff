"""Metrics over HTTP: one page, on loopback, that answers whatever the ledger or whoever asks does."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.monitoring.snapshot import Snapshot, Unavailable, look
from backfill_pipeline.reporting.metrics.exporter import Exporter
from backfill_pipeline.reporting.metrics.server import serving


@pytest.fixture
def page(ledger_url: str) -> Iterator[str]:
    with serving(Exporter(lambda: look(ledger_url), kept_s=0)) as address:
        yield address


def up(response: httpx.Response) -> float:
    families = {one.name: one for one in text_string_to_metric_families(response.text)}
    return families["backfill_up"].samples[0].value


def test_it_is_on_loopback_and_says_what_it_is(page: str) -> None:
    assert urlsplit(page).hostname == "127.0.0.1"
    response = httpx.get(page)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert up(response) == 1
    head = httpx.head(page)
    assert (head.status_code, head.content, int(head.headers["content-length"]) > 1000) == (200, b"", True)
    assert httpx.get(page, params={"name": "x"}).status_code == 200


def test_other_places_lead_there(page: str) -> None:
    root = page.removesuffix("/metrics")
    assert "/metrics" in httpx.get(f"{root}/").text
    missing = httpx.get(f"{root}/nothing")
    assert (missing.status_code, "/metrics" in missing.text) == (404, True)
    assert httpx.post(page).status_code == 501


def test_a_ledger_that_is_down_is_an_answer_and_it_comes_back(ledger_url: str) -> None:
    away = Unavailable("unreachable", "away")
    answers: list[Snapshot | Unavailable] = [away, look(ledger_url)]
    with serving(Exporter(lambda: answers.pop(0), kept_s=0)) as address:
        first, second = httpx.get(address), httpx.get(address)
    assert (first.status_code, up(first)) == (200, 0)
    assert (second.status_code, up(second)) == (200, 1)


def test_who_connects_and_says_nothing_keeps_nobody_waiting(page: str) -> None:
    place = urlsplit(page)
    assert place.hostname is not None
    silent = [socket.create_connection((place.hostname, place.port or 0)) for _ in range(20)]
    try:
        assert up(httpx.get(page)) == 1
    finally:
        for one in silent:
            one.close()


def test_who_asks_a_letter_at_a_time_is_cut_off_when_there_are_too_many(page: str) -> None:
    place = urlsplit(page)
    assert place.hostname is not None
    slow = [socket.create_connection((place.hostname, place.port or 0), timeout=30) for _ in range(70)]
    try:
        for one in slow:
            with suppress(OSError):  # cut off already
                one.sendall(b"GET /met")
        assert up(httpx.get(page)) == 1
        assert slow[0].recv(1) == b""
    finally:
        for one in slow:
            one.close()


def test_who_leaves_before_the_answer_is_there_is_not_written_down(capfd: pytest.CaptureFixture[str]) -> None:
    asked, gone, answered = threading.Event(), threading.Event(), threading.Event()

    class Long(Exporter):
        def text(self) -> bytes:
            asked.set()
            assert gone.wait(60)
            return b"x" * 1_000_000

    class Ended(threading.Thread):
        def run(self) -> None:
            super().run()
            if "process_request" in self.name:
                answered.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Thread", Ended)
        with serving(Long(lambda: Unavailable("failed", "never asked"))) as address:
            place = urlsplit(address)
            with socket.create_connection((str(place.hostname), place.port or 0)) as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                assert asked.wait(60)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.set()
            assert answered.wait(60)
    assert capfd.readouterr().err == ""


def test_it_ends_although_a_scrape_is_waiting() -> None:
    held, asked = threading.Event(), threading.Event()

    def never() -> Snapshot | Unavailable:
        asked.set()
        held.wait(60)
        return Unavailable("timeout", "late")

    with serving(Exporter(never)) as address:
        scrape = threading.Thread(target=lambda: _ignoring_errors(address), daemon=True)
        scrape.start()
        assert asked.wait(60)
    held.set()
    scrape.join(60)
    with pytest.raises(httpx.HTTPError):
        httpx.get(address)


def _ignoring_errors(address: str) -> None:
    try:
        httpx.get(address, timeout=60)
    except httpx.HTTPError:
        return


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_address_that_cannot_be_had_is_said_in_a_sentence(host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = pytest.raises(
            UsageError, match=f"cannot serve metrics on {host}, port {port} .*--serve PORT"
        )
        with refused, serving(Exporter(lambda: Unavailable("failed", "")), host=host, port=port):
            pytest.fail("it serves")


def test_it_serves_on_ipv6_where_there_is_any() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(Exporter(lambda: Unavailable("failed", "")), host="::1") as address:
        assert address.startswith("http://[::1]:")
        assert up(httpx.get(address)) == 0
