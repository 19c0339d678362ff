"""Mapping: what a source definition says, and the vectorised transform that it is compiled into."""
