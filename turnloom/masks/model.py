"""A prepared model folder, loaded: template, tokenizer, hashes. Knows no conversation; imports no transformers.

`prepare` writes the folder: tokenizer.json, chat_template.jinja, special_tokens_map.json, manifest.json.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from turnloom.masks.domain.errors import ModelNotUsable
from turnloom.masks.domain.memory import return_freed_memory
from turnloom.masks.sandbox.pool import Sandbox
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.tokenizer.vocabulary import Vocabulary
from turnloom.masks.turns.views import ChatFormat

LOG = logging.getLogger("turnloom.models")

TOKENIZER: Final = "tokenizer.json"
TEMPLATE: Final = "chat_template.jinja"
SPECIAL_TOKENS: Final = "special_tokens_map.json"
MANIFEST: Final = "manifest.json"
MANIFEST_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `prepare` wrote down of a model, to be found again and never mistaken for another."""

    version: int  #: MANIFEST_VERSION
    name: str
    source: str  #: hub name, or the local folder's last component
    revision: str  #: commit of the hub repository, "" for a local folder
    tokenizer_sha256: str  #: of tokenizer.json's bytes
    template_sha256: str  #: of the template in UTF-8
    special_tokens_sha256: str  #: of special_tokens_map.json's bytes
    loaded_with: str  #: the class that gave the tokenizer, with transformers' version
    notes: tuple[str, ...] = ()  #: what a person should know of how it was prepared

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class Model:
    """What preprocessing needs of one model."""

    name: str
    chat_format: ChatFormat
    vocabulary: Vocabulary
    tokenizer_sha256: str
    template_sha256: str
    notes: tuple[str, ...] = ()
    sandbox: Sandbox | None = None  #: renders templates sent by clients; None: they are refused

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """bos_token, eos_token, ... as the template sees them."""
        return self.chat_format.special_tokens

    @property
    def stop_token(self) -> str:
        """The text of the token that ends a turn where the template prints none; "" where the tokenizer has none."""
        return self.special_tokens.get("eos_token", "")

    @property
    def encoder_name(self) -> str:
        """Library and version that encode."""
        return self.vocabulary.encoder.name

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self.vocabulary.size


def load_model(folder: Path, name: str | None = None, sandbox: Sandbox | None = None) -> Model:
    """Load a prepared folder.

    Args:
        folder: written by `prepare`.
        name: what the model is called here; None: as in the manifest.
        sandbox: where templates sent by clients are rendered; its owner closes it. None: such templates are refused.

    Raises:
        ModelNotUsable: a file is missing or was changed since, or the tokenizer can't be used exactly.
        TemplateError: the chat template can't be compiled.
    """
    manifest = _read_manifest(folder)
    texts = {
        TOKENIZER: _read(folder, TOKENIZER, manifest.tokenizer_sha256),
        TEMPLATE: _read(folder, TEMPLATE, manifest.template_sha256),
        SPECIAL_TOKENS: _read(folder, SPECIAL_TOKENS, manifest.special_tokens_sha256),
    }
    model = build_model(
        name or manifest.name,
        texts[TOKENIZER],
        texts[TEMPLATE],
        _special_tokens(folder, texts[SPECIAL_TOKENS]),
        notes=manifest.notes,
    )
    model = replace(model, sandbox=sandbox)
    return_freed_memory()
    for note in model.notes:
        LOG.warning("model %s: %s", model.name, note)
    LOG.info("model %s: %s encodes", model.name, model.encoder_name)
    return model


def build_model(
    name: str, tokenizer_json: str, template: str, special_tokens: Mapping[str, str], notes: Sequence[str] = ()
) -> Model:
    """Build a model from its texts.

    Raises:
        ModelNotUsable: the tokenizer can't be used exactly.
        TemplateError: the chat template can't be compiled.
    """
    vocabulary = Vocabulary(tokenizer_json)
    control_tokens = {token.content: token.special for token in vocabulary.parts.control_tokens}
    return Model(
        name=name,
        chat_format=ChatFormat(compile_template(template), dict(special_tokens), control_tokens),
        vocabulary=vocabulary,
        tokenizer_sha256=_sha256(tokenizer_json),
        template_sha256=_sha256(template),
        notes=(*notes, *vocabulary.notes),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    try:
        fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(**{**fields, "notes": tuple(fields.get("notes", ()))})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelNotUsable(
            f"{folder} is no prepared model ({MANIFEST}: {error}); write it with python -m turnloom.masks.prepare"
        ) from error
    if manifest.version != MANIFEST_VERSION:
        raise ModelNotUsable(
            f"{folder}/{MANIFEST} has version {manifest.version}, {MANIFEST_VERSION} is needed; prepare it again"
        )
    return manifest


def _read(folder: Path, file: str, sha256: str) -> str:
    try:
        # newline="": a template's \r\n is its text, and the hash is that of the bytes
        with (folder / file).open(encoding="utf-8", newline="") as opened:
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelNotUsable(f"{folder}/{file} can't be read ({error}); prepare the model again") from error
    if _sha256(text) != sha256:
        raise ModelNotUsable(f"{folder}/{file} was changed since it was prepared; prepare the model again")
    return text


def _special_tokens(folder: Path, text: str) -> Mapping[str, str]:
    tokens = json.loads(text)
    if not isinstance(tokens, dict) or not all(isinstance(value, str) for value in tokens.values()):
        raise ModelNotUsable(f"{folder}/{SPECIAL_TOKENS} is no table of texts; prepare the model again")
    return tokens
