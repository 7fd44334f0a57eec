"""Make control characters visible: C0, DEL, C1 and bidirectional overrides, which a terminal would obey."""

from __future__ import annotations

from typing import Final

#: Embeddings, overrides and isolates: they change the order in which a terminal or an editor shows text.
BIDIRECTIONAL: Final = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
#: What a single line must not hold.
CONTROL: Final = frozenset(map(chr, (*range(0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029, *BIDIRECTIONAL)))
_KEPT: Final = "\n\t"  #: in text of several lines
_ESCAPES: Final = {
    ord(character): f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"
    for character in CONTROL
    if character not in _KEPT
}
_JSON_ESCAPES: Final = {number: f"\\u{number:04x}" for number in _ESCAPES}


def visible(text: str) -> str:
    r"""Return the text with control characters as \x1b or \u202e; line ends and tabs stay."""
    return text if text.isascii() and text.isprintable() else text.translate(_ESCAPES)


def visible_json(document: str) -> str:
    """Return the same JSON document with control characters as JSON escapes inside strings."""
    return document.translate(_JSON_ESCAPES)


def controls(text: str) -> list[str]:
    """Return the distinct control characters of a name as U+001B, including line ends and tabs."""
    return [f"U+{ord(character):04X}" for character in dict.fromkeys(text) if character in CONTROL]
