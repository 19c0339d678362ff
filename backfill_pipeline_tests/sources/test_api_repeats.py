"""Repeats are counted exactly, in whatever portions records come."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipeline.sources.http.repeats import RepeatCount, Repeats

RECORD = st.tuples(st.sampled_from(["", "a", "b", "c", "ä"]), st.sampled_from(["x", "y"]))


@given(portions=st.lists(st.lists(RECORD, max_size=6), max_size=5))
def test_repeats_are_those_of_a_dictionary(portions: list[list[tuple[str, str]]]) -> None:
    repeats = Repeats()
    first: dict[str, str] = {}
    identical = differing = 0
    for portion in portions:
        repeats.add(
            pa.array([key for key, _ in portion], pa.string()),
            pa.array([text for _, text in portion], pa.string()),
        )
        for key, text in portion:
            if key and key in first:
                identical += text == first[key]
                differing += text != first[key]
            elif key:
                first[key] = text
    assert repeats.count() == RepeatCount(identical, differing)
