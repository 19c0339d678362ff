"""Dagster's side of alerts: sensors, what runs say, and where the postbox is kept."""
