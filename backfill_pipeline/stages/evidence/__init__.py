"""The evidence pack: one folder of all that shows what a backfill did.

Belongs here: making, signing and checking it.
Does not: SQL (`ledger/evidence.py`).
"""
