"""A worker process that lays out conversations with templates sent by clients, under limits.

Started by `sandbox.pool.Sandbox`: reads request frames from stdin, writes one answer frame each to stdout.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any, BinaryIO, Final

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError, TemplateLimit
from turnloom.masks.sandbox.frames import HEADER, error_data, frame, options_from, view_data
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.normalize import with_one_text
from turnloom.masks.turns.views import ChatFormat, render_views

#: Chat formats kept; the server sends a format once and its key from then on.
FORMATS: Final = 64


def serve(requests: BinaryIO, answers: BinaryIO, cpu_seconds: int) -> None:
    """Answer until stdin ends.

    Args:
        requests: frames {"format", "define"?, "conversation", "options", "trained"}.
        answers: frames {"views"} or {"error"}; first of all {"ready": true}.
        cpu_seconds: CPU time one request may use; the kernel ends the process beyond.
    """
    formats: BoundedCache[str, ChatFormat] = BoundedCache(FORMATS)
    _send(answers, {"ready": True})
    while header := requests.read(HEADER.size):
        request = json.loads(requests.read(HEADER.unpack(header)[0]))
        used = resource.getrusage(resource.RUSAGE_SELF)
        allowed = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        _send(answers, _answer(request, formats))


def _answer(request: dict[str, Any], formats: BoundedCache[str, ChatFormat]) -> dict[str, Any]:
    try:
        chat_format = formats.get(request["format"])
        if chat_format is None:
            if request["define"] is None:
                return {"unknown_format": True}
            defined = request["define"]
            template = compile_template(defined["source"])
            chat_format = ChatFormat(template, defined["special_tokens"], defined["control_tokens"])
            formats[request["format"]] = chat_format
        options, messages = options_from(request["options"]), request["messages"]
        if options.normalize_messages and chat_format.template.takes_only_text:
            messages = with_one_text(messages)  # all else was normalized before, without a look at the template
        views = render_views(Conversation(messages, request["tools"]), options, chat_format, request["trained"])
        return {"views": [view_data(view) for view in views]}
    except PreprocessError as error:
        return {"error": error_data(error)}
    except (MemoryError, RecursionError) as error:
        what = "memory" if isinstance(error, MemoryError) else "stack"
        return {"error": error_data(TemplateLimit(f"the chat template needs more {what} than the sandbox allows"))}


def _send(answers: BinaryIO, value: dict[str, Any]) -> None:
    try:
        data = frame(value)
    except MemoryError:
        data = frame({"error": error_data(TemplateLimit("the chat template prints more than the sandbox can hold"))})
    answers.write(data)
    answers.flush()


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    os.nice(10)  # a template that loops must not slow the server down


def main() -> None:
    """Serve under the limits in the arguments: memory in bytes, CPU seconds a request."""
    memory_bytes, cpu_seconds = int(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr  # nothing but frames goes out
    _limit(memory_bytes)
    serve(sys.stdin.buffer, answers, cpu_seconds)


if __name__ == "__main__":
    main()
