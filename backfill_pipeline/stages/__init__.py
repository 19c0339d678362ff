"""The stages of a backfill, composed from sources, mapping, schemas and the ledger.

Belongs here: what happens to a partition from its bytes to its posted entries, the manifest before and the
reconciliation after; everything that an orchestrator calls.
Does not: any orchestrator, any SQL, any user interface.
"""
