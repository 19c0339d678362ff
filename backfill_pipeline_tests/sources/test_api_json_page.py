"""The body of an answer is read as JSON from its first to its last byte, or not at all."""

from __future__ import annotations

import json
from contextlib import suppress

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.sources.http.addresses import next_link
from backfill_pipeline.sources.http.failures import AnswerError, BrokenAnswerError
from backfill_pipeline.sources.http.json_page import JsonPage

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(['"', "\\", "],[", "},{", '\\"', "data", "\U0001d11e"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "entries", 'a"]', "b"]), inner)
    ),
    max_leaves=10,
)
LAYOUT = st.sampled_from(
    [{}, {"indent": 2}, {"indent": "\t"}, {"separators": (",", ":")}, {"ensure_ascii": False}]
)


def written(value: object, layout: dict[str, object]) -> bytes:
    return json.dumps(value, **layout).encode(errors="replace")


@settings(max_examples=300, deadline=None)
@given(
    records=st.lists(VALUES, max_size=6), beside=VALUES, cursor=st.none() | st.text(max_size=5), layout=LAYOUT
)
def test_records_and_values_are_those_of_a_parser(
    records: list[object], beside: object, cursor: str | None, layout: dict[str, object]
) -> None:
    body = written({"x": beside, "data": {"a": beside, "entries": records, "b": []}, "next": cursor}, layout)
    expected = json.loads(body)
    page = JsonPage(body, "data.entries", ["next", "gone.away"])
    texts = page.records.texts().to_pylist()
    assert [json.loads(text) for text in texts] == expected["data"]["entries"]
    assert all(text == text.strip() for text in texts)
    assert page.value("next") == expected["next"]
    assert (page.has("next"), page.has("gone.away"), page.value("gone.away")) == (True, False, None)
    if records:
        assert json.loads(page.records.last()) == expected["data"]["entries"][-1]
    alone = JsonPage(written(records, layout), "")
    assert [json.loads(text) for text in alone.records.texts().to_pylist()] == json.loads(
        written(records, layout)
    )


@settings(max_examples=200, deadline=None)
@given(records=st.lists(VALUES, min_size=1, max_size=4), layout=LAYOUT, data=st.data())
def test_a_body_that_is_cut_short_anywhere_is_never_a_page(
    records: list[object], layout: dict[str, object], data: st.DataObject
) -> None:
    body = written({"data": records, "next": None}, layout)
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.raises(BrokenAnswerError):
        JsonPage(cut, "data", ["next"])


@settings(max_examples=300, deadline=None)
@given(records=st.lists(VALUES, max_size=3), noise=st.binary(max_size=4), data=st.data())
def test_whatever_is_sent_is_a_page_or_one_sentence(
    records: list[object], noise: bytes, data: st.DataObject
) -> None:
    body = written({"data": {"entries": records}, "next": "x"}, {})
    first = data.draw(st.integers(0, len(body)))
    last = data.draw(st.integers(first, min(len(body), first + 4)))
    try:
        page = JsonPage(body[:first] + noise + body[last:], "data.entries", ["next"])
        page.records.texts().validate(full=True)
        page.value("next")
    except (AnswerError, BrokenAnswerError) as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("header", "link"),
    [
        ("", None),
        ('<https://x/a?b=1,2;c>; rel="next"', "https://x/a?b=1,2;c"),
        ("</a>; rel=next", "/a"),
        ('</a>; title="x, <y>; rel=prev"; REL="last NEXT"', "/a"),
        ('</a>; rel="prev", </b>;rel="next";x=y', "/b"),
        ('</a>; rel="prev"; rel="next"', None),
        ('</a>; rel="nextish"', None),
        ("</a>; rel=next, </a>; rel=next", "/a"),
        ("a; rel=next", None),
        ("<", None),
        ('</a>; rel="next', "/a"),
    ],
)
def test_link_headers_are_read_as_rfc_8288_says(header: str, link: str | None) -> None:
    assert next_link(httpx.Headers({"Link": header})) == link


def test_two_different_next_links_are_refused() -> None:
    with pytest.raises(AnswerError, match="two links"):
        next_link(httpx.Headers([("Link", "</a>; rel=next"), ("Link", "</b>; rel=next")]))


@given(st.text(st.sampled_from('<>;,"= relnxt/')))
def test_any_link_header_is_understood_or_not_but_never_fails(header: str) -> None:
    with suppress(AnswerError):
        next_link(httpx.Headers({"Link": header}))
