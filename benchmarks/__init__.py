"""Benchmarks: ratios of ``durable_storage`` to its peers, measured in one run."""
