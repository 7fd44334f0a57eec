"""Fetch a model's tokenizer and template, and write them as the folder that `model.load_model` reads.

    python -m turnloom.masks.prepare SOURCE DEST [--name NAME] [--revision REVISION] [--chat-template FILE] [--hub]

Runs as a process of its own: transformers costs 220 MB that no server should hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from turnloom.errors import why
from turnloom.masks.domain.errors import ModelNotUsable, PreprocessError
from turnloom.masks.domain.model_files import SPECIAL_TOKENS, TEMPLATE, TOKENIZER, stop_ids
from turnloom.masks.model import MANIFEST, MANIFEST_VERSION, Manifest, build_model
from turnloom.masks.tokenizer.probe_texts import probe_corpus
from turnloom.optional import needs

with needs("pip install 'turnloom[prepare]'", __name__):
    import huggingface_hub
    import tokenizers
    import transformers

#: What a tokenizer may consist of; weights are never fetched.
TOKENIZER_FILES: Final = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "additional_chat_templates/*"]
NO_TOKENIZER_FILES: Final = ["*.safetensors.index.json", "*.bin.index.json", "onnx/*", "openvino/*"]


@dataclass(frozen=True, slots=True)
class Source:
    """The local files of a model."""

    folder: Path
    name: str
    revision: str  #: commit of the hub repository, "" for a local folder


def prepare(
    source: str,
    destination: Path,
    *,
    name: str = "",
    revision: str = "",
    chat_template: Path | None = None,
    hub: bool = False,
) -> Manifest:
    """Write a prepared folder.

    Args:
        source: a local folder, or the name of a repository on the hub.
        destination: the folder to write; files of an earlier preparation are replaced.
        name: what the model is called; empty: the source's name.
        revision: branch, tag or commit of the hub repository; empty: its main branch.
        chat_template: used instead of the source's.
        hub: the source is a name on the hub, also where a folder below the working directory is called so.

    Raises:
        ModelNotUsable: it can't be fetched, has no template, or its tokenizer can't be used exactly.
        TemplateError: the template can't be compiled.
    """
    found = _fetch(source, revision, hub=hub)
    tokenizer, tokenizer_json, notes = _load(found.folder)
    template, template_notes = _template(tokenizer, chat_template)
    special = {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    build_model(name or found.name, tokenizer_json, template, special)  # refuses what could not be served
    special_json = json.dumps(special, indent=2, ensure_ascii=False) + "\n"
    manifest = Manifest(
        version=MANIFEST_VERSION,
        name=name or found.name,
        source=found.name,
        revision=found.revision,
        tokenizer_sha256=_sha256(tokenizer_json),
        template_sha256=_sha256(template),
        special_tokens_sha256=_sha256(special_json),
        loaded_with=f"{type(tokenizer).__name__} of transformers {transformers.__version__}",
        notes=(*notes, *template_notes),
        stop_ids=stop_ids(found.folder),
    )
    destination.mkdir(parents=True, exist_ok=True)
    files = {TOKENIZER: tokenizer_json, TEMPLATE: template, SPECIAL_TOKENS: special_json, MANIFEST: manifest.to_json()}
    (destination / MANIFEST).unlink(
        missing_ok=True
    )  # should this end early: a folder without a manifest does not count as prepared
    for file, text in files.items():
        partial = destination / f".{file}.{os.getpid()}"
        partial.write_bytes(text.encode())
        partial.replace(destination / file)
    return manifest


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fetch(source: str, revision: str, *, hub: bool) -> Source:
    folder = Path(source).expanduser()
    if not hub and folder.is_dir():
        return Source(folder, folder.resolve().name, "")
    if source.startswith((".", "/", "~")):
        raise ModelNotUsable(f"{source}: there is no such folder")
    try:
        fetched = huggingface_hub.snapshot_download(
            source, revision=revision or None, allow_patterns=TOKENIZER_FILES, ignore_patterns=NO_TOKENIZER_FILES
        )
    # Connections fail with exceptions of several libraries; each means the same to the reader.
    except Exception as error:
        endpoint = os.environ.get("HF_ENDPOINT", huggingface_hub.constants.ENDPOINT)
        raise ModelNotUsable(
            f"{source}{'@' + revision if revision else ''} can't be fetched from {endpoint} ({_first_line(error)}); "
            "check name and revision, set HF_ENDPOINT to a hub that can be reached from here, or give a local folder"
        ) from error
    return Source(Path(fetched), source, Path(fetched).name)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _load(folder: Path) -> tuple[transformers.PreTrainedTokenizerFast, str, list[str]]:
    """Return the tokenizer, its tokenizer.json and what a person should know.

    The tokenizer.json is used exactly as written. AutoTokenizer may replace its parts by those of the class named in
    tokenizer_config.json. It turns DeepSeek's into one that loses spaces.
    """
    written = folder / TOKENIZER
    try:
        if not written.is_file():
            converted = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            if not isinstance(converted, transformers.PreTrainedTokenizerFast):
                raise ModelNotUsable(f"{folder}: {type(converted).__name__} can't be converted to a tokenizer.json")
            return converted, converted.backend_tokenizer.to_str(), [f"converted from {type(converted).__name__}"]
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    except ModelNotUsable:
        raise
    except Exception as error:  # transformers has no common class for what a folder may lack
        raise ModelNotUsable(f"{folder}: transformers can't load a tokenizer ({_first_line(error)})") from error
    # Added tokens named only in tokenizer_config.json are in the loaded one; everything else must be the file's.
    loaded, file = tokenizer.backend_tokenizer, tokenizers.Tokenizer.from_file(str(written))
    notes = []
    if _probe(loaded) != _probe(file):
        notes.append("transformers changes this tokenizer when it loads it; the file is used as it is written")
        return tokenizer, written.read_bytes().decode(), notes
    tokenizer_json: str = loaded.to_str()
    if _auto_differs(folder, loaded):
        notes.append("AutoTokenizer gives other ids than tokenizer.json; the file is right")
    return tokenizer, tokenizer_json, notes


def _probe(tokenizer: tokenizers.Tokenizer) -> list[list[int]]:
    return [row.ids for row in tokenizer.encode_batch(probe_corpus(), add_special_tokens=False)]


def _auto_differs(folder: Path, loaded: tokenizers.Tokenizer) -> bool:
    try:
        auto = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception:  # it wants a config.json or remote code; then no user gets other ids from it
        return False
    return bool(auto.is_fast and _probe(auto.backend_tokenizer) != _probe(loaded))


def _template(tokenizer: transformers.PreTrainedTokenizerFast, override: Path | None) -> tuple[str, list[str]]:
    if override is not None:
        try:
            return override.read_bytes().decode(), [f"chat template of {override.name}"]
        except (OSError, UnicodeDecodeError) as error:
            raise ModelNotUsable(f"{override} can't be read ({why(error)})") from error
    templates = cast("str | dict[str, str] | None", tokenizer.chat_template)
    if isinstance(templates, dict):
        chosen = "default" if "default" in templates else min(templates)
        return templates[chosen], [f"of the templates {', '.join(sorted(templates))} the one named {chosen} is used"]
    if not templates:
        raise ModelNotUsable("the source has no chat template; give one with --chat-template FILE")
    return templates, []


def main(arguments: list[str] | None = None) -> int:
    """Prepare the model named on the command line; return 0, or 1 with one sentence on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m turnloom.masks.prepare",
        description="Write the folder that load_model takes: tokenizer, chat template and manifest of a model. "
        "HF_ENDPOINT names the hub, HF_TOKEN holds its token.",
        epilog="Exit codes: 0 written, 1 the model can't be fetched or used or a library is missing, 2 bad arguments.",
    )
    parser.add_argument("source", help="local folder, or OWNER/NAME on the hub")
    parser.add_argument("destination", type=Path, help="folder to write; an earlier one is replaced")
    parser.add_argument("--name", default="", help="what the model is called; default: the source's name")
    parser.add_argument("--revision", default="", help="branch, tag or commit on the hub; default: its main branch")
    parser.add_argument("--chat-template", type=Path, metavar="FILE", help="chat template in place of the source's")
    parser.add_argument("--hub", action="store_true", help="SOURCE is on the hub, even where a folder is called so")
    asked = parser.parse_args(arguments)
    try:
        manifest = prepare(
            asked.source,
            asked.destination,
            name=asked.name,
            revision=asked.revision,
            chat_template=asked.chat_template,
            hub=asked.hub,
        )
    except PreprocessError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(manifest.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
