"""Source definitions: what a user writes about a source, in one YAML file.

Belongs here: the models of every key, reading YAML into them with errors for people, finding source files, and what
identifies a mapping.
Does not: what the rules do to rows (`mapping/`), reading sources (`sources/`).
"""
