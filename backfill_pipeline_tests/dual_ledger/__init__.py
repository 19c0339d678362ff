"""Dual ledgers, against the simulated bank over real HTTP and a real PostgreSQL."""
