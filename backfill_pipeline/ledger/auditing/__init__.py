"""The audit of the whole ledger: its checks, by what they look at.

Belongs here: read-only checks and their findings.
Does not: the audit log (`ledger/audit_log.py`), fixing anything.
"""
