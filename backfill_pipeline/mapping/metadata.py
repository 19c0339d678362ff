"""Metadata: columns as the text of one JSON object per row.

Belongs here: JSON escaping, vectorised.
Does not: which columns (`definition/models.py`).
"""

import json
from collections.abc import Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.schemas.row_errors import bytes_held

_TO_ESCAPE: Final = r'[\x00-\x1f"\\]'
_SHORT: Final = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# The backslash comes first: the escapes of the others hold one.
_ESCAPES: Final = {
    "\\": "\\\\",
    '"': '\\"',
    **{chr(code): _SHORT.get(chr(code), f"\\u{code:04x}") for code in range(0x20)},
}


def json_objects(columns: Mapping[str, pa.Array], row_count: int) -> pa.Array:
    """One JSON object per row, as text, in the very form in which PostgreSQL's jsonb gives it back.

    That form orders keys by length, then by bytes, and puts a space after colon and comma. So reconciliation can
    compare texts, and only parses those that differ.

    Args:
        columns: JSON key → string values; empty and null ones are left out.
        row_count: length of each.

    Returns:
        String array; null where no value is left.
    """
    ordered = sorted(columns, key=lambda key: (len(key.encode()), key.encode()))
    members = [_members(key, columns[key]) for key in ordered]
    if not members:
        return pa.nulls(row_count, pa.string())
    # Not null_handling="skip": Arrow 26 drops rows in which all are null, instead of giving an empty text.
    inner = pc.binary_join_element_wise(*(pc.fill_null(member, "") for member in members), "")
    inner = pc.ascii_ltrim(inner, ", ")  # what stands before the first member; the next character is a quote
    inner = pc.if_else(pc.equal(inner, ""), pa.scalar(None, pa.string()), inner)
    return pc.binary_join_element_wise("{", inner, "}", "")


def _members(key: str, values: pa.Array) -> pa.Array:
    """`, "key": "value"` per row, null where there is no value."""
    name = json.dumps(key, ensure_ascii=False)
    values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    if held := bytes_held(values, "".join(_ESCAPES).encode()):
        special = pc.fill_null(pc.match_substring_regex(values, _TO_ESCAPE), False)
        values = pc.replace_with_mask(values, special, _escaped(values.filter(special), held.decode()))
    return pc.binary_join_element_wise(f', {name}: "', values, '"', "")


def _escaped(values: pa.Array, held: str) -> pa.Array:
    """The values with the characters of `held`, which come in the order of _ESCAPES, as JSON writes them."""
    for character in held:
        values = pc.replace_substring(values, character, _ESCAPES[character])
    return values
