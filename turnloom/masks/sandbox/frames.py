"""The frames between the server and its template workers: JSON, with views as plain data.

JSON both ways: a worker runs untrusted templates, so nothing it sends may be more than data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

from turnloom.masks.domain import errors
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.options import GenerationPrefill, Mask, NextHeaderStop, OnUnextendable, Options, TrainOn
from turnloom.masks.domain.rendered_text import Kind, MessageSpan, Origin, Part, RenderedText, View

#: A frame is its length in bytes (4, little-endian) and that many bytes of JSON.
HEADER: Final = struct.Struct("<I")


def frame(value: Mapping[str, Any]) -> bytes:
    """Encode one frame."""
    body = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
    return HEADER.pack(len(body)) + body


def options_data(options: Options) -> dict[str, Any]:
    """Return the options that laying out reads, as data."""
    return {
        "train_on": options.train_on.value,
        "on_unextendable": options.on_unextendable.value,
        "max_examples_per_conversation": options.max_examples_per_conversation,
        "generation_prefill": options.generation_prefill.value,
        "mask": options.mask.value,
        "chat_template_kwargs": dict(options.chat_template_kwargs),
        "date": options.date,
        "next_header_stop": options.next_header_stop.value,
        "ensure_final_stop": options.ensure_final_stop,
        "normalize_messages": options.normalize_messages,
    }


def options_from(data: Mapping[str, Any]) -> Options:
    """Read options from data; the inverse of `options_data`."""
    return Options(
        train_on=TrainOn(data["train_on"]),
        on_unextendable=OnUnextendable(data["on_unextendable"]),
        max_examples_per_conversation=data["max_examples_per_conversation"],
        generation_prefill=GenerationPrefill(data["generation_prefill"]),
        mask=Mask(data["mask"]),
        chat_template_kwargs=data["chat_template_kwargs"],
        date=data["date"],
        next_header_stop=NextHeaderStop(data["next_header_stop"]),
        ensure_final_stop=data["ensure_final_stop"],
        normalize_messages=data["normalize_messages"],
    )


def view_data(view: View) -> dict[str, Any]:
    """Return a view as lists and numbers."""
    return {
        "text": view.rendered.text,
        "runs": [[n, None] if o is None else [n, o.message_index, o.field] for n, o in view.rendered.runs],
        "blocks": list(view.rendered.generation_blocks),
        "regions": [
            span._asdict() | {"parts": [[part.start, part.end, part.kind.value] for part in span.parts]}
            for span in view.message_spans
        ],
        "trained": sorted(view.trained),
        "messages": view.messages,
        "warnings": list(view.warnings),
        "boundaries": list(view.boundaries),
        "final_stop": view.final_stop,
    }


def view_from(data: Mapping[str, Any]) -> View:
    """Read a view from data; the inverse of `view_data`."""
    runs = tuple((run[0], None if run[1] is None else Origin(run[1], run[2])) for run in data["runs"])
    blocks = tuple((start, end) for start, end in data["blocks"])
    message_spans = tuple(
        MessageSpan(
            **{
                **span,
                "parts": tuple(Part(start, end, Kind(kind)) for start, end, kind in span["parts"]),
            }
        )
        for span in data["regions"]
    )
    return View(
        RenderedText(data["text"], runs, blocks),
        message_spans,
        frozenset(data["trained"]),
        data["messages"],
        tuple(data["warnings"]),
        tuple(data["boundaries"]),
        str(data["final_stop"]),
    )


def error_data(error: PreprocessError) -> dict[str, Any]:
    """Return an error of the tree as data."""
    return {
        "class": type(error).__name__,
        "sentence": error.message,
        "message_index": error.message_index,
        "field": error.field,
    }


def error_from(data: Mapping[str, Any]) -> PreprocessError:
    """Read an error from data, inverting `error_data`; a class outside the tree becomes the tree's root."""
    found = getattr(errors, str(data["class"]), PreprocessError)
    kind = found if isinstance(found, type) and issubclass(found, PreprocessError) else PreprocessError
    error = kind.__new__(kind)
    Exception.__init__(error, data["sentence"])
    error.message, error.message_index, error.field = data["sentence"], data["message_index"], data["field"]
    return error
