"""The command on a source that is an API: checked, previewed, run, killed and resumed when the API is gone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill_pipeline_tests.cli.command import Backfill, batches, wait_until
from backfill_pipeline_tests.sources.api_server import PAGINATIONS, SECRET, ApiServer, served
from backfill_pipeline_tests.stages.world import HEADER, World, entries, entry

pytestmark = pytest.mark.e2e


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with served(ApiServer()) as server:
        server.style = "cursor"
        server.wants = lambda request: request.headers.get("authorization") == f"Bearer {SECRET}"
        yield server


def write(world: World, api: ApiServer, rows: list[list[object]], **settings: object) -> Path:
    api.records = [json.dumps(dict(zip(HEADER, row, strict=True))) for row in rows]
    section = {
        "base_url": "${BANK_URL}",
        "path": "entries",
        "auth": {"kind": "bearer", "token_env": "BANK_TOKEN"},
        "records": "data.entries",
        "pagination": PAGINATIONS["cursor"][1] | {"size": "500"},
        "total": "meta.total",
        "backoff_s": "0.01",
        "max_attempts": "2",
    }
    return world.write("bank", [], type="api", file=None, api=section, max_error_rate="1", **settings)


@pytest.mark.slow
def test_from_check_to_a_second_run(backfill: Backfill, world: World, api: ApiServer) -> None:
    path = write(world, api, [*entries(24), entry(25, amount="1e3")])
    assert "BANK_URL is not set" in backfill("sources", "check", path).stdout
    backfill.extra["BANK_URL"] = api.url
    refused = backfill("run", path)
    assert refused.code == 2
    assert "the environment variable BANK_TOKEN is not set" in refused.stderr
    backfill.extra["BANK_TOKEN"] = "wrong"
    assert "does not accept the credentials: check what BANK_TOKEN holds" in backfill("run", path).stderr
    backfill.extra["BANK_TOKEN"] = SECRET

    checked = backfill("sources", "check", path, "--json")
    assert (checked.code, checked.json["good"], checked.json["rejected"]) == (3, 24, {"amount_malformed": 1})
    assert backfill("sources", "preview", path, "--rows", "2").code == 0

    outcome = backfill("run", path, "--json")
    assert outcome.code == 3, outcome
    assert outcome.json["reconciliation"] == "match"
    assert [outcome.json[name] for name in ("read", "posted", "rejected")] == [25, 24, 1]

    api.records.append(json.dumps(dict(zip(HEADER, entry(26), strict=True))))
    again = backfill("run", "bank", "--json")
    assert [again.json[name] for name in ("read", "posted", "duplicates", "rejected")] == [26, 1, 24, 1]
    assert "https" not in backfill("status", "bank").stdout
    for file in backfill.home.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


@pytest.mark.slow
def test_killed_and_resumed_without_the_api(backfill: Backfill, world: World, api: ApiServer) -> None:
    path = write(world, api, entries(5_000), partition_rows="1000", config={"batch_size": "50"})
    backfill.extra.update(BANK_URL=api.url, BANK_TOKEN=SECRET)
    assert backfill.url is not None
    with backfill.started("run", path) as process:
        wait_until(lambda: batches(backfill.url or "") >= 20 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 20 <= batches(backfill.url) < 100
    asked = len(api.asked)
    del backfill.extra["BANK_TOKEN"]
    assert backfill("run", path, "--accept-changed").code == 2  # which would ask anew
    api.wants = lambda request: False
    outcome = backfill("resume", "bank", "--json")
    assert (outcome.code, outcome.json["constraints"]) == (3, "refused"), outcome  # A is overdrawn
    assert outcome.json["reconciliation"] == "match"
    assert len(world.references()) == 5_000
    assert len(api.asked) == asked
