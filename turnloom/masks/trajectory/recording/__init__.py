"""Recordings: bodies of loops run on symbols, which note each question with its answer."""
