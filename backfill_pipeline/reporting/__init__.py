"""What is shown of a backfill besides Dagster's own pages: plots, the report page, metrics, alerts."""
