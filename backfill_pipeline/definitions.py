"""What Dagster loads: `defs`, and nothing else."""

from backfill_pipeline.build import build_defs

defs = build_defs()
