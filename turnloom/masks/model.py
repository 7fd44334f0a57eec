"""Load a model folder: template, tokenizer, hashes. Imports no transformers.

`prepare` writes a folder with tokenizer.json, chat_template.jinja, special_tokens_map.json and manifest.json, whose
hashes prove that nothing changed since. A folder of the hub has no manifest and is read as `model_files` says.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from turnloom.errors import why
from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.errors import ModelNotUsable
from turnloom.masks.domain.memory import return_freed_memory
from turnloom.masks.domain.model_files import SPECIAL_TOKENS, TEMPLATE, TOKENIZER, ModelFiles, read_folder
from turnloom.masks.sandbox.pool import Sandbox
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.tokenizer.vocabulary import Vocabulary
from turnloom.masks.turns.views import ChatFormat

LOG = logging.getLogger("turnloom.models")

MANIFEST: Final = "manifest.json"
MANIFEST_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """The record that `prepare` writes of a model, to identify it and never mistake it for another."""

    version: int  #: MANIFEST_VERSION
    name: str
    source: str  #: hub name, or the local folder's last component
    revision: str  #: commit of the hub repository, "" for a local folder
    tokenizer_sha256: str  #: of tokenizer.json's bytes
    template_sha256: str  #: of the template in UTF-8
    special_tokens_sha256: str  #: of special_tokens_map.json's bytes
    loaded_with: str  #: the class that gave the tokenizer, with transformers' version
    notes: tuple[str, ...] = ()  #: what a person should know of how it was prepared
    stop_ids: tuple[int, ...] = ()  #: at which the model's generation config stops; empty: not known

    def to_json(self) -> str:
        """Return the text of manifest.json."""
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
    folder: Path | None = None  #: what it was loaded from; None: built from texts

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the model as its folder, or as its texts where it has none; the sandbox stays behind."""
        if self.folder is not None:
            return _from_folder, (self.folder, self.name, self.tokenizer_sha256, self.template_sha256)
        texts = (self.vocabulary.stock_json, self.chat_format.template.source, dict(self.special_tokens))
        by_content = self.vocabulary.table.by_content
        stops = [by_content[token].id for token in self.chat_format.stop_tokens]
        return _from_texts, (self.name, *texts, self.tokenizer_sha256, self.template_sha256, tuple(stops))

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


def load_model(folder: Path | str, name: str | None = None, sandbox: Sandbox | None = None) -> Model:
    """Load a folder: a prepared one, or a Hugging Face folder with tokenizer.json and a chat template.

    Args:
        folder: written by `prepare_model`, or downloaded from the hub.
        name: what the model is called here; None: as in the manifest, or the folder's name.
        sandbox: where templates sent by clients are rendered; its owner closes it. None: such templates are refused.

    Raises:
        ModelNotUsable: a file is missing or was changed since it was prepared, or the tokenizer can't be used exactly.
        TemplateError: the chat template can't be compiled.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ModelNotUsable(
            f"{folder}: there is no such folder; fetch a model of the hub with turnloom.masks.prepare_model"
        )
    files = _prepared(folder) if (folder / MANIFEST).exists() else read_folder(folder)
    model = build_model(
        name or files.name,
        files.tokenizer,
        files.template,
        files.special_tokens,
        notes=files.notes,
        stop_ids=files.stop_ids,
    )
    model = replace(model, sandbox=sandbox, folder=folder)
    return_freed_memory()
    for note in model.notes:
        LOG.warning("model %s: %s", model.name, note)
    LOG.info("model %s: %s encodes", model.name, model.encoder_name)
    return model


def _prepared(folder: Path) -> ModelFiles:
    manifest = _read_manifest(folder)
    special_tokens = _read(folder, SPECIAL_TOKENS, manifest.special_tokens_sha256)
    return ModelFiles(
        manifest.name,
        _read(folder, TOKENIZER, manifest.tokenizer_sha256),
        _read(folder, TEMPLATE, manifest.template_sha256),
        _special_tokens(folder, special_tokens),
        manifest.notes,
        manifest.stop_ids,
    )


#: Models that came by pickle, so that the tasks of one process load each only once.
_UNPICKLED: Final[BoundedCache[tuple[str, str, str], Model]] = BoundedCache(8)


def _from_folder(folder: Path, name: str, tokenizer_sha256: str, template_sha256: str) -> Model:
    key = (name, tokenizer_sha256, template_sha256)
    model = _UNPICKLED.get(key)
    if model is None:
        model = load_model(folder, name)
        if (model.tokenizer_sha256, model.template_sha256) != key[1:]:
            raise ModelNotUsable(f"{folder}: differs here from what it was where the model was pickled; copy it again")
        _UNPICKLED[key] = model
    return model


def _from_texts(
    name: str,
    tokenizer_json: str,
    template: str,
    special_tokens: Mapping[str, str],
    tokenizer_sha256: str,
    template_sha256: str,
    stop_ids: Sequence[int],
) -> Model:
    key = (name, tokenizer_sha256, template_sha256)
    model = _UNPICKLED.get(key)
    if model is None:
        model = _UNPICKLED[key] = build_model(name, tokenizer_json, template, special_tokens, stop_ids=stop_ids)
    return model


#: By the tokenizer's hash: models with one tokenizer share its vocabulary. Qwen3's takes 130 MB and 2.6 s to prove.
_VOCABULARIES: Final[WeakValueDictionary[str, Vocabulary]] = WeakValueDictionary()


def build_model(
    name: str,
    tokenizer_json: str,
    template: str,
    special_tokens: Mapping[str, str],
    notes: Sequence[str] = (),
    stop_ids: Sequence[int] = (),
) -> Model:
    """Build a model from its texts; `stop_ids` are those of its generation config, empty where they are not known.

    Raises:
        ModelNotUsable: the tokenizer can't be used exactly.
        TemplateError: the chat template can't be compiled.
    """
    tokenizer_sha256 = _sha256(tokenizer_json)
    vocabulary = _VOCABULARIES.get(tokenizer_sha256)
    if vocabulary is None:
        vocabulary = _VOCABULARIES[tokenizer_sha256] = Vocabulary(tokenizer_json)
    control_tokens = {token.content: token.special for token in vocabulary.parts.control_tokens}
    stops = [token.content for token in vocabulary.parts.control_tokens if token.id in stop_ids]
    return Model(
        name=name,
        chat_format=ChatFormat(compile_template(template), dict(special_tokens), control_tokens, stops),
        vocabulary=vocabulary,
        tokenizer_sha256=tokenizer_sha256,
        template_sha256=_sha256(template),
        notes=(*notes, *vocabulary.notes),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    try:
        fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(
            **{**fields, "notes": tuple(fields.get("notes", ())), "stop_ids": tuple(fields.get("stop_ids", ()))}
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelNotUsable(
            f"{folder} is no prepared model ({MANIFEST}: {why(error)}); write it with python -m turnloom.masks.prepare"
        ) from error
    if manifest.version != MANIFEST_VERSION:
        raise ModelNotUsable(
            f"{folder}/{MANIFEST} has version {manifest.version}, not {MANIFEST_VERSION}; prepare it again"
        )
    return manifest


def _read(folder: Path, file: str, sha256: str) -> str:
    try:
        # newline="": a template's \r\n is its text, and the hash is that of the bytes
        with (folder / file).open(encoding="utf-8", newline="") as opened:
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelNotUsable(f"{folder}/{file} can't be read ({why(error)}); prepare the model again") from error
    if _sha256(text) != sha256:
        raise ModelNotUsable(f"{folder}/{file} was changed since it was prepared; prepare the model again")
    return text


def _special_tokens(folder: Path, text: str) -> Mapping[str, str]:
    tokens = json.loads(text)
    if not isinstance(tokens, dict) or not all(isinstance(value, str) for value in tokens.values()):
        raise ModelNotUsable(f"{folder}/{SPECIAL_TOKENS} is no table of texts; prepare the model again")
    return tokens
