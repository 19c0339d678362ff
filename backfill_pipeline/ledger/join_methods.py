"""How the statements of a batch join.

The planner knows nothing about rows that were just copied, and a wrong guess reads the whole ledger for a batch, or a
batch once per row. So each statement is told how to join, and is linear in the batch whatever the planner thinks.

Belongs here: the settings, each good until the next one or the end of the transaction.
Does not: the statements.
"""

from __future__ import annotations

from typing import Final

JOIN_BY_KEY: Final = """
SET LOCAL enable_nestloop = on;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_memoize = off;
"""
JOIN_BY_HASH: Final = """
SET LOCAL enable_nestloop = off;
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_memoize = off;
"""
JOIN_AS_USUAL: Final = """
SET LOCAL enable_nestloop TO DEFAULT;
SET LOCAL enable_hashjoin TO DEFAULT;
SET LOCAL enable_mergejoin TO DEFAULT;
SET LOCAL enable_memoize TO DEFAULT;
"""
