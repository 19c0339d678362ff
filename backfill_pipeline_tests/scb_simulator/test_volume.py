"""A day of 100,000 entries: all of them, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import httpx
import psutil
import pytest

from backfill_pipeline.scb_simulator.tokens import VARIABLES
from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.scb_simulator.conftest import Served
from backfill_pipeline_tests.scb_simulator.test_command import first_line
from backfill_pipeline_tests.scb_simulator.test_reading import sums

ENTRIES = 100_000
# All of a day as JSON and as objects takes more than 150 MB; what is made at a time, a few.
GROWTH_MAX_BYTES = 32 * 2**20


@pytest.mark.slow
def test_a_day_of_100_000_entries_is_served_in_bounded_memory_and_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    backfill = Backfill(tmp_path / "home", None, tmp_path, {"SCB_SIMULATOR_TOKEN": "token-of-a-test"})
    day = {"from": "2024-03-31T00:00:00+01:00", "to": "2024-04-01T00:00:00+02:00"}
    with backfill.started("scb-simulator", "--json", "--entries-per-day", ENTRIES) as process:
        base_url, server = first_line(process)["url"], psutil.Process(process.pid)
        header = {"Authorization": "Bearer token-of-a-test"}
        with httpx.Client(base_url=f"{base_url}/ledgers/SCB-01", headers=header, timeout=60) as http:
            for _ in range(10):  # everything is imported, and every thread was there once
                http.get("/entries")
            at_first = peak = server.memory_info().rss
            seen, last, parts = 0, "", []
            params: dict[str, str] = dict(day)
            while True:
                page = http.get("/entries", params=params).json()
                references = [entry["reference"] for entry in page["entries"]]
                assert last < references[0]
                last, seen = references[-1], seen + len(set(references))
                parts += [{"currency": code, "amount": one} for code, one in sums(page["entries"]).items()]
                peak = max(peak, server.memory_info().rss)
                if page["next_cursor"] is None:
                    break
                params["cursor"] = page["next_cursor"]
            totals = http.get("/totals", params={**day, "digest": "true"}).json()
            peak = max(peak, server.memory_info().rss)
    assert seen == totals["count"] == ENTRIES
    assert totals["sums"] == sums(parts)
    assert totals["days"][0]["digest"].startswith("sha256:")
    assert peak - at_first < GROWTH_MAX_BYTES


def test_any_day_is_served_without_the_days_before_it(served: Served) -> None:
    client = served(entries_per_day=27_000, days=36_600, start="2000-01-01")
    entries = client.all(**{"from": "2100-03-15T00:00:00+01:00", "to": "2100-03-15T00:01:00+01:00"})
    assert 15 <= len(entries) <= 22
    assert entries[0]["reference"] == "SCB-01-21000315-000000001"
