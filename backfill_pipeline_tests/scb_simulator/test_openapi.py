"""The OpenAPI document and its page say what there is, and need nothing from elsewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from backfill_pipeline.scb_simulator.faults import KINDS
from backfill_pipeline.scb_simulator.faults import Route as FaultRoute
from backfill_pipeline.scb_simulator.web.app import OPERATIONS
from backfill_pipeline_tests.scb_simulator.client import Client


def test_the_document_has_every_operation_and_resolves(shared: Client) -> None:
    document = shared.http.get("/openapi.json").json()
    found = {
        (operation["operationId"], method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert found == {(one.name, one.method, one.path) for one in OPERATIONS}
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    assert {kind.__name__ for kind in KINDS.values()} <= set(document["components"]["schemas"])


def test_what_faults_can_strike_are_operations() -> None:
    assert set(FaultRoute.__args__) <= {one.name for one in OPERATIONS}


def test_guarded_operations_name_their_scheme(shared: Client) -> None:
    document = shared.http.get("/openapi.json").json()
    schemes = set(document["components"]["securitySchemes"])
    for one in OPERATIONS:
        security = document["paths"][one.path][one.method.lower()]["security"]
        assert bool(security) == (one.guard != "none")
        assert {scheme for entry in security for scheme in entry} <= schemes


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("script", "link", "img", "iframe", "object"):
            self.loads.append(tag)
        self.links += [value for name in ("href", "src") if (value := found.get(name))]
        self.ids += [value for value in [found.get("id")] if value]


def test_the_page_shows_every_operation_and_loads_nothing(shared: Client) -> None:
    response = shared.http.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = _Loads()
    page.feed(response.text)
    assert page.loads == []
    assert "url(" not in response.text
    assert "@import" not in response.text
    for link in page.links:
        assert link == "/openapi.json" or link.removeprefix("#") in page.ids
    for one in OPERATIONS:
        assert f"{one.method} {one.path}" in response.text
