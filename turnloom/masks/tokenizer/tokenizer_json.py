"""Take a `tokenizer.json` apart for encoding segments of text.

A stock tokenizer does three things to a whole text that must not happen to a piece. It matches control tokens and adds
the space that some vocabularies want before the first word. It also wraps the ids in special tokens. `take_apart`
writes the tokenizer without them and says where the stock tokenizer would have done the first two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias, cast

from turnloom.masks.tokenizer.control_tokens import ControlToken

Node: TypeAlias = "dict[str, object]"

META_SPACE: Final = "\u2581"  #: what SentencePiece vocabularies write for a space
#: Put into the names of control tokens in the model's own vocabulary. No model sees a space in its input, since every
#: pre-tokenizer replaces or splits at it, so such an entry can't be reached from text.
UNREACHABLE: Final = " "
#: Pre-tokenizers that drop white space, so that no decoding gives it back.
DROPS_SPACE: Final = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "CharDelimiterSplit"})


class Prefix(Enum):
    """Where the stock tokenizer adds a space that is not in the text."""

    NEVER = "never"
    FIRST = "first"  # before the first character of the text
    EVERY = "every"  # before the first character of the text and after every control token


@dataclass(frozen=True, slots=True)
class Parts:
    """What piecewise encoding needs of one tokenizer."""

    plain: str  #: JSON of the tokenizer without control tokens, post-processor and prefix space
    prefixed: str | None  #: the same with the prefix space; None where there is none
    prefix: Prefix
    normalizer: str  #: JSON of a tokenizer that only normalizes, as `plain` does
    prefixed_normalizer: str  #: the same, as `prefixed` does
    unknown_id: int | None  #: the id that stands for what the vocabulary does not have
    prefix_after_normalized: bool  #: whether a control token with `normalized` also gets the prefix space after it
    control_tokens: tuple[ControlToken, ...]
    size: int  #: one more than the largest id
    token_bytes: tuple[bytes, ...] | None  #: what each id decodes to, by id; None where decoding loses text
    lossy: str  #: why decoding loses text, "" where it does not
    byte_level: bool  #: whether the bytes of consecutive tokens are those of the normalized text, with nothing added


def take_apart(tokenizer_json: str) -> Parts:
    r"""Read a tokenizer.json and write what piecewise encoding needs.

    Added tokens of white space only are ordinary text and stay. Examples are the `\n\n` of Gemma and the runs of spaces
    of GPT-NeoX.
    """
    root = cast(Node, json.loads(tokenizer_json))
    added = [cast(Node, token) for token in cast(Sequence[object], root["added_tokens"])]
    control = [token for token in added if not _is_white(str(token["content"]))]
    root["added_tokens"] = [token for token in added if _is_white(str(token["content"]))]
    root["post_processor"] = None
    root["truncation"] = root["padding"] = None
    _hide(cast(Node, root["model"]), frozenset(str(token["content"]) for token in control))
    _keep_ids(cast(Node, root["model"]), cast(Sequence[Node], root["added_tokens"]))
    prefixed, prefixed_normalizer = json.dumps(root), _only_normalizer(root)
    prefix, after_normalized = _prefix(root)
    for key in ("normalizer", "pre_tokenizer"):
        root[key] = _without_prefix(cast("Node | None", root.get(key)))
    lossy = _lossy(root)
    return Parts(
        plain=json.dumps(root),
        prefixed=None if prefix is Prefix.NEVER else prefixed,
        prefix=prefix,
        normalizer=_only_normalizer(root),
        prefixed_normalizer=prefixed_normalizer,
        unknown_id=_unknown_id(cast(Node, root["model"])),
        prefix_after_normalized=after_normalized,
        control_tokens=tuple(_control_token(token) for token in control),
        size=1 + max([*_vocabulary(root), *(cast(int, token["id"]) for token in added)], default=-1),
        token_bytes=None if lossy else _token_bytes(root, added),
        lossy=lossy,
        byte_level=not lossy and _is_byte_level(root),
    )


def _only_normalizer(root: Node) -> str:
    model = {"type": "BPE", "vocab": {}, "merges": []}
    return json.dumps({"version": "1.0", "added_tokens": [], "normalizer": root.get("normalizer"), "model": model})


def _unknown_id(model: Node) -> int | None:
    if isinstance(model.get("vocab"), dict):
        token = model.get("unk_token")
        return cast("dict[str, int]", model["vocab"]).get(token) if isinstance(token, str) else None
    return cast("int | None", model.get("unk_id"))


def _is_white(content: str) -> bool:
    return not content.replace(META_SPACE, " ").strip()


def _control_token(token: Node) -> ControlToken:
    return ControlToken(
        id=cast(int, token["id"]),
        content=str(token["content"]),
        special=bool(token.get("special")),
        normalized=bool(token.get("normalized")),
        lstrip=bool(token.get("lstrip")),
        rstrip=bool(token.get("rstrip")),
        single_word=bool(token.get("single_word")),
    )


def _hide(model: Node, contents: frozenset[str]) -> None:
    """Make vocabulary entries that are control tokens unreachable from text.

    Unigram would otherwise find `</s>` in what a user typed, BPE where merges lead to it or `ignore_merges` is set.
    """

    def name(entry: str) -> str:
        return UNREACHABLE + entry if entry in contents else entry

    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {name(entry): index for entry, index in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[name(entry), score] for entry, score in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = name(str(model["unk_token"]))
    if isinstance(model.get("merges"), list):
        model["merges"] = [
            merge for merge in cast("list[str | list[str]]", model["merges"]) if not _touches(merge, contents)
        ]


def _keep_ids(model: Node, kept: Sequence[Node]) -> None:
    """Name the kept added tokens in the model's vocabulary: loading renumbers those that it does not find there."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        for token in kept:
            vocabulary.setdefault(str(token["content"]), token["id"])
    elif isinstance(vocabulary, list):
        lowest = min((score for _, score in vocabulary), default=0.0)
        for token in sorted(kept, key=lambda token: cast(int, token["id"])):
            index = cast(int, token["id"])
            vocabulary += [[f"{UNREACHABLE}{place}", lowest] for place in range(len(vocabulary), index)]
            if index == len(vocabulary):
                vocabulary.append([str(token["content"]), lowest])


def _touches(merge: str | list[str], contents: frozenset[str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in contents or right in contents or left + right in contents


def _nodes(node: Node | None) -> Iterator[Node]:
    """Yield the steps of a normalizer, pre-tokenizer or decoder, those inside sequences too."""
    if node is None:
        return
    yield node
    for key in ("normalizers", "pretokenizers", "decoders"):
        for inner in cast(Sequence[Node], node.get(key, ())):
            yield from _nodes(inner)


def _steps(root: Node, *keys: str) -> list[Node]:
    return [step for key in keys for step in _nodes(cast("Node | None", root.get(key)))]


def _prefix(root: Node) -> tuple[Prefix, bool]:
    for step in _steps(root, "pre_tokenizer"):
        if step["type"] == "Metaspace":
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            if scheme != "never":
                return (Prefix.FIRST if scheme == "first" else Prefix.EVERY), True
        if step["type"] == "ByteLevel" and step.get("add_prefix_space", True):
            return Prefix.EVERY, True
    # The normalizer runs before tokens with `normalized` are looked for, so none of its prefixes follows one of them.
    return (
        Prefix.EVERY if any(step["type"] == "Prepend" for step in _steps(root, "normalizer")) else Prefix.NEVER
    ), False


def _without_prefix(node: Node | None) -> Node | None:
    if node is None or node["type"] == "Prepend":
        return None
    if node["type"] == "Metaspace":
        return {key: value for key, value in node.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
    if node["type"] == "ByteLevel":
        return node | {"add_prefix_space": False}
    kept = dict(node)
    for key in ("normalizers", "pretokenizers"):
        if key in node:
            inner = [_without_prefix(cast(Node, step)) for step in cast(Sequence[object], node[key])]
            kept[key] = [step for step in inner if step is not None]
    return kept


def _is_byte_level(root: Node) -> bool:
    return any(step["type"] == "ByteLevel" for step in _steps(root, "pre_tokenizer", "normalizer"))


def _lossy(root: Node) -> str:
    model = cast(Node, root["model"])
    if model["type"] in {"WordPiece", "WordLevel"}:
        return f"{model['type']} does not keep white space"
    for step in _steps(root, "pre_tokenizer"):
        if step["type"] in DROPS_SPACE or (
            step["type"] in {"Split", "Punctuation"} and step.get("behavior") == "Removed"
        ):
            return f"the pre-tokenizer {step['type']} drops characters"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "the vocabulary marks the inside or end of words, which does not keep white space"
    return ""


def _vocabulary(root: Node) -> dict[int, str]:
    vocabulary = cast(Node, root["model"])["vocab"]
    if isinstance(vocabulary, dict):
        return {cast(int, index): str(entry) for entry, index in vocabulary.items()}
    return {index: str(entry) for index, (entry, _) in enumerate(cast("list[tuple[str, float]]", vocabulary))}


def _token_bytes(root: Node, added: Sequence[Node]) -> tuple[bytes, ...]:
    model = cast(Node, root["model"])
    by_id = _vocabulary(root)
    control = {cast(int, token["id"]): str(token["content"]).encode() for token in added}
    size = max([*by_id, *control], default=-1) + 1
    if _is_byte_level(root):
        byte_of = _byte_level_alphabet()
        decoded = {index: _byte_level(entry, byte_of) for index, entry in by_id.items()}
    else:
        decoded = {index: _sentence_piece(entry, bool(model.get("byte_fallback"))) for index, entry in by_id.items()}
        control = {index: content.replace(META_SPACE.encode(), b" ") for index, content in control.items()}
    return tuple(control.get(index, decoded.get(index, b"")) for index in range(size))


def _byte_level_alphabet() -> Mapping[str, int]:
    """Map character -> byte as GPT-2 defined it: printable Latin-1 stands for itself, the rest for 256, 257, ..."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


def _byte_level(entry: str, byte_of: Mapping[str, int]) -> bytes:
    try:
        return bytes([byte_of[character] for character in entry])
    except KeyError:  # an entry that no text reaches, such as a control token's name
        return entry.encode()


def _sentence_piece(entry: str, byte_fallback: bool) -> bytes:
    if byte_fallback and len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">"):
        return bytes([int(entry[3:5], 16)])
    return entry.replace(META_SPACE, " ").encode()
