"""A last turn that the template leaves open, closed with the stop token. Knows no tokens but that one's text."""

from __future__ import annotations

from dataclasses import replace

from turnloom.masks.domain.rendered_text import Kind, Part, RenderedText, View, first_runs


def with_final_stop(view: View, stop: str) -> View:
    """Close the last turn of a view where the template closes turns only by the next role.

    Nothing changes where the last turn has an end-of-turn literal, or where more than white space follows it.
    """
    last = view.message_spans[-1] if view.message_spans else None
    if last is None or last.role != "assistant" or last.eot_start != last.end:
        return view
    if view.rendered.text[last.end :].strip():
        return view
    end = last.end + len(stop)
    closed = replace(
        last, eot_start=last.end, end=end, trailing_end=end, parts=(*last.parts, Part(last.end, end, Kind.EOT))
    )
    rendered = RenderedText(
        text=view.rendered.text[: last.end] + stop,
        runs=(*first_runs(view.rendered.runs, last.end), (len(stop), None)),
        generation_blocks=view.rendered.generation_blocks,
    )
    return replace(view, rendered=rendered, message_spans=(*view.message_spans[:-1], closed))
