"""Orchestration: everything that imports Dagster. Thin on purpose: an asset is a few lines that call the core.

Belongs here: assets, checks, partitions, resources, run configuration, launching.
Does not: reading, mapping, validating, posting or comparing anything.
"""
