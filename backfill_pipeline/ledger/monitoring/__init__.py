"""What a monitoring system, or somebody who watches, asks of the ledger, every few seconds and for years.

Belongs here: read-only queries over whole tables, each made once for all sources, and looks that make several of them.
Does not: figures of one source (`ledger/figures.py`, `ledger/status.py`), how metrics are named and written
(`reporting/metrics/`), how it is shown (`cli/show.py`, `cli/watch_screen.py`).
"""
