"""Sources whose rows belong together: rows of a transaction side by side, never parted."""
