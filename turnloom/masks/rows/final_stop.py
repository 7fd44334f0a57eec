"""Close a last turn that the template leaves open with the stop token."""

from __future__ import annotations

from dataclasses import replace

from turnloom.masks.domain.rendered_text import RenderedText, View, first_runs
from turnloom.masks.turns.next_header import with_end, without_unclosed


def with_final_stop(view: View, stop: str) -> View:
    """Close the last turn of a view where the template closes turns only by the next role.

    Nothing changes where the last turn has an end-of-turn literal, or where more than white space follows it.

    Args:
        view: its final_stop is the token by which the next role would close the turn.
        stop: the token to use where the view has none.
    """
    last = view.message_spans[-1] if view.message_spans else None
    if last is None or last.role != "assistant" or (last.eot_start != last.end and not view.final_stop):
        return view
    if view.rendered.text[last.end :].strip():
        return view
    stop = view.final_stop or stop
    rendered = RenderedText(
        text=view.rendered.text[: last.end] + stop,
        runs=(*first_runs(view.rendered.runs, last.end), (len(stop), None)),
        generation_blocks=view.rendered.generation_blocks,
    )
    closed = with_end(last, len(stop))
    warnings = without_unclosed(view.warnings, last.message_index)
    return replace(view, rendered=rendered, message_spans=(*view.message_spans[:-1], closed), warnings=warnings)
