import json

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.mapping.metadata import json_objects

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(
    '"\\\n\r\t\b\f\x01\x1f\x7fé\u2028a', max_size=8
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=4, unique=True).flatmap(
        lambda keys: st.tuples(
            st.just(keys), st.lists(st.tuples(*(TEXT | st.none() for _ in keys)), min_size=1, max_size=10)
        )
    )
)
def test_any_text_comes_back_from_json(case: tuple[list[str], list[tuple[str | None, ...]]]) -> None:
    keys, rows = case
    columns = {key: pa.array([row[place] for row in rows], pa.string()) for place, key in enumerate(keys)}
    objects = json_objects(columns, len(rows)).to_pylist()
    for row, text in zip(rows, objects, strict=True):
        filled = {key: value for key, value in zip(keys, row, strict=True) if value}
        assert (None if text is None else json.loads(text)) == (filled or None)


def test_without_columns_there_is_no_object() -> None:
    assert json_objects({}, 2).to_pylist() == [None, None]


def test_objects_are_written_as_jsonb_gives_them_back(connection: Connection) -> None:
    """Reconciliation compares texts first; were the forms different, it would parse every object of every entry."""
    values = [
        "plain",
        'quo"te',
        "back\\slash",
        "line\nbreak\ttab\r\b\f",
        "\x01\x1f\x7f",
        "é€𝄞\u2028",
        "/",
        "'",
    ]
    columns = {
        key: pa.array([*values[shift:], *values[:shift]], pa.string())
        for shift, key in enumerate(["b", "aa", "a", "é", "Z", "ab", 'k"', "a\\"])
    }
    texts = json_objects(columns, len(values)).to_pylist()
    given_back = connection.execute(
        "SELECT text::jsonb::text FROM unnest(%s::text[]) WITH ORDINALITY AS t (text, n) ORDER BY n", [texts]
    ).fetchall()
    assert [text for (text,) in given_back] == texts
