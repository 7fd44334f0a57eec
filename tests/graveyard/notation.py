"""Reads a row as docs/masks.md writes it, and makes its tokens and weights by another way than the engine's.

Marks are explained in case.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final, TypeAlias

from tokenizers import Tokenizer

_REPLY: Final = re.compile(r"(?:(?<=⟧)|(?<![0-9.]))([0-9.]*)⟦(.*?)⟧", re.DOTALL)
_ORDINARY: Final = re.compile("[⌊⌋]")
#: Text and the weight of its characters.
Part: TypeAlias = "tuple[str, float]"


def text_of(line: str) -> str:
    """The rendered text."""
    return _bare(_REPLY.sub(lambda found: found[2], line))


def stretches_of(line: str) -> tuple[str, ...]:
    """The text that is trained, as far as it hangs together."""
    found: list[str] = []
    for piece in _pieces(line):
        trained = "".join(text for text, weight in piece if weight)
        if trained:
            found.append(_bare(trained))
    return tuple(found)


def tokens_of(line: str, tokenizer_json: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Ids, and the weight of each: the stock tokenizer on each reply and on what is between replies.

    Control tokens outside ⌊ ⌋ are single ids; all other text is encoded by a tokenizer that has none. A token weighs
    what its first character weighs, and the first of a row nothing.
    """
    plain, control = _tokenizer(tokenizer_json)
    ids: list[int] = []
    weights: list[float] = []
    for piece in _pieces(line):
        characters = [weight for text, weight in piece for _ in _bare(text)]
        position = 0
        for run in _runs("".join(text for text, _ in piece), control):
            if run in control:
                ids.append(control[run])
                weights.append(characters[position])
                position += len(run)
                continue
            encoding = plain.encode(_bare(run), add_special_tokens=False)
            ids += encoding.ids
            weights += [characters[position + start] for start, _ in encoding.offsets]
            position += len(_bare(run))
        assert position == len(characters)
    return tuple(ids), (0.0, *weights[1:])


@cache
def _tokenizer(tokenizer_json: str) -> tuple[Tokenizer, Mapping[str, int]]:
    """The tokenizer without added tokens, and those."""
    root = json.loads(tokenizer_json)
    control = {token["content"]: token["id"] for token in root["added_tokens"]}
    return Tokenizer.from_str(json.dumps({**root, "added_tokens": [], "post_processor": None})), control


def _bare(text: str) -> str:
    return _ORDINARY.sub("", text).replace("↵", "\n")


def _pieces(line: str) -> list[list[Part]]:
    """What is between beginnings of replies; marks that touch are one reply."""
    pieces: list[list[Part]] = [[]]
    end = 0
    for found in _REPLY.finditer(line):
        between = line[end : found.start()]
        if between:
            pieces.append([(between, 0.0)])
        if between or not end:
            pieces.append([])
        pieces[-1].append((found[2], float(found[1] or 1)))
        end = found.end()
    return [*pieces, [(line[end:], 0.0)]]


def _runs(text: str, control: Mapping[str, int]) -> Iterator[str]:
    """Control tokens, and what is between them; text in ⌊ ⌋ belongs to what is between."""
    tokens = "|".join(re.escape(token) for token in sorted(control, key=len, reverse=True))
    run = ""
    for part in re.findall(f"⌊.*?⌋|{tokens}|.", text, re.DOTALL):
        if part in control:
            yield from (run, part) if run else (part,)
            run = ""
        else:
            run += part
    if run:
        yield run
