"""What a single machine needs to run the product alone: an embedded PostgreSQL, and made-up exports."""
