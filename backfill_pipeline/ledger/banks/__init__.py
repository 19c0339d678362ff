"""Ledgers that a central bank keeps too: what it has to hear, its days, and both sides compared.

Belongs here: every statement on the outbox, its deliveries and the status of days.
Does not: talking to banks (`dual_ledger/`).
"""
