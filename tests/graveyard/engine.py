"""Runs a case through the readers and the engine: rendered, recorded, replayed, and between neighbours in a batch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing

from tests.graveyard import templates
from tests.graveyard.case import Case
from tests.graveyard.reading import conversation_in
from tests.support.small_tokenizers import byte_level, sentence_piece
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.example import PreprocessedConversation, TokenizedExample
from turnloom.masks.domain.options import Options, PartWeights
from turnloom.masks.inspect.lint import lint
from turnloom.masks.model import Model, build_model
from turnloom.masks.pipeline import preprocess_batch
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.turns.views import ChatFormat

_SHARED: Final = Path(__file__).resolve().parents[3] / "shared"
TEMPLATES: Final = Path(os.environ.get("TURNLOOM_TEMPLATES", _SHARED / "templates"))
TOKENIZERS: Final = Path(os.environ.get("TURNLOOM_TOKENIZERS", _SHARED / "tokenizers"))
DATE: Final = "2026-01-02"  #: that templates see
RUNS: Final = 4  #: a shape is rendered, recorded, and then replayed
#: A neighbour in a batch, longer than the cases.
_NEIGHBOUR: Final = Conversation(
    [{"role": "user", "content": "How are you today? " * 20}, {"role": "assistant", "content": "Fine, thank you."}]
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One row as it came out."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]  #: of each token, 0.0 for the first
    texts: tuple[bytes, ...]  #: what each token decodes to

    @property
    def text(self) -> str:
        """The row decoded."""
        return b"".join(self.texts).decode()

    @property
    def stretches(self) -> tuple[str, ...]:
        """Text of neighbouring tokens that carry weight."""
        found: list[bytes] = []
        inside = False
        for weight, text in zip(self.weights, self.texts, strict=True):
            if weight:
                found = [*found[:-1], found[-1] + text] if inside else [*found, text]
            inside = weight > 0
        return tuple(stretch.decode() for stretch in found)

    @property
    def shown(self) -> str:
        """The row as docs/masks.md writes it."""
        line, before = "", 0.0
        for weight, text in zip(self.weights, self.texts, strict=True):
            if weight != before:
                line += "⟧" * (before > 0) + ("⟦" if weight == 1 else f"{weight:g}⟦" if weight else "")
                before = weight
            line += text.decode(errors="backslashreplace").replace("\n", "↵")
        return line + "⟧" * (before > 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case."""

    rows: tuple[Seen, ...] = ()
    warnings: tuple[str, ...] = ()
    refusal: str = ""  #: the sentence; then there are no rows

    @property
    def shown(self) -> str:
        """For people."""
        rows = [row.shown for row in self.rows]
        return "\n".join([self.refusal or "trained", *rows, *(f"warning: {warning}" for warning in self.warnings)])


def is_shared(case: Case) -> bool:
    """Whether the case needs what is not in this repository."""
    return case.tokenizer == "qwen3" or not hasattr(templates, case.template)


def lacks(case: Case) -> str:
    """What the case needs and is not there; "" where nothing is missing."""
    if not hasattr(templates, case.template) and not (TEMPLATES / f"{case.template}.jinja").is_file():
        return f"no {TEMPLATES / case.template}.jinja (TURNLOOM_TEMPLATES)"
    if case.tokenizer == "qwen3" and not (TOKENIZERS / "qwen3" / "tokenizer.json").is_file():
        return f"no {TOKENIZERS / 'qwen3'} (TURNLOOM_TOKENIZERS)"
    return ""


def outcome(case: Case, folder: Path) -> Outcome:
    """What Turnloom makes of a case whose needs are met; `folder` is for its file."""
    given = conversation_in(case.given, folder)
    if isinstance(given, str):
        return Outcome(refusal=given)
    model, options = model_of(case), _options(case)
    found = [_seen(preprocess_batch([given], options, model)[0], model) for _ in range(RUNS)]
    assert all(one == found[0] for one in found), "a replay gives other rows than a render"
    neighboured = preprocess_batch([_NEIGHBOUR, given, _NEIGHBOUR], options, model)[1]
    assert _seen(neighboured, model) == found[0], "neighbours in a batch change the rows"
    unsaid = set(case.lints) - set(lint([given], options, model).counts)
    assert not unsaid, f"lint does not say {unsaid}"
    return found[0]


def model_of(case: Case) -> Model:
    """The template with the tokenizer of the case."""
    return _model(case.template, case.tokenizer, tuple(sorted(case.special_tokens.items())))


@cache
def _model(template: str, tokenizer: str, special_tokens: tuple[tuple[str, str], ...]) -> Model:
    ours = getattr(templates, template, None)
    source = ours if ours is not None else (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    base = _base(tokenizer)
    tokens = base.chat_format.control_tokens
    assert {text for _, text in special_tokens} <= tokens.keys()
    return replace(base, chat_format=ChatFormat(compile_template(source), dict(special_tokens), tokens))


@cache
def _base(tokenizer: str) -> Model:
    """A model of the tokenizer: to prove one exact takes most of a second."""
    return build_model(tokenizer, tokenizer_json(tokenizer), templates.CHATML, {})


@cache
def tokenizer_json(name: str) -> str:
    """The text of tokenizer.json: qwen3, or a small one with the control tokens of all templates."""
    if name == "qwen3":
        return (TOKENIZERS / "qwen3" / "tokenizer.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_str(sentence_piece() if name == "sentence_piece" else byte_level())
    for text, special in templates.CONTROL_TOKENS.items():
        token = AddedToken(text, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    if name == "adds_bos":
        bos = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return str(tokenizer.to_str())


def _options(case: Case) -> Options:
    values: dict[str, object] = {"date": DATE}
    for name, value in case.options.items():
        default = getattr(Options(), name)
        if isinstance(default, PartWeights) and isinstance(value, Mapping):
            values[name] = PartWeights(**value)
        else:
            values[name] = type(default)(value) if isinstance(default, Enum) else value
    return Options(**values)  # type: ignore[arg-type]


def _seen(result: PreprocessedConversation | PreprocessError, model: Model) -> Outcome:
    if isinstance(result, PreprocessError):
        return Outcome(refusal=f"{type(result).__name__}: {result}")
    return Outcome(tuple(_row(example, model) for example in result.examples), tuple(result.warnings))


def _row(example: TokenizedExample, model: Model) -> Seen:
    ids = tuple(example.token_ids.tolist())
    weights = (0.0, *example.target_weights().tolist())
    return Seen(ids, weights, tuple(model.vocabulary.token_text(index) for index in ids))
