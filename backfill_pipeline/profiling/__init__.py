"""Profiling: what an unknown file holds, and a first draft of its source definition.

Belongs here: guesses with their evidence, from a bounded sample; what cannot be known is said, never chosen silently.
Does not: reading a source for a backfill (`sources/`), mapping it (`mapping/`), showing a profile (`cli/`).
"""
