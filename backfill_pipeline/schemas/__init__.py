"""Schemas: the frames between the stages, the checks that entries must pass, and the codes of those that do not."""
