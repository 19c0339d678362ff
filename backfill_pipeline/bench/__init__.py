"""Benchmark: this product against the limit of its own server, on this machine, in one run.

Belongs here: contenders, rounds, ratios and the report. Absolute figures move from machine to machine; ratios count.
Does not: anything that a backfill needs.
"""
