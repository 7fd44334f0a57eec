"""Turnloom's client library: chat conversations into token-exact batches, and LoRA adapters trained with them."""

from turnloom.batches import Batch, Row
from turnloom.calls import Tls
from turnloom.client import Preprocessed, TurnloomClient
from turnloom.conversations import read
from turnloom.errors import TurnloomError

__all__ = ["Batch", "Preprocessed", "Row", "Tls", "TurnloomClient", "TurnloomError", "read"]
