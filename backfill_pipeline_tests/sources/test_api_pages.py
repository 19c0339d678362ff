"""Pages: everything is read once, in the order in which it is served, or there is one sentence about what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import Request
from starlette.responses import Response

from backfill_pipeline.definition.api import ApiSource
from backfill_pipeline.errors import SourceFileError, TransientSourceError
from backfill_pipeline.sources.files import json_records
from backfill_pipeline.sources.http import pages as pages_module
from backfill_pipeline.sources.http.client import ApiClient
from backfill_pipeline.sources.http.pages import ApiPages
from backfill_pipeline.sources.http.stream import ApiStream
from backfill_pipeline_tests.sources.api_server import (
    PAGINATIONS,
    ApiServer,
    json_response,
    read,
    record,
    section,
    served,
)
from backfill_pipeline_tests.stages.test_set_wise import assert_set_wise, lines_executed


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with served(ApiServer()) as server:
        yield server


COUNTS = (0, 1, 2, 3, 4, 6, 7, 20)


def entries(number: int) -> list[str]:
    return [record(one) for one in range(1, number + 1)]


def pages_of(*bodies: object) -> object:
    """An answer per page number; the last one for all others."""

    def answer(request: Request) -> Response:
        number = int(request.query_params.get("page", "1"))
        return json_response(bodies[min(number, len(bodies)) - 1])

    return answer


# --- every kind ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGINATIONS)
@pytest.mark.parametrize("total", [None, "meta.total"])
def test_every_kind_of_pagination_gives_every_record_once_in_order(
    api: ApiServer, name: str, total: str | None
) -> None:
    api.style, pagination = PAGINATIONS[name]
    if pagination.get("end") == "total":
        total = "meta.total"
    for count in COUNTS:
        api.records = entries(count)
        table = read(section(api.url, pagination=pagination, total=total))
        assert table["id"].to_pylist() == [f"R{one:04d}" for one in range(1, count + 1)]
        assert table["amount"].to_pylist() == [f"{one % 90 + 1}.10" for one in range(1, count + 1)]
        assert table["line"].to_pylist() == list(range(1, count + 1))
        assert table["raw"].to_pylist() == api.records


def test_a_body_that_is_the_list_itself(api: ApiServer) -> None:
    api.style, api.records = "bare", entries(5)
    table = read(section(api.url, records=None, total_header="X-Total-Count"))
    assert table["raw"].to_pylist() == api.records


def test_fixed_parameters_and_headers_go_with_every_request(api: ApiServer) -> None:
    api.records = entries(7)
    read(
        section(
            api.url,
            params={"status": "booked & done"},
            headers={"X-Version": "2"},
            pagination=PAGINATIONS["page"][1],
        )
    )
    assert len(api.asked) == 4
    assert {one.params["status"] for one in api.asked} == {"booked & done"}
    assert {one.headers["x-version"] for one in api.asked} == {"2"}
    assert [one.params["page"] for one in api.asked] == ["1", "2", "3", "4"]


def test_a_look_at_the_first_records_asks_for_the_first_pages_alone(api: ApiServer) -> None:
    api.records = entries(300)
    stream = ApiStream(section(api.url, pagination=PAGINATIONS["page"][1]), ["id"])
    first, second = (piece for _, piece in zip(range(2), stream.records(), strict=False))
    assert (first.fields.num_rows, second.fields.num_rows) == (3, 3)
    assert len(api.asked) == 2


def test_pieces_grow_so_that_many_small_pages_make_few(api: ApiServer) -> None:
    api.records = entries(600)
    stream = ApiStream(section(api.url, pagination=PAGINATIONS["page"][1]), ["id"])
    assert len(list(stream.records())) < 12


# --- what is not there, or not as it should be --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "records", "sentence"),
    [
        ({"items": []}, "data.entries", "has no data.entries: its names are items; write under records"),
        (
            {"data": {"entries": {"a": 1}}},
            "data.entries",
            "holds an object where the list of records should be",
        ),
        ({"data": {"entries": 5}}, "data.entries", "holds a single value where the list"),
        (
            {"data": []},
            "",
            "holds an object where the list of records should be, the body: its names are data",
        ),
        ([], "data.entries", "has no data.entries: it is a list"),
        (5, "data", "has no data: it has no names"),
    ],
)
def test_records_that_are_elsewhere(api: ApiServer, body: object, records: str, sentence: str) -> None:
    api.answer = lambda request: json_response(body)
    with pytest.raises(SourceFileError, match=sentence):
        read(section(api.url, records=records))
    assert len(api.asked) == 1  # asking again would not help


def test_null_is_a_list_without_records_and_so_is_no_content(api: ApiServer) -> None:
    api.answer = lambda request: json_response({"data": {"entries": None}})
    assert read(section(api.url)).num_rows == 0
    api.answer = lambda request: Response(status_code=204)
    assert read(section(api.url, total="meta.total")).num_rows == 0


def test_a_record_that_cannot_be_read_is_one_reject(api: ApiServer) -> None:
    bad = ["5", "null", '[1, {"a": ","}]', '{"id": {"a": 1}}', '{"id": 1, "id": 2}', '{"id": "a\\u0000"}']
    api.records = [record(1), *bad, '{"other": "},{"}', '{"id": null, "amount": -0.00}', record(2)]
    api.style = "bare"
    table = read(section(api.url, records=None))
    assert table["raw"].to_pylist() == api.records
    assert [code is not None for code in table["code"].to_pylist()] == [
        False,
        *[True] * len(bad),
        *[False] * 3,
    ]
    assert table["id"].to_pylist()[-3:] == ["", "", "R0002"]
    assert table["amount"].to_pylist()[-2] == "-0.00"
    assert table["reason"][1].as_py() == "the record is a single value, not an object"


def test_numbers_are_the_very_text_of_the_body_however_it_is_laid_out(api: ApiServer) -> None:
    numbers = [
        "10.00",
        "1e5",
        "-0",
        "123456789012345678901234567890.000000000000000001",
        "0.30000000000000004",
    ]
    listed = ",\n\r\t ".join(f'{{ "id" : "{one}, ]}}\\"",\n "amount" :\t{one}\n}}' for one in numbers)
    body = f'\ufeff\n{{"a": [1, "[{{"], "data" : {{ "entries":[ {listed} ]\n}} }} '
    api.answer = lambda request: Response(body.encode(), media_type="application/vnd.bank+json")
    table = read(section(api.url))
    assert table["amount"].to_pylist() == numbers
    assert table["id"].to_pylist() == [f'{one}, ]}}"' for one in numbers]


def test_values_below_others_and_other_alphabets(api: ApiServer) -> None:
    api.records = [json.dumps({"a": {"b": f"é{one}€𝄞"}}, ensure_ascii=False) for one in range(30)]
    api.style = "none"
    assert read(section(api.url), "a.b")["a.b"].to_pylist() == [f"é{one}€𝄞" for one in range(30)]


# --- pages that do not end, repeat, or do not add up --------------------------------------------------------------


def test_a_total_that_does_not_add_up_is_refused_with_both_numbers(api: ApiServer) -> None:
    api.answer = pages_of({"meta": {"total": 5}, "data": {"entries": [{"id": 1}, {"id": 2}]}})
    with pytest.raises(SourceFileError, match="there are 5 records, but gave 2"):
        read(section(api.url, total="meta.total"))
    with pytest.raises(SourceFileError, match="does not say how many records there are: .*meta.count"):
        read(section(api.url, total="meta.count"))
    with pytest.raises(SourceFileError, match="header X-Total"):
        read(section(api.url, total_header="X-Total"))
    api.answer = pages_of({"meta": {"total": "5 or so"}, "data": {"entries": [{"id": 1}]}})
    with pytest.raises(SourceFileError, match="'5 or so' records, which is no number"):
        read(section(api.url, total="meta.total"))


def test_a_total_of_more_than_pages_give_ends_at_the_first_empty_page(api: ApiServer) -> None:
    body = {"meta": {"total": 9}, "data": {"entries": [{"id": 1}]}}
    api.answer = pages_of(body, {**body, "data": {"entries": []}})
    with pytest.raises(SourceFileError, match="there are 9 records, but gave 1:"):
        read(section(api.url, total="meta.total", pagination={"kind": "page", "end": "total"}))


def test_a_server_that_ignores_the_page_number_is_found_out_at_the_second_page(api: ApiServer) -> None:
    api.answer = pages_of({"data": {"entries": [{"id": 1}, {"id": 2}]}})
    with pytest.raises(
        SourceFileError, match=r"entries: page 2, page=2: gives a page of 2 records that it gave before"
    ):
        read(section(api.url, pagination={"kind": "page"}))
    assert len(api.asked) == 2


def test_cursors_that_lead_in_a_circle_are_refused(api: ApiServer) -> None:
    follows = {None: "a", "a": "b", "b": "a"}

    def answer(request: Request) -> Response:
        cursor = request.query_params.get("cursor")
        return json_response({"next": follows[cursor], "data": {"entries": []}})

    api.answer = answer
    with pytest.raises(
        SourceFileError, match=r"page 4, cursor='a': is to be asked for once more, so .* circle"
    ):
        read(section(api.url, pagination={"kind": "cursor", "next": "next"}))


def test_a_page_behind_the_last_one_that_is_an_error_needs_another_end(api: ApiServer) -> None:
    api.records = entries(3)
    plain = api.page

    def answer(request: Request) -> Response:
        if request.query_params["page"] != "1":
            return Response("no such page", 404)
        return Response(plain(request)[0], media_type="application/json")

    api.answer = answer
    with pytest.raises(
        SourceFileError, match="page 2, .*: answers 404 and says 'no such page': when the API answers so"
    ):
        read(section(api.url, pagination={"kind": "page"}))
    told = {"kind": "page", "end": "total"}
    assert read(section(api.url, pagination=told, total="meta.total")).num_rows == 3


def test_links_that_lead_in_a_circle_are_refused(api: ApiServer) -> None:
    api.answer = lambda request: json_response({"next": "?a=1", "data": {"entries": []}})
    with pytest.raises(SourceFileError, match="circle"):
        read(section(api.url, pagination={"kind": "link", "next": "next"}))


def test_pages_without_end_stop_at_the_limit(api: ApiServer) -> None:
    api.answer = lambda request: json_response(
        {"more": True, "data": {"entries": [{"id": request.query_params["page"]}]}}
    )
    with pytest.raises(SourceFileError, match="more than 7 pages: raise api.max_pages"):
        read(section(api.url, max_pages="7", pagination={"kind": "page", "has_more": "more"}))
    assert len(api.asked) == 7


def test_a_server_that_gives_less_than_it_was_asked_for_does_not_end_early(api: ApiServer) -> None:
    api.records, api.cap = entries(10), 2
    sized = {"kind": "page", "size_param": "size", "size": "3"}
    with pytest.raises(SourceFileError, match="pages of 2 records where 3 were asked for"):
        read(section(api.url, pagination={**sized, "end": "short_page"}))
    for name in ("page", "offset"):  # without believing in short pages, nothing is lost
        api.style, pagination = PAGINATIONS[name]
        assert read(section(api.url, pagination=pagination)).num_rows == 10


@pytest.mark.parametrize(
    "pagination",
    [
        {"kind": "cursor", "next": "meta.nxt", "size_param": "size", "size": "3"},
        {"kind": "link", "next": "meta.lnk", "size_param": "size", "size": "3"},
        {"kind": "link", "size_param": "size", "size": "3"},
    ],
)
def test_a_full_first_page_that_does_not_say_how_to_go_on_is_not_taken_for_all(
    api: ApiServer, pagination: dict[str, object]
) -> None:
    api.records, api.style = entries(10), "cursor"
    with pytest.raises(
        SourceFileError, match="first page that is full .3 records. and does not say how to go on"
    ):
        read(section(api.url, pagination=pagination))
    with pytest.raises(SourceFileError, match="there are 10 records, but gave 3"):
        read(section(api.url, pagination=pagination, total="meta.total"))


def test_a_link_to_a_next_page_is_not_passed_over(api: ApiServer) -> None:
    api.records, api.style = entries(10), "link"
    with pytest.raises(
        SourceFileError, match="links to a next page in its Link header, but pagination is kind: none"
    ):
        read(section(api.url))


@pytest.mark.parametrize(
    ("meta", "pagination", "sentence"),
    [
        ({"more": "maybe"}, {"kind": "page", "has_more": "more"}, "neither true nor false at more"),
        ({}, {"kind": "page", "has_more": "more"}, "neither true nor false at more"),
        ({"more": True}, {"kind": "cursor", "next": "next", "has_more": "more"}, "gives no cursor for it"),
        ({"more": True}, {"kind": "link", "next": "next", "has_more": "more"}, "gives no link to it"),
        ({"next": {}}, {"kind": "cursor", "next": "next"}, "holds an object at next, not a value"),
        ({"next": True}, {"kind": "cursor", "next": "next"}, "holds true at next, which is no cursor"),
        ({"next": False}, {"kind": "link", "next": "next"}, "holds false at next, which is no address"),
        ({}, {"kind": "cursor", "last_record": "seq"}, "last record without seq, which is the cursor"),
    ],
)
def test_answers_that_do_not_say_how_to_go_on(
    api: ApiServer, meta: dict[str, object], pagination: dict[str, object], sentence: str
) -> None:
    api.answer = lambda request: json_response({**meta, "data": {"entries": [{"id": 1}]}})
    with pytest.raises(SourceFileError, match=sentence):
        read(section(api.url, pagination=pagination))


def test_a_number_may_be_a_cursor(api: ApiServer) -> None:
    api.answer = lambda request: json_response(
        {"next": 7 if "cursor" not in request.query_params else None, "data": {"entries": []}}
    )
    read(section(api.url, pagination={"kind": "cursor", "next": "next"}))
    assert [one.params for one in api.asked] == [{}, {"cursor": "7"}]


# --- overlapping pages --------------------------------------------------------------------------------------------


def test_records_that_come_twice_stay_and_are_counted(api: ApiServer) -> None:
    """Something was inserted at the front while pages were read, and R2 was corrected meanwhile."""
    body = {"meta": {"total": 4}}
    api.answer = pages_of(
        {**body, "data": {"entries": [{"id": "R4"}, {"id": "R3"}]}},
        {**body, "data": {"entries": [{"id": "R3"}, {"id": "R2"}]}},
        {**body, "data": {"entries": [{"id": "R2", "amount": 5}, {"id": "R1"}]}},
        {**body, "data": {"entries": []}},
    )
    asked = section(api.url, key="id", total="meta.total", pagination={"kind": "page"})
    stream = ApiStream(asked, ["id", "amount"])
    pieces = list(stream.records())
    assert sum(piece.fields.num_rows for piece in pieces) == 6
    report = stream.report()
    assert report is not None
    assert (report["records"], report["repeated_records"], report["changed_records"]) == (6, 2, 1)
    with pytest.raises(
        SourceFileError, match="there are 4 records, but gave 6:"
    ):  # without a key, equal is not the same
        read(section(api.url, total="meta.total", pagination={"kind": "page"}))


def test_equal_records_on_one_page_are_two_records(api: ApiServer) -> None:
    api.style, api.records = "bare", ['{"amount": 5}', '{"amount": 5}']
    assert read(section(api.url, records=None, total_header="X-Total-Count"), "amount").num_rows == 2


# --- on its own ---------------------------------------------------------------------------------------------------


def test_several_threads_may_fetch_at_the_same_time(api: ApiServer) -> None:
    """As a nightly sync does, one day each."""
    api.records = entries(280)
    asked = section(api.url, pagination=PAGINATIONS["page"][1], key="id", total="meta.total")
    with ApiClient(asked) as client:
        pages = ApiPages(client, asked)

        def day(number: int) -> list[str]:
            window = {"from": f"2024-01-{number:02d}", "to": f"2024-01-{number + 1:02d}"}
            return [text for page in pages.fetch(window) for text in page.records.texts().to_pylist()]

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(day, range(1, 29)))
        assert sorted(text for one in found for text in one) == sorted(api.records)
        assert all(len(one) == 10 for one in found)
        assert day(7) == found[6]  # and again, as when a night's work is repeated
        assert pages.counts()["records"] == 290
        assert client.traffic()["requests"] == len(api.asked)


def test_lines_run_do_not_grow_with_the_records_of_a_page(api: ApiServer) -> None:
    measured = []
    api.style = "none"
    for count in (1_000, 4_000):
        api.records = entries(count)
        stream = ApiStream(section(api.url, key="id", total="meta.total"), ["id", "amount"])
        measured.append(lines_executed(lambda stream=stream: list(stream.records())))
        assert stream.report()["records"] == count
    assert_set_wise(*measured)


@pytest.mark.parametrize("window_bytes", [100, 2 << 20])
def test_however_many_records_and_however_they_are_laid_out_both_parsers_agree(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, window_bytes: int
) -> None:
    monkeypatch.setattr(pages_module, "WINDOW_BYTES", window_bytes)
    rows = [{"id": f'R{one}"],[{{\\', "amount": one, "more": [one, {"x": ","}]} for one in range(60)]
    rows.insert(30, {"id": [1], "amount": 1, "more": []})
    for indent in (None, 2):
        body = json.dumps({"data": {"entries": rows}}, indent=indent).replace("\n", "\r\n")
        api.answer = lambda request, body=body: Response(body, media_type="application/json")
        for few in (1, 10_000):
            monkeypatch.setattr(json_records, "FEW_LINES", few)
            table = read(section(api.url))
            assert table["id"].to_pylist() == [row["id"] if row["id"] != [1] else "" for row in rows]
            assert [json.loads(text) for text in table["raw"].to_pylist()] == rows
            assert table["code"].null_count == 60


# --- JSON lines ---------------------------------------------------------------------------------------------------


def lines_of(url: str, **keys: object) -> ApiSource:
    return section(url, format="jsonl", records=None, **keys)


@pytest.mark.parametrize("count", COUNTS)
def test_json_lines_are_read_page_by_page(api: ApiServer, count: int) -> None:
    api.style, api.records = "lines", entries(count)
    pagination = {"kind": "offset", "size_param": "size", "size": "3"}
    table = read(lines_of(api.url, pagination=pagination, total_header="X-Total-Count"))
    assert table["raw"].to_pylist() == api.records
    assert table["id"].to_pylist() == [f"R{one:04d}" for one in range(1, count + 1)]


def test_a_line_that_is_no_json_is_one_reject_unless_it_is_the_end_of_the_answer(api: ApiServer) -> None:
    lines = ['{"id": 1}', '{"id": ', '{"id": 3}']
    api.answer = lambda request: Response("\ufeff" + "\n".join(lines), media_type="application/x-ndjson")
    table = read(lines_of(api.url), "id")
    assert table["id"].to_pylist() == ["1", "", "3"]
    assert table["raw"].to_pylist() == [line.strip() for line in lines]
    assert "no JSON" in table["reason"][1].as_py()
    for last, sentence in (
        ('{"id": 3', "lines of which the last is broken"),
        ("é".encode()[:1], "ends within a char"),
    ):
        body = "\n".join(lines[:2]).encode() + b"\n" + (last if isinstance(last, bytes) else last.encode())
        api.answer = lambda request, body=body: Response(body)
        with pytest.raises(TransientSourceError, match=sentence):
            read(lines_of(api.url), "id")
    api.answer = lambda request: Response(b'{"id": "\0"}\n')
    with pytest.raises(SourceFileError, match="NUL byte in its lines"):
        read(lines_of(api.url), "id")
    api.answer = lambda request: Response(b"\n \n")
    assert read(lines_of(api.url), "id").num_rows == 0
