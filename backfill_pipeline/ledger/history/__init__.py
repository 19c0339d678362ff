"""The past of an account: statements, and balances that a source states against those of the ledger.

Belongs here: read-only queries about balances over time.
Does not: balances as they are now (`ledger/balances.py`).
"""
