"""Say what to write instead of parts of content that other APIs have and chat templates have not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Type of a part, at Anthropic or in OpenAI's Responses API -> what to do, the rest of a sentence.
ADVICE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("thinking", "reasoning"), "write its text as reasoning_content of the message"),
    "redacted_thinking": "remove it: nobody can read it",
    **dict.fromkeys(("tool_use", "function_call"), "write it as a member of the message's tool_calls"),
    **dict.fromkeys(("tool_result", "function_call_output"), "write it as a message of its own, with the role tool"),
    **dict.fromkeys(("input_text", "output_text"), "write the type text"),
    "refusal": "write its text as a part of type text, or leave the conversation out",
}
