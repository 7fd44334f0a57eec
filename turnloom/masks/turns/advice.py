"""Find ways out of a refusal, each tried before it is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.options import OnUnextendable, Options, TrainOn
from turnloom.masks.template.compiled import CompiledTemplate
from turnloom.masks.template.prompts import VARIANTS
from turnloom.masks.template.render import Settings

#: The end of a sentence, which an ellipsis is not.
_FULL_STOP: Final = re.compile(r"(?<!\.)\.$")


def way_out(
    template: CompiledTemplate, options: Options, settings: Settings, works: Callable[[Options, Settings], bool]
) -> str:
    """Return what would cure a refusal: a template variable or another on_unextendable; "" where nothing does.

    Args:
        template: that refused, or could not be followed.
        options: under which it did.
        settings: under which it did.
        works: whether the conversation is rendered under others.
    """
    for variant in VARIANTS:
        ((name, value),) = variant.items()
        if name not in template.variables or settings.kwargs.get(name) == value:
            continue
        if works(options, replace(settings, kwargs={**settings.kwargs, name: value})):
            return f"with chat_template_kwargs {json.dumps(variant)} the template renders it"
    as_rendered = options.on_unextendable is OnUnextendable.AS_RENDERED and options.train_on is not TrainOn.ALL_TOKENS
    for choice in (OnUnextendable.SPLIT, OnUnextendable.LAST) if as_rendered else ():
        if works(replace(options, on_unextendable=choice), settings):
            return f"use on_unextendable {choice.value}"
    return ""


def with_advice(error: PreprocessError, advice: str) -> PreprocessError:
    """Return the same refusal with a way out, if there is one."""
    if not advice:
        return error
    told = type(error)(advised(error.message, advice), field=error.field)
    told.message_index = error.message_index
    return told


def advised(sentence: str, advice: str) -> str:
    """Return a sentence, which may be a template's own, with what to do behind it."""
    return f"{_FULL_STOP.sub('', sentence)}; {advice}"
