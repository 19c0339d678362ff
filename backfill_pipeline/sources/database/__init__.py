"""Databases: one snapshot, read in pages by key."""
