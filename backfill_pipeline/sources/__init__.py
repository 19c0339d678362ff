"""Sources: reading, one module per kind of source behind one protocol."""
