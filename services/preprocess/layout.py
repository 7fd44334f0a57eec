"""From a conversation to views: rendered text, regions, kinds, and which turns each view trains. Knows no tokenizer.

This is the one door of the mask engine's rendering half; `sandbox.Sandbox.lay_out` is the same for templates sent by
clients.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from services.preprocess.conversation import Conversation
from services.preprocess.options import Options
from services.preprocess.rendered import View
from services.preprocess.templates import CompiledTemplate


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a model reads chats: its template, and the tokenizer's tokens as far as text goes."""

    template: CompiledTemplate
    special_tokens: Mapping[str, str]  #: bos_token, eos_token, ...: the variables a template gets
    control_tokens: Mapping[str, bool]  #: every added token's text -> whether the tokenizer calls it special
