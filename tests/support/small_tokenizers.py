"""Small tokenizers of four families, trained on the spot, and hand-made ChatML views. Knows no template engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from turnloom.masks.domain.rendered_text import Kind, MessageSpan, Origin, Part, RenderedText, View

CORPUS = (
    "Hello world, how are you today? I am fine, thank you very much.",
    "system user assistant tool You are a helpful assistant. Answer the question.",
    "The quick brown fox jumps over the lazy dog; 0123456789 times.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))\n",
    "Zwölf Boxkämpfer jagen Viktor. Élève naïve à l'école, cœur brisé.",
    "你好世界 天地玄黄 Привет мир ελληνικά",
    "think reasoning answer tool_call arguments name im_start im_end <>|/",
) * 8

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ORDINARY = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def _add_tokens(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ORDINARY])
    return tokenizer


@cache
def byte_level() -> str:
    """Qwen's kind: NFC, a split expression, byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, "\n\n\n\n" * 40, "    " * 40], trainer)
    return str(_add_tokens(tokenizer).to_str())


@cache
def sentence_piece(prefix: str = "first") -> str:
    """Llama's kind: BPE over a meta space with bytes for what the vocabulary lacks.

    `prefix` is "first" or "always" (Metaspace's schemes), or "legacy" (a normalizer that prepends the space).
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="first" if prefix == "legacy" else prefix, split=False
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [word for line in CORPUS[:5] for word in line.replace("\n", " ").split(" ")]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    tokenizer.train_from_iterator([*words, *CORPUS[:5]], trainer)
    root = json.loads(_add_tokens(tokenizer).to_str())
    root["added_tokens"] = [token for token in root["added_tokens"] if token["content"] not in byte_tokens]
    root["model"]["byte_fallback"] = True
    if prefix == "legacy":
        root["pre_tokenizer"] = None
        root["normalizer"] = {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        }
    return json.dumps(root)


@cache
def unigram() -> str:
    """XLM-R's kind: NFKC, a meta space before every word, scores; `</s>` is a piece with the best score of all."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(_add_tokens(tokenizer).to_str())


@cache
def word_piece() -> str:
    """BERT's kind: lower-cases, strips accents, loses white space."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(_add_tokens(tokenizer).to_str())


def families() -> dict[str, str]:
    """Every family's tokenizer.json by name."""
    return {
        "byte_level": byte_level(),
        "sentence_piece_first": sentence_piece("first"),
        "sentence_piece_always": sentence_piece("always"),
        "sentence_piece_legacy": sentence_piece("legacy"),
        "unigram": unigram(),
        "word_piece": word_piece(),
    }


def with_flags(tokenizer_json: str, content: str, **flags: bool) -> str:
    """The tokenizer with flags of one added token changed."""
    root = json.loads(tokenizer_json)
    (token,) = [token for token in root["added_tokens"] if token["content"] == content]
    token.update(flags)
    return json.dumps(root)


def rendered(*runs: str | tuple[str, int, str]) -> RenderedText:
    """A rendered text of literals (plain strings) and texts of messages (text, index, field)."""
    pairs = [(run, None) if isinstance(run, str) else (run[0], Origin(run[1], run[2])) for run in runs]
    return RenderedText(
        "".join(text for text, _ in pairs), tuple((len(text), origin) for text, origin in pairs if text)
    )


def chatml(messages: Sequence[tuple[str, str]], trained: Sequence[int] | None = None) -> View:
    """The ChatML view of (role, content) pairs, with a message span for every message."""
    runs: list[str | tuple[str, int, str]] = []
    message_spans = []
    position = 0
    for index, (role, text) in enumerate(messages):
        header, eot = f"<|im_start|>{role}\n", "<|im_end|>"
        start = position + len(header)
        eot_start = start + len(text)
        end = eot_start + len(eot)
        content = (Part(start, eot_start, Kind.CONTENT),) if text else ()
        parts = (*content, Part(eot_start, end, Kind.EOT))
        message_spans.append(MessageSpan(index, role, start, eot_start, end, end + 1, "by hand", parts))
        runs += [header, (text, index, "content"), eot + "\n"]
        position = end + 1
    assistants = [index for index, (role, _) in enumerate(messages) if role == "assistant"]
    return View(
        rendered(*runs), tuple(message_spans), frozenset(assistants if trained is None else trained), len(messages)
    )
