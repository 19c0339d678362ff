"""The ledger on PostgreSQL: all SQL of the product lives here.

Belongs here: the schema (`migrations/`), posting, checkpoints, rejects, constraints, and the queries behind audit,
status and reconciliation.
Does not: reading sources, mapping, validation, files, or what a partition means to an orchestrator.
"""
