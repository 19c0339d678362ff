"""Benchmark: this product against the limits of its own server and against rivals, on this machine, in one run.

Belongs here: workloads, contenders, rounds, targets and the report. Absolute figures move from machine to machine;
ratios count.
Does not: anything that a backfill needs.
"""
