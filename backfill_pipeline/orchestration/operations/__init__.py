"""Operations on a ledger as jobs: a module each, thin around the core's; what a person decides is run config.

Belongs here: typed config, the job, and what is shown of the outcome.
Does not: deciding, checking or doing anything that the command does not do alike.
"""
