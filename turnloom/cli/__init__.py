"""The `turnloom` command line."""

from turnloom.cli.app import main

__all__ = ["main"]
