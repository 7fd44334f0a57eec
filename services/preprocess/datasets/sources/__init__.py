"""Datasets from named sources: found, cut into shards, read, selected, made and put together by the CPU worker."""
