"""What a monitoring system asks of the ledger, every few seconds and for years.

Belongs here: read-only queries over whole tables, each made once for all sources, and a snapshot of them all.
Does not: figures of one source (`ledger/figures.py`, `ledger/status.py`), how metrics are named and written
(`reporting/metrics/`).
"""
