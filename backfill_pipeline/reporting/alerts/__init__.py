"""Alerts: what people are told without asking, by webhook, Slack and mail."""
