"""An API goes all the way: asked once, captured, posted and reconciled; a run that resumes asks nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from starlette.requests import Request
from starlette.responses import Response

from backfill_pipeline.definition.api import ApiSource, Pagination, Windows
from backfill_pipeline.definition.api_auth import ApiKeyAuth, BasicAuth, BearerAuth, ClientCredentialsAuth
from backfill_pipeline.definition.load import TextLoader, load_definition
from backfill_pipeline.definition.problems import check_file
from backfill_pipeline.errors import SourceChangedError, SourceFileError, TransientSourceError
from backfill_pipeline.orchestration.metadata import manifest_metadata
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.preview import check_files, preview
from backfill_pipeline_tests.sources.api_server import (
    PAGINATIONS,
    SECRET,
    ApiServer,
    json_response,
    read,
    record,
    section,
    served,
)
from backfill_pipeline_tests.stages.world import CHECKOUT, HEADER, World, entries, entry

GOOD = 25
ROWS = [*entries(GOOD), entry(26, amount="1e3"), entry(27, time="yesterday")]


def records(rows: list[list[object]]) -> list[str]:
    return [
        json.dumps(dict(zip(HEADER, row, strict=True)) | {"id": row[0]}).replace(
            f'"{row[3]}"', str(row[3]), 1
        )
        for row in rows
    ]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setenv("BANK_TOKEN", SECRET)
    with served(ApiServer(records(ROWS), wants=is_us)) as server:
        yield server


def is_us(request: Request) -> bool:
    return request.headers.get("authorization") == f"Bearer {SECRET}"


def write(world: World, api: ApiServer, *, pagination: str = "cursor", **other: object) -> Path:
    api.style, how = PAGINATIONS[pagination]
    section = {
        "base_url": api.url,
        "path": "entries",
        "auth": {"kind": "bearer", "token_env": "BANK_TOKEN"},
        "records": "data.entries",
        "pagination": how,
        "total": "meta.total",
        "key": "ref",
        "backoff_s": "0",
        **other,
    }
    return world.write("bank", [], type="api", file=None, api=section, max_error_rate="1")


def test_everything_is_posted_and_reconciled_with_the_very_text_of_rejects(
    world: World, api: ApiServer
) -> None:
    path = write(world, api)
    api.faults = deque(["", "500", "cut", "", "broken json"])
    world.post(path)
    assert world.references() == [row[0] for row in ROWS[:GOOD]]
    assert [(row, code) for row, _, code, _ in world.rejects()] == [
        (26, "amount_malformed"),
        (27, "time_malformed"),
    ]
    raw = [text for (text,) in world.query("SELECT raw FROM backfill_rejects ORDER BY source_row")]
    assert raw == api.records[GOOD:]
    assert world.query("SELECT source_line FROM backfill_rejects ORDER BY 1") == [(26,), (27,)]
    assert world.value("SELECT amount::text FROM ledger_entries WHERE reference_id = 'R000009'") == "10.00"
    report = world.reconcile(path)
    assert report.matches, report
    assert (report.read, report.posted, report.rejected) == (GOOD + 2, GOOD, 2)


def test_a_run_that_resumes_asks_nothing_and_needs_no_secret(
    world: World, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(world, api)
    world.run(path, keys=["0001"])
    asked = len(api.asked)
    api.records = records(entries(60))  # what it says by now does not matter
    monkeypatch.delenv("BANK_TOKEN")
    world.post(path)
    assert len(api.asked) == asked
    assert world.references() == [row[0] for row in ROWS[:GOOD]]
    assert world.reconcile(path).matches


def test_what_the_api_says_later_is_the_next_revision(world: World, api: ApiServer) -> None:
    path = write(world, api)
    world.post(path)
    before = len(api.asked)
    report = register_source(load_definition(path), world.places)  # asked anew, and nothing is new
    assert (report.is_new, report.registration.revision) == (False, 1)
    assert len(api.asked) == 2 * before
    assert report.details["pages"] == before
    assert report.details["retries"] == 0
    shown = manifest_metadata(report.registration, report.repeated_rows, report.carried, report.details)
    assert shown["read/pages"] == before
    api.records = records([*ROWS, *entries(5, first=28)])
    world.post(path)
    assert len(world.references()) == GOOD + 5
    found = world.reconcile(path)
    assert found.matches
    assert (found.read, found.posted, found.duplicates, found.rejected) == (32, 5, GOOD, 2)


def test_records_that_come_twice_are_duplicates_or_conflicts_and_never_lost(
    world: World, api: ApiServer
) -> None:
    """The pages overlap, as when bookings are inserted while they are read, and one came back corrected."""
    first, second, corrected, third = records([*entries(2), entry(2, amount="99.00"), entry(3)])
    pages = [[first, second], [second, corrected], [corrected, third], []]
    path = write(world, api, pagination="page", total=None)

    def answer(request: Request) -> Response:
        number = int(request.query_params["page"])
        shown = f'{{"data": {{"entries": [{",".join(pages[number - 1])}]}}}}'
        return Response(shown, media_type="application/json")

    api.answer = answer
    report = register_source(load_definition(path), world.places)
    assert (report.details["records"], report.details["repeated_records"]) == (6, 3)
    assert report.details["changed_records"] == 2
    world.post(path)
    found = world.reconcile(path)
    assert found.matches
    assert (found.read, found.posted, found.duplicates, found.conflicts) == (6, 3, 1, 2)


def test_an_answer_that_does_not_add_up_registers_nothing(world: World, api: ApiServer) -> None:
    path = write(world, api, pagination="none")
    api.answer = lambda request: json_response({"meta": {"total": 2}, "data": {"entries": [{"ref": "R1"}]}})
    with pytest.raises(SourceFileError, match="there are 2 records, but gave 1"):
        world.register(path)
    api.answer, api.faults = None, deque(["500"] * 9)
    with pytest.raises(TransientSourceError, match="answers 500, after 5 tries"):
        world.register(path)
    assert world.query("SELECT * FROM backfill_registrations") == []
    assert list(world.places.captures_dir("bank").glob("*")) == []


def test_what_is_asked_for_is_part_of_the_mapping_and_how_is_not(world: World, api: ApiServer) -> None:
    path = write(world, api)
    world.run(path, keys=["0001"])
    text = path.read_text()
    path.write_text(text.replace("backoff_s: '0'", "backoff_s: '1'\n  max_attempts: '7'"))
    world.run(path, keys=["0002"])
    path.write_text(
        text.replace("records: data.entries", "records: data.entries\n  params: {status: booked}")
    )
    with pytest.raises(SourceChangedError, match="the mapping section 'api'"):
        world.run(path)


def test_when_the_capture_is_gone_the_api_is_asked_again_and_must_say_the_same(
    world: World, api: ApiServer
) -> None:
    path = write(world, api)
    world.run(path, keys=["0001"])
    asked = len(api.asked)
    shutil.rmtree(world.places.captures_dir("bank"))
    api.records = records([*ROWS[:-1], entry(99)])
    with pytest.raises(SourceChangedError, match="the content of 127.0.0.1"):
        world.run(path, register=False)
    assert len(api.asked) == 2 * asked
    api.records = records(ROWS)
    world.post(path)
    assert len(world.references()) == GOOD
    assert world.reconcile(path).matches


def test_no_secret_is_kept_anywhere(world: World, api: ApiServer) -> None:
    path = write(
        world,
        api,
        pagination="link header",
        auth={"kind": "api_key", "param": "key", "value_env": "BANK_TOKEN"},
    )
    api.wants = lambda request: request.query_params["key"] == SECRET
    world.post(path)
    kept = [file for file in world.folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".arrow" for file in kept)
    for file in kept:
        assert SECRET.encode() not in file.read_bytes(), file
    dumped = world.query("SELECT r::text FROM backfill_registrations r")
    dumped += world.query("SELECT r::text FROM backfill_rejects r")
    assert SECRET not in str(dumped)
    assert world.value("SELECT file_name FROM backfill_registrations") == f"{api.url[7:]}/entries"


def test_check_and_preview_ask_for_as_little_as_they_need(world: World, api: ApiServer) -> None:
    path = write(world, api)
    found = preview(load_definition(path), rows=2)
    assert [row.after["reference_id"] for row in found.rows] == ["R000001", "R000002"]
    assert len(api.asked) == 1
    problems, shown = check_files(check_file(path), rows=100)
    assert problems == []
    assert shown is not None
    assert (shown.good, shown.rejected) == (GOOD, {"amount_malformed": 1, "time_malformed": 1})
    assert [row.raw for row in shown.rows if row.outcome == "rejected"] == api.records[GOOD:]


def test_check_tells_what_is_wrong_with_the_api_at_its_line(
    world: World, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(world, api, records="data.rows")
    (problem,), _ = check_files(check_file(path), rows=5)
    expected = f"api is {api.url}/entries: page 1: has no data.rows: its names are meta, data;"
    assert problem.text.startswith(expected)
    assert problem.line == path.read_text().splitlines().index("api:") + 1
    monkeypatch.delenv("BANK_TOKEN")
    (unset,), _ = check_files(check_file(path), rows=5)
    assert "the environment variable BANK_TOKEN is not set" in unset.text
    assert unset.line == problem.line


# --- the documentation --------------------------------------------------------------------------------------------

PAGE = (CHECKOUT / "docs" / "apis.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```yaml\n# example: ([^\n]+)\n(.*?)```", PAGE, re.DOTALL))


def test_the_documented_definition_is_posted_and_reconciles(
    world: World, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANK_API", api.url)
    path = world.folder / "bank_api.yaml"
    path.write_text(EXAMPLES["ledger"] + "max_error_rate: 1\n")
    api.style = "cursor"
    world.post(path)
    assert len(world.references()) == GOOD
    assert world.reconcile(path).matches


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"ledger"}))
def test_every_documented_part_reads_everything(api: ApiServer, name: str) -> None:
    api.cap = 9
    api.style = {"windows": "page", "auth": "none"}.get(name, name)
    api.records = [record(number) for number in range(1, 29)]
    api.wants = lambda request: name != "auth" or is_us(request)
    found = read(section(api.url, **yaml.load(EXAMPLES[name], Loader=TextLoader)))
    assert sorted(found["id"].to_pylist()) == [f"R{number:04d}" for number in range(1, 29)]


def test_every_key_is_documented() -> None:
    known = set(ApiSource.model_fields)
    table = PAGE.partition("Below `api`:")[2].partition("Proxies are")[0]
    assert set(re.findall(r"`([a-z_]+)`(?=[^|]*\| )", table.replace("| |", ""))) >= known
    for model in (*get_args(Pagination), Windows, BearerAuth, ApiKeyAuth, BasicAuth, ClientCredentialsAuth):
        for name, field in model.model_fields.items():
            assert f"`{field.alias or name}`" in PAGE, (model, name)
