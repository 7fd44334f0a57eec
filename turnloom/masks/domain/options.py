"""What a user may choose about masks. One frozen value; names and defaults are those of docs/masks.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from enum import Enum
from numbers import Integral
from typing import Final

from turnloom.masks.domain.conversation import JSON
from turnloom.masks.domain.errors import InvalidOption


class TrainOn(Enum):
    """Which messages carry weight. Names are tinker-cookbook's where it has one."""

    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"
    LAST_ASSISTANT_MESSAGE = "last_assistant_message"
    LAST_ASSISTANT_TURN = "last_assistant_turn"  # from the last user message on, tool steps included
    ALL_MESSAGES = "all_messages"
    ALL_TOKENS = "all_tokens"
    ALL_USER_AND_SYSTEM_MESSAGES = "all_user_and_system_messages"
    CUSTOMIZED = "customized"  # only messages with `trainable`


class Truncation(Enum):
    """What happens to an example longer than max_length."""

    RIGHT = "right"
    LEFT = "left"
    DROP_TURNS = "drop_turns"  # whole oldest turns after the system prompt
    ERROR = "error"


class Tokenization(Enum):
    """EXACT forces a token boundary at the start of every assistant span; HF is `tokenizer(rendered)` id for id."""

    EXACT = "exact"
    HF = "hf"


class ControlTokens(Enum):
    """What is done with message text that spells a control token of the tokenizer."""

    ESCAPE = "escape"
    REJECT = "reject"
    ALLOW = "allow"


class OnUnextendable(Enum):
    """What is done where an earlier turn, as sampled, is not a prefix of the full render."""

    SPLIT = "split"
    LAST = "last"
    AS_RENDERED = "as_rendered"
    ERROR = "error"


class TrainOnEot(Enum):
    """Whose end-of-turn tokens carry weight."""

    ALL = "all"
    LAST = "last"
    NONE = "none"


class GenerationPrefill(Enum):
    """How much of what the template puts before a reply counts as prompt."""

    DEFAULT = "default"
    LONGEST = "longest"
    NONE = "none"


class Mask(Enum):
    """Where message spans come from: proved from provenance, or the template's own {% generation %} blocks."""

    REGIONS = "regions"
    TEMPLATE = "template"


class NextHeaderStop(Enum):
    """Whether a turn that the template does not close ends with the header of the next message."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class PartWeights:
    """Factors on the target weights of the kinds of text inside an assistant message span, each >= 0 and finite."""

    reasoning: float = 1.0
    content: float = 1.0
    tool_call: float = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """How conversations become examples. Every default is the documented one."""

    train_on: TrainOn = TrainOn.ALL_ASSISTANT_MESSAGES
    max_length: int | None = 2048  #: tokens; None: no limit
    truncation: Truncation = Truncation.RIGHT
    tokenization: Tokenization = Tokenization.EXACT
    control_tokens: ControlTokens = ControlTokens.ESCAPE
    on_unextendable: OnUnextendable = OnUnextendable.SPLIT
    max_examples_per_conversation: int = 64  #: bounds what a split can make of one conversation
    train_on_eot: TrainOnEot = TrainOnEot.ALL
    include_trailing_whitespace: bool = False  #: train the white space that the template prints after the end of turn
    ensure_final_stop: bool = False  #: append the stop token to a last turn that the template leaves open
    generation_prefill: GenerationPrefill = GenerationPrefill.DEFAULT
    mask: Mask = Mask.REGIONS
    part_weights: PartWeights = field(default_factory=PartWeights)
    chat_template: str | None = None  #: a client's own template: rendered in the sandbox process
    chat_template_kwargs: Mapping[str, JSON] = field(default_factory=dict)
    next_header_stop: NextHeaderStop = NextHeaderStop.AUTO
    make_tool_call_ids: bool = False  #: in the form that the template demands
    normalize_messages: bool = True  #: give templates what inference servers do: objects for arguments, "" for null
    date: str | None = None  #: ISO date that strftime_now sees; None: services fill in the request's date and report it

    def __post_init__(self) -> None:
        """Take the documented names for enums, so that `train_on="all_tokens"` means what it says.

        Raises:
            InvalidOption: a name that the option does not have, or a value of another type.
        """
        for name, (types, wanted) in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise InvalidOption(f"{name} is {value!r}; give {wanted}", field=name)
        for name, kind in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                object.__setattr__(self, name, _chosen(name, kind, value))
        if isinstance(self.part_weights, Mapping):
            object.__setattr__(self, "part_weights", _part_weights(self.part_weights))


_CHOICES: Final[Mapping[str, type[Enum]]] = {
    "train_on": TrainOn,
    "truncation": Truncation,
    "tokenization": Tokenization,
    "control_tokens": ControlTokens,
    "on_unextendable": OnUnextendable,
    "train_on_eot": TrainOnEot,
    "generation_prefill": GenerationPrefill,
    "mask": Mask,
    "next_header_stop": NextHeaderStop,
}


_FLAG: Final = ((bool,), "True or False")
#: What the options without names hold; a bool is no number.
_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "max_length": ((Integral, type(None)), "a whole number of tokens, or None for no limit"),
    "max_examples_per_conversation": ((Integral,), "a whole number"),
    "include_trailing_whitespace": _FLAG,
    "ensure_final_stop": _FLAG,
    "make_tool_call_ids": _FLAG,
    "normalize_messages": _FLAG,
    "part_weights": ((PartWeights, Mapping), "PartWeights, or a mapping of its names to numbers"),
    "chat_template": ((str, type(None)), "the template's text, or None"),
    "date": ((str, type(None)), "text such as '2026-01-31', or None"),
}


def _part_weights(given: Mapping[str, float]) -> PartWeights:
    names = [part.name for part in fields(PartWeights)]
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        raise InvalidOption(f"part_weights has no {unknown!r}; choose among {', '.join(names)}", field="part_weights")
    return PartWeights(**given)


def is_iso_date(text: str) -> bool:
    """Whether a text is a date such as 2026-01-31."""
    try:
        return len(text) == 10 and date.fromisoformat(text) is not None
    except ValueError:
        return False


def _chosen(name: str, kind: type[Enum], value: object) -> Enum:
    try:
        return kind(value)
    except ValueError as error:
        names = ", ".join(str(one.value) for one in kind)
        raise InvalidOption(f"{name} is {value!r}; choose one of {names}", field=name) from error
