"""Datasets from named sources: the CPU worker finds, shards, reads, selects, converts and merges them."""
