"""Read the tokenizer, chat template and special tokens of a Hugging Face folder, as transformers finds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from turnloom.errors import why
from turnloom.masks.domain.errors import ModelNotUsable

TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TEMPLATE: Final = "chat_template.jinja"
GENERATION_CONFIG: Final = "generation_config.json"
SPECIAL_TOKENS: Final = "special_tokens_map.json"
_NAMED: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PREPARE: Final = "turnloom.masks.prepare_model, which uses transformers, can convert it"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The texts that a model is built of."""

    name: str
    tokenizer: str  #: of tokenizer.json
    template: str  #: the chat template
    special_tokens: Mapping[str, str]  #: bos_token, eos_token, ...: the variables a template gets
    notes: tuple[str, ...] = ()  #: what a person should know of how it was prepared
    stop_ids: tuple[int, ...] = ()  #: at which its generation config stops; empty: not known


def read_folder(folder: Path) -> ModelFiles:
    """Read a folder of the hub.

    The template is that of chat_template.jinja, else of tokenizer_config.json; special tokens are those of
    tokenizer_config.json, completed by special_tokens_map.json. So does transformers 5 (PreTrainedTokenizerBase).

    Raises:
        ModelNotUsable: a file is missing or malformed, or the tokenizer differs from its tokenizer.json.
    """
    if not (folder / TOKENIZER).is_file():
        raise ModelNotUsable(f"{folder}: has no {TOKENIZER}; {_PREPARE}")
    tokenizer = _text(folder / TOKENIZER)
    config = _object(folder / TOKENIZER_CONFIG)
    _check_added_tokens(folder, tokenizer, config)
    special = {**_tokens(_object(folder / SPECIAL_TOKENS)), **_tokens(config)}
    stops = stop_ids(folder)
    return ModelFiles(folder.resolve().name, tokenizer, _template(folder, config), special, stop_ids=stops)


def stop_ids(folder: Path) -> tuple[int, ...]:
    """Return the ids of the tokens at which the model's generation config stops; empty where it has none.

    Raises:
        ModelNotUsable: generation_config.json can't be read.
    """
    found = _object(folder / GENERATION_CONFIG).get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    return tuple(index for index in ids if isinstance(index, int) and not isinstance(index, bool))


def _check_added_tokens(folder: Path, tokenizer: str, config: Mapping[str, object]) -> None:
    """Refuse tokens that transformers would add to the tokenizer when it loads it."""
    try:
        known = {token["content"] for token in json.loads(tokenizer).get("added_tokens", ())}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelNotUsable(f"{folder}/{TOKENIZER}: can't be read ({why(error)}); fetch it again") from error
    declared = config.get("added_tokens_decoder")
    entries = declared.values() if isinstance(declared, Mapping) else ()
    missing = [text for entry in entries if (text := _content(entry)) is not None and text not in known]
    if missing:
        raise ModelNotUsable(
            f"{folder}/{TOKENIZER_CONFIG}: names the token {missing[0]!r}, which {TOKENIZER} lacks; {_PREPARE}"
        )


def _template(folder: Path, config: Mapping[str, object]) -> str:
    if (folder / TEMPLATE).is_file():
        return _text(folder / TEMPLATE)
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {str(one.get("name")): one.get("template") for one in found if isinstance(one, Mapping)}
        found = named.get("default") or (named[min(named)] if named else None)
    if not isinstance(found, str) or not found:
        raise ModelNotUsable(
            f"{folder}: has no chat template; add {TEMPLATE}, or the key chat_template of {TOKENIZER_CONFIG}"
        )
    return found


def _tokens(config: Mapping[str, object]) -> dict[str, str]:
    """Return the special tokens by name; a model's own ones are under extra_special_tokens."""
    extra = config.get("extra_special_tokens")
    named = {name: config.get(name) for name in _NAMED} | (dict(extra) if isinstance(extra, Mapping) else {})
    return {name: text for name, value in named.items() if (text := _content(value)) is not None}


def _content(value: object) -> str | None:
    """Return the text of a token, which may be an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _object(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except ValueError as error:
        raise ModelNotUsable(f"{path}: is not JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise ModelNotUsable(f"{path}: is not a JSON object; fetch it again")
    return cast("dict[str, object]", value)


def _text(path: Path) -> str:
    try:
        # newline="": a template's \r\n is its text
        with path.open(encoding="utf-8", newline="") as opened:
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelNotUsable(f"{path}: can't be read ({why(error)}); fetch it again") from error
