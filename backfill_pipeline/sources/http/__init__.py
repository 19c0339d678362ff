"""HTTP APIs as sources.

Belongs here: asking an API page by page (`pages.py`, also for others that need all pages of one question), and the
record stream that captures everything (`stream.py`).
Does not: what a definition may say (`definition/api.py`), what columns mean (`mapping/`).
"""
