"""Trace renders once with symbols for strings, then replay them under guards for conversations of the same shape."""
