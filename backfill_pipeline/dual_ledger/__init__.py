"""Dual ledgers: keeping a ledger in step with a Sovereign Central Bank that keeps it too.

Belongs here: fetching a bank's days, proving them complete, telling the bank, comparing both ledgers.
Does not: what happens to the entries of a day (`stages/`), SQL (`ledger/`), Dagster (`orchestration/`).
"""
