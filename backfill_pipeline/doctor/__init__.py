"""The doctor: what is wrong around the product, told before it costs a night.

Belongs here: checks of the machine, the environment, the ledger's server and leftovers; each ends in a finding.
Does not: SQL against the ledger (`ledger/health.py`), Dagster's records (`orchestration/leftovers.py`), printing
(`cli/doctor.py`), mending anything: a check looks and changes nothing.
"""
