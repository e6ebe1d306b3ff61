"""Namespaces, the data directory and what it knows about its objects."""
