"""Files whose bytes can be read again in parts: text of records, JSON lines, Parquet; plain or compressed."""
