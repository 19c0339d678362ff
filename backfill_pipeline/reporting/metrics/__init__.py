"""Metrics for a monitoring system, in the OpenMetrics format.

Belongs here: how they are named, written, cached and served.
Does not: asking the ledger (`ledger/monitoring/`).
"""
