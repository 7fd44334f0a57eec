"""Errors that the accelerated model raises instead of a result."""

from __future__ import annotations


class UnknownToken(ValueError):
    """A request held a token that the model does not have; the message names it."""


class Odd(Exception):
    """This request or adapter is for TuFT's own code; the message completes "served by stock TuFT because of ..."."""
