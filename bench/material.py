"""What benchmarks of preprocessing work on: the Qwen3 vocabulary and templates. Imports no transformers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from bench.program import need_file
from turnloom.masks.domain.model_files import SPECIAL_TOKENS, TEMPLATE, TOKENIZER
from turnloom.masks.model import MANIFEST, MANIFEST_VERSION, Manifest

ROOT: Final = Path(__file__).resolve().parents[1]
TOKENIZERS: Final = Path(os.environ.get("TURNLOOM_TOKENIZERS", ROOT.parent / "shared" / "tokenizers"))
TEMPLATES: Final = Path(os.environ.get("TURNLOOM_TEMPLATES", ROOT.parent / "shared" / "templates"))
QWEN3: Final = TOKENIZERS / "qwen3"
STOCK: Final = "llamacpp__Qwen-Qwen3-0.6B.jinja"
MARKED: Final = "trl__qwen3_training.jinja"  # the peer's mask needs {% generation %}, which the stock template has not
SPECIAL: Final = {"eos_token": "<|im_end|>"}


def need(*templates: str) -> None:
    """End the program where the vocabulary, one of the two templates or one of these is not there."""
    need_file(QWEN3 / "tokenizer.json", "set TURNLOOM_TOKENIZERS to a folder with qwen3/tokenizer.json")
    for name in (STOCK, MARKED, *templates):
        need_file(TEMPLATES / name, "set TURNLOOM_TEMPLATES to a folder with it")


def tokenizer_json() -> str:
    """Qwen3's tokenizer."""
    return (QWEN3 / "tokenizer.json").read_text(encoding="utf-8")


def template(name: str = STOCK) -> str:
    """A public chat template, its line ends untouched."""
    return (TEMPLATES / name).read_bytes().decode()


def prepared(folder: Path) -> Path:
    """Write Qwen3 as `prepare` does, without transformers: what is in the folder is already as it should be."""
    folder.mkdir(parents=True)
    texts = {TOKENIZER: tokenizer_json(), TEMPLATE: template(), SPECIAL_TOKENS: '{"eos_token": "<|im_end|>"}'}
    sha = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    manifest = Manifest(
        version=MANIFEST_VERSION,
        name="qwen3",
        source="qwen3",
        revision="",
        tokenizer_sha256=sha[TOKENIZER],
        template_sha256=sha[TEMPLATE],
        special_tokens_sha256=sha[SPECIAL_TOKENS],
        loaded_with="bench",
    )
    for name, text in {**texts, MANIFEST: manifest.to_json()}.items():
        (folder / name).write_bytes(text.encode())
    return folder
