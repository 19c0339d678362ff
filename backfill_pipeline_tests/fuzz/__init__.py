"""Fuzzing: hostile files and definitions, with the real readers, mapping and ledger."""
