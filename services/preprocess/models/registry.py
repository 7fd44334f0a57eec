"""From models.toml to served models: which exist, where each comes from, and whether it is loaded.

A child process prepares a source that `prepare` has not written yet, so that this one never imports transformers.
"""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from services.preprocess.domain.refusals import Loading, ModelNotServed, UnknownModel
from services.variables import BadSetting
from turnloom import models_file
from turnloom.errors import InvalidInput, why
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.model import Model, load_model
from turnloom.masks.sandbox.pool import Sandbox
from turnloom.models_file import ModelEntry

LOG = logging.getLogger("turnloom.registry")
PREPARE_SECONDS: Final = 900  #: deadline of one preparation, downloads included


class BadModels(BadSetting):
    """models.toml can't be used; the sentence names the entry and the key."""


def read_models(path: Path) -> list[ModelEntry]:
    """Return the entries of models.toml in order of their names. Raises BadModels where it can't be used."""
    if not path.exists():
        raise BadModels(f"{path}: there is no such file; set TURNLOOM_MODELS to the file of models.")
    try:
        return models_file.read_models(path)
    except InvalidInput as error:
        raise BadModels(error.message) from error


class Registry:
    """The served models. `load` runs in a thread of its own while the server already answers."""

    def __init__(self, entries: Sequence[ModelEntry], cache: Path, load: Callable[[ModelEntry, Path], Model]) -> None:
        self.entries: Mapping[str, ModelEntry] = {entry.name: entry for entry in entries}
        self._cache = cache
        self._load = load
        self._models: dict[str, Model] = {}
        self._failures: dict[str, str] = {}
        self._ended = threading.Event()

    def load(self) -> None:
        """Load every entry; one that fails is left out with its error sentence, and the rest is served."""
        for entry in self.entries.values():
            try:
                self._models[entry.name] = self._load(entry, self._cache)
                LOG.info("model loaded", extra={"model": entry.name, "encoder": self._models[entry.name].encoder_name})
            except (PreprocessError, BadModels, OSError) as error:
                self._failures[entry.name] = why(error, place=True)
                LOG.error("model not loaded", extra={"model": entry.name, "reason": why(error, place=True)})
            except Exception as error:  # a bug in a model's files must not take the other models away
                self._failures[entry.name] = f"unforeseen {type(error).__name__}; the server's log says where"
                LOG.exception("model not loaded", extra={"model": entry.name})
        self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait until every entry was tried, and return whether that happened in time."""
        return self._ended.wait(seconds)

    @property
    def complete(self) -> bool:
        """Return whether every model of models.toml is loaded."""
        return self._ended.is_set() and not self._failures

    def get(self, name: str) -> Model:
        """Return the loaded model.

        Raises:
            UnknownModel: models.toml does not name it.
            Loading: not yet.
            ModelNotServed: it could not be loaded.
        """
        model = self._models.get(name)
        if model is not None:
            return model
        if name not in self.entries:
            raise UnknownModel(name, list(self.entries))
        if name in self._failures:
            raise ModelNotServed(f"Model {name!r} could not be loaded: {self._failures[name]}")
        raise Loading

    def loaded(self, name: str) -> Model | None:
        """Return the model if it is loaded."""
        return self._models.get(name)

    def served(self) -> list[tuple[ModelEntry, Model]]:
        """Return entries with their models in order of names.

        Raises:
            Loading: not all were tried yet.
        """
        if not self._ended.is_set():
            raise Loading
        return [(self.entries[name], self._models[name]) for name in self.entries if name in self._models]


def load_entry(entry: ModelEntry, cache: Path, sandbox: Sandbox | None = None) -> Model:
    """Load one entry, preparing it first if needed, and check it against its pins.

    Without a sandbox the templates that clients send are refused.

    Raises:
        ModelNotUsable, BadModels: with a sentence.
    """
    model = load_model(_as_is(entry) or _prepare(entry, cache), entry.name, sandbox)
    for what, pin, found in (
        ("tokenizer_sha256", entry.tokenizer_sha256, model.tokenizer_sha256),
        ("template_sha256", entry.template_sha256, model.template_sha256),
    ):
        if pin and pin != found:
            raise BadModels(f"{what}: is {found}, but models.toml pins {pin}; restore the source, or change the pin.")
    return model


def prepared_folder(entry: ModelEntry, cache: Path) -> Path | None:
    """Return the folder of the entry's prepared files, or None if it is not prepared yet."""
    folder = _as_is(entry) or _cached(entry, cache)
    return folder if _prepared(folder) else None


def _as_is(entry: ModelEntry) -> Path | None:
    """Return the source's folder if it is prepared and its template is the one to use."""
    return entry.folder if entry.folder and _prepared(entry.folder) and entry.chat_template is None else None


def _prepared(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def _cached(entry: ModelEntry, cache: Path) -> Path:
    """Return the cache folder for this source, revision and template."""
    template = entry.chat_template.read_bytes() if entry.chat_template else b""
    identity = hashlib.sha256("\0".join((entry.source, entry.revision, _stamp(entry))).encode() + b"\0" + template)
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", entry.name).strip("-")
    return cache.resolve() / f"{slug}-{identity.hexdigest()[:12]}"


def _prepare(entry: ModelEntry, cache: Path) -> Path:
    """Run `prepare` in a child process, once per source, revision and template."""
    folder = _cached(entry, cache)
    if _prepared(folder):
        return folder
    command = [sys.executable, "-m", "turnloom.masks.prepare", entry.source, str(folder), "--name", entry.name]
    if entry.folder is None:
        command += ["--hub"]
    if entry.revision:
        command += ["--revision", entry.revision]
    if entry.chat_template:
        command += ["--chat-template", str(entry.chat_template)]
    LOG.info("preparing model", extra={"model": entry.name, "folder": str(folder)})
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PREPARE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BadModels(
            f"{entry.source!r}: took more than {PREPARE_SECONDS} s to prepare; run `python -m turnloom.masks.prepare`."
        ) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no output").splitlines()[-1]
        raise BadModels(f"{entry.source!r}: preparing it failed: {last}") from error
    return folder


def _stamp(entry: ModelEntry) -> str:
    """Return a stamp of a local folder's tokenizer files; a changed folder is prepared again."""
    source = entry.folder
    if source is None or not source.is_dir():
        return ""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
    present = [source / name for name in names if (source / name).is_file()]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in present)).hexdigest()
