"""Ledger backfill: moves ledger history into a core banking ledger on PostgreSQL, and proves that it did."""
