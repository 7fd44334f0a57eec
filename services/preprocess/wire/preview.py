"""The preview of one conversation, on the wire."""

from __future__ import annotations

from turnloom.masks.inspect.preview import Preview, PreviewExample
from turnloom.v1 import preprocess_pb2 as pb


def preview_response(shown: Preview, date: str) -> pb.PreviewConversationResponse:
    """Return the whole answer."""
    return pb.PreviewConversationResponse(
        examples=[_example(example) for example in shown.examples],
        warnings=shown.warnings,
        date=date,
        unchecked_examples=shown.unchecked,
    )


def _example(example: PreviewExample) -> pb.PreviewExample:
    return pb.PreviewExample(
        rendered_text=example.rendered_text,
        tokens=[
            pb.PreviewToken(
                id=token.id,
                text=token.text,
                weight=token.weight,
                message_index=token.message_index,
                role=token.role,
                kind=token.kind,
            )
            for token in example.tokens
        ],
        escaped=[
            pb.EscapedControlToken(message_index=span.message_index, offset=span.offset, text=span.text)
            for span in example.escaped
        ],
        truncated_tokens=example.truncated_tokens,
        truncated_loss_tokens=example.truncated_loss_tokens,
        part=example.part,
    )
