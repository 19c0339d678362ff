"""`python -m backfill_pipeline.cli`, the same as `backfill`."""

from backfill_pipeline.cli import main

main()
