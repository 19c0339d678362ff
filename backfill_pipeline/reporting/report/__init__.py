"""The report of a source, of a bank or of one of its days: one HTML file that needs nothing else to be read."""
