"""Occurrence numbers of repaired rows whose references are generated from their content.

Belongs here: which occurrence a repaired row is of its content.
Does not: hashing and the text of a reference (`mapping/references.py`).

A row whose identifying columns are as they were keeps its own number. Any other row is a booking beside those that the
source already has with that content: it gets the next number, so that two equal payments stay two.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.fields import GeneratedReferenceRule
from backfill_pipeline.ledger import replays
from backfill_pipeline.mapping.references import (
    content_hashes,
    read_occurrences,
    render_references,
    spread_occurrences,
)
from backfill_pipeline.schemas.extracted import ERROR_CODE
from backfill_pipeline.stages.manifest import survey_occurrences
from backfill_pipeline.stages.prepare import PartitionFrames
from backfill_pipeline.stages.work import SourceWork

_Contents = npt.NDArray[np.void]
_CONTENT = np.dtype([("high", np.uint64), ("low", np.uint64)])


def occurrences_of(work: SourceWork, states: pa.Table, originals: pa.Table, cells: pa.Table) -> pa.Array:
    """The occurrence of each repaired row, int64; 0 throughout when the source has references of its own.

    Args:
        work: the source.
        states: `replays.STATE_SCHEMA`, in source order.
        originals: the source's cells of these rows, null where the record was malformed.
        cells: the repaired cells.
    """
    rule = work.definition.fields.reference_id
    if not isinstance(rule, GeneratedReferenceRule) or not states.num_rows:
        return pa.array(np.zeros(states.num_rows, dtype=np.int64))
    repaired = _contents(cells, rule.columns)
    well_formed = np.asarray(originals.column(0).is_valid())
    own = well_formed & (_contents(originals, rule.columns) == repaired)
    found = _own_occurrences(work, states)
    if not own.all():
        found[~own] = _next_occurrences(work, repaired[~own], rule.columns)
    return pa.array(found)


def _own_occurrences(work: SourceWork, states: pa.Table) -> npt.NDArray[np.int64]:
    """What the survey of the source found for these rows."""
    if not work.intermediates.occurrences.exists():
        survey_occurrences(work.definition, work.places, work.registration.mapping_sha256)
    rows = states.column("source_row").to_numpy()
    first, last = int(rows[0]), int(rows[-1])
    return spread_occurrences(read_occurrences(work.intermediates.occurrences, first, last - first + 1), rows)


def _next_occurrences(
    work: SourceWork, contents: _Contents, columns: tuple[str, ...] | None
) -> npt.NDArray[np.int64]:
    """Numbers behind those of the source and of earlier replays; equal contents follow one another."""
    distinct, inverse = np.unique(contents, return_inverse=True)
    counts = _counts_in_source(work, distinct, columns)
    before = np.array([counts[one] for one in distinct.tolist()], dtype=np.int64)
    nothing = np.zeros(len(distinct), dtype=np.int64)
    texts = render_references(work.definition.id, (distinct["high"], distinct["low"]), nothing).to_pylist()
    with work.connect() as connection:
        last = replays.last_occurrences(connection, work.registration.id, [text[:-2] for text in texts])
    before = np.maximum(before, np.array([last.get(text[:-2], -1) + 1 for text in texts], dtype=np.int64))
    order = np.argsort(inverse, kind="stable")
    groups = inverse[order]
    place = np.arange(len(order))
    begins = np.concatenate([[True], groups[1:] != groups[:-1]])
    rank = place - np.maximum.accumulate(np.where(begins, place, 0))
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = before[groups] + rank
    return numbers


def _counts_in_source(
    work: SourceWork, wanted: _Contents, columns: tuple[str, ...] | None
) -> Counter[tuple[int, int]]:
    """How many records of the source have these contents; the source is gone through once."""
    counts: Counter[tuple[int, int]] = Counter()
    for partition in work.registration.partitions:
        extracted = PartitionFrames(work, partition.key, ()).extracted()
        contents = _contents(extracted.filter(pc.is_null(extracted.column(ERROR_CODE))), columns)
        hits = contents[np.isin(contents["high"], wanted["high"])]
        counts.update(hits.tolist())
    return counts


def _contents(table: pa.Table, columns: tuple[str, ...] | None) -> _Contents:
    contents = np.empty(table.num_rows, dtype=_CONTENT)
    contents["high"], contents["low"] = content_hashes(table, columns)
    return contents
