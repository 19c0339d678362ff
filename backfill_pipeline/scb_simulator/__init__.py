"""A simulated Sovereign Central Bank (SCB): the counterpart of a sync between two ledgers, over HTTP.

Belongs here: the bank's ledgers, made up but the same on every machine; what it is told; its API; faults on demand.
Does not: anything of the pipeline. It knows the pipeline only as whoever calls its API.

From the inside out: `options`, `calendar`, `dice`, `ledger` and `totals` are pure; `store` and what builds on it
(`changes`, `told`, `fault_switches`, `tokens`) keep state in SQLite; `book` is a ledger as it stands now; `web` speaks
HTTP; `server` runs it. Nothing of `web` or `server` is imported before a simulator starts.
"""
