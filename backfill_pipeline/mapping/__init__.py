"""Mapping: a source definition compiled into vectorised operations that turn records into ledger entries.

Belongs here: the transform and its parts (amounts, times, accounts, references, metadata).
Does not: what a definition may say (`definition/`), judging the entries (`schemas/`).
"""
