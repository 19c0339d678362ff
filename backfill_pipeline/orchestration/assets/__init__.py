"""Assets of a source: manifest → extracted → transformed → validated → posted, then constraints and reconciliation."""
