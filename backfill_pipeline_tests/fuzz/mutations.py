"""Making bad bytes of good ones.

Belongs here: the mutations, as a hypothesis strategy.
Does not: what must hold of the result (`targets.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

_EVERYWHERE = (b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\\", b"-", b"0", b"9" * 40, b"1e9", b"NaN", "é".encode(), "\u2028".encode(), "\U0001f4b6".encode(), b"'" * 3)  # fmt: skip


def mutated(seeds: Sequence[bytes], words: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Good files with up to eight things wrong, and now and then bytes that were never a file."""
    places = st.floats(0, 1)
    piece = st.one_of(st.sampled_from([*words, *_EVERYWHERE]), st.binary(max_size=6))
    step = st.one_of(
        st.tuples(st.just("insert"), places, piece),
        st.tuples(st.just("replace"), places, piece),
        st.tuples(st.just("cut"), places, st.integers(1, 40)),
        st.tuples(st.just("repeat"), places, st.integers(1, 200)),
        st.tuples(st.just("end"), places, st.just(0)),
        st.tuples(st.just("flip"), places, st.integers(0, 7)),
    )
    changed = st.builds(_changed, st.sampled_from(seeds), st.lists(step, max_size=8), st.booleans())
    return st.one_of(changed, changed, changed, st.binary(max_size=80))


def _changed(data: bytes, steps: Sequence[tuple[str, float, bytes | int]], behind: bool) -> bytes:
    """Takes the steps; `behind` the first line only, because a damaged header ends everything."""
    kept = data[: data.find(b"\n") + 1] if behind else b""
    data = data[len(kept) :]
    for kind, fraction, what in steps:
        at = int(fraction * len(data))
        before, after = data[:at], data[at:]
        if isinstance(what, bytes):
            data = before + what + (after if kind == "insert" else after[len(what) :])
        elif kind == "cut":
            data = before + after[what:]
        elif kind == "repeat":
            data = before + after[:what] + after
        elif kind == "end":
            data = before
        elif after:
            data = before + bytes([after[0] ^ (1 << what)]) + after[1:]
    return kept + data
