"""Render conversations message by message from recorded bodies of a template's loops, checked against `turns`."""
