"""A console that escapes control characters, so that a name or a message can't manipulate the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from turnloom.display.visible import visible


class SafeConsole(Console):
    """rich's console, escaping every text it is given; its own control sequences are kept."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return marked-up text, escaped before it is measured and laid out."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield segments, escaping what was made a Text elsewhere."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else visible(segment.text)
            yield segment if shown == segment.text else Segment(shown, segment.style)
