"""A client of the simulated bank, over real HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx

from backfill_pipeline.scb_simulator.server import Simulator

_KEYS = itertools.count(1)


class Client:
    """Asks one ledger, as one who has the API's token; `admin` has the admin's."""

    def __init__(self, simulator: Simulator, ledger: str = "SCB-01") -> None:
        self.simulator = simulator
        self.path = f"/ledgers/{ledger}"
        self.http = _http(simulator, simulator.credentials.token)
        self.admin = _http(simulator, simulator.credentials.admin_token)

    def close(self) -> None:
        self.http.close()
        self.admin.close()

    def get(self, below: str, **params: Any) -> httpx.Response:
        return self.http.get(f"{self.path}/{below}", params=params)

    def ok(self, below: str, **params: Any) -> Any:
        response = self.get(below, **params)
        assert response.status_code == 200, response.text
        return response.json()

    def pages(self, below: str = "entries", **params: Any) -> Iterator[list[dict[str, Any]]]:
        """All pages of a listing."""
        name = "acknowledgements" if below == "acknowledgements" else "entries"
        while True:
            page = self.ok(below, **params)
            yield page[name]
            if page["next_cursor"] is None:
                return
            params["cursor"] = page["next_cursor"]

    def all(self, below: str = "entries", **params: Any) -> list[dict[str, Any]]:
        return [item for page in self.pages(below, **params) for item in page]

    def send(self, below: str, items: list[Any], key: str | None = None) -> httpx.Response:
        key = key or f"key-{next(_KEYS)}"
        return self.http.post(f"{self.path}/{below}", json={below: items}, headers={"Idempotency-Key": key})

    def fault(self, *faults: dict[str, Any]) -> None:
        response = self.admin.put("/admin/faults", json={"faults": list(faults)})
        assert response.status_code == 200, response.text

    def fired(self) -> list[int]:
        return [one["fired"] for one in self.admin.get("/admin/faults").json()["faults"]]

    def log(self) -> list[dict[str, Any]]:
        return [
            line
            for line in self.admin.get("/admin/log").json()["requests"]
            if not line["path"].startswith("/admin")
        ]


def _http(simulator: Simulator, token: str | None) -> httpx.Client:
    return httpx.Client(
        base_url=simulator.base_url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
    )
