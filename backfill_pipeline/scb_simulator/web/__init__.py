"""The bank's HTTP API, as an ASGI application on Starlette.

Belongs here: operations (`reading.py`, `telling.py`, `admin.py`, `about.py`), what they have in common (`calls.py`,
`guard.py`, `cursors.py`), the application (`app.py`), the answers that faults give (`spoilt.py`).
Does not: what any of it means (the modules around this package).
"""
