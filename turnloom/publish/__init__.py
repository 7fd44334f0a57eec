"""Bring a trained adapter to where it is used: a running vLLM, or a hub."""
