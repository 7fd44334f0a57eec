"""Symbols on which the body of a loop runs while it is recorded; they note each question with its answer."""
