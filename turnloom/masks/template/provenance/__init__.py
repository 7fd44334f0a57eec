"""Strings that know which message every character came from, and what Jinja needs to keep that true."""
