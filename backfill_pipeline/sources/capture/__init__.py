"""Sources that can only be read as a whole: captured once, chunks read from the capture."""
