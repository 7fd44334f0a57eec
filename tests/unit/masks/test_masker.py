"""The engine as a function: any folder of the hub, any iterable, any worker; and nothing but the engine's libraries."""

from __future__ import annotations

import datetime
import json
import os
import pickle
import re
import subprocess
import sys
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.circles import circular, nested
from tests.unit.masks.test_model import source
from turnloom.masks import Masker, ModelNotUsable, Options, PreprocessError, TrainOn, Truncation, load_model
from turnloom.masks.domain import errors
from turnloom.masks.domain.errors import InvalidOption, MalformedConversation, TooLong
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.masks.domain.reading import conversation_from
from turnloom.masks.pipeline import preprocess_batch
from turnloom.masks.prepare import prepare

TOOLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATS = [
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]},
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "no"}, {"role": "user", "content": "?"}],
    {"messages": [{"role": "user", "content": "alone"}]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source(tmp_path_factory.mktemp("hub") / "model")


@pytest.fixture(scope="module")
def masker(folder: Path) -> Masker:
    return Masker(load_model(folder))


@pytest.fixture(scope="module")
def tools_masker(tmp_path_factory: pytest.TempPathFactory) -> Masker:
    """Of a template that prints tools and the arguments of calls as JSON."""
    folder = source(tmp_path_factory.mktemp("tools") / "model", template=TOOLS)
    return Masker(load_model(folder), Options(date="2026-01-02"))


def test_rows_are_those_of_the_pipeline(masker: Masker) -> None:
    expected = preprocess_batch([conversation_from(chat) for chat in CHATS], masker.options, masker.model)
    for got, wanted in zip(masker(CHATS), expected, strict=True):
        if isinstance(wanted, PreprocessedConversation):
            assert [row.token_ids.tolist() for row in got.rows] == [one.token_ids.tolist() for one in wanted.examples]
            assert [row.target_weights.tolist() for row in got.rows] == [
                one.target_weights().tolist() for one in wanted.examples
            ]
        else:
            assert str(got.error) == str(wanted)


def called(arguments: object, **more: object) -> dict[str, object]:
    """A conversation with a tool call."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    reply = {"role": "assistant", "content": "", "tool_calls": [call]}
    return {"messages": [{"role": "user", "content": "hi"}, reply], **more}


def extra_in(index: int, extra: object) -> dict[str, object]:
    """A conversation with a key of a message that is no one's but the sender's."""
    messages: list[dict[str, object]] = [{"role": role, "content": "hi"} for role in ("user", "assistant") * 3]
    messages[index]["extra"] = extra
    return {"messages": messages}


ARGUMENTS = "messages[1].tool_calls[0].function.arguments"
GIVE = "Give text, numbers, lists and objects, few inside others."


class Written(str, Enum):  # noqa: UP042  # StrEnum prints its text
    """Texts that Python prints as Written.USER, and JSON as user."""

    USER = "user"
    LIST = "list"


class Number(IntEnum):
    """Numbers that Python prints with a name."""

    ONE = 1


class Given(UserDict[str, object]):
    """A mapping that is no dictionary."""


@pytest.mark.parametrize(
    ("given_as", "meant"),
    [
        (np.array([1, 2]), [1, 2]),
        (np.float32(1.5), 1.5),
        (np.str_("x"), "x"),
        (Written.LIST, "list"),
        ([Written.LIST, True, Number.ONE], ["list", True, 1]),
        ({2: 2, None: 3, True: 4.5, 1.5: {Number.ONE: 5}}, {"2": 2, "null": 3, "true": 4.5, "1.5": {"1": 5}}),
        ({Written.LIST: {"b": Given(c=Written.USER)}}, {"list": {"b": {"c": "user"}}}),
    ],
    ids=repr,
)
def test_values_of_libraries_are_what_they_stand_for(tools_masker: Masker, given_as: object, meant: object) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": given_as}}]
    wanted = called({"a": meant}, tools=[{"type": "function", "function": {"name": "f", "description": meant}}])
    found = called({"a": given_as}, tools=tools)
    messages: Any = found["messages"]
    messages[0]["role"] = Written.USER
    messages[1]["tool_calls"] = np.array(messages[1]["tool_calls"], dtype=object)
    for _ in range(2):
        (one,), (other,) = tools_masker([found])[0].rows, tools_masker([wanted])[0].rows
        assert one.token_ids.tolist() == other.token_ids.tolist()


def test_a_key_that_json_can_not_hold_is_refused_whatever_the_model_has_seen(tools_masker: Masker) -> None:
    rest = "has a key that is no text, which JSON can't hold."
    key = ("a", 1)
    for _ in range(2):
        (made,) = tools_masker([called({"a": [{key: 1}]})])
        assert str(made.error) == f"{ARGUMENTS}.a[0]: {rest} {GIVE}"
        (made,) = tools_masker([called({}, tools=[{"name": "f", "x": {key: 1}}])])
        assert str(made.error) == f"tools[0].x: {rest} {GIVE}"
        tools_masker([called({"a": [{"1": 1}]}), called({}, tools=[{"name": "f", "x": {"1": 1}}])])


def test_a_part_whose_type_is_no_text_is_refused(masker: Masker) -> None:
    parts = [{"type": ["text"], "text": "x"}]
    (made,) = masker([[{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]])
    assert str(made.error) == "messages[0].content: part 0 is of type ['text']; give it a type"


def test_what_pandas_has_for_null_is_refused_inside_a_call(tools_masker: Masker) -> None:
    found = called({})
    messages: Any = found["messages"]
    messages[1]["tool_calls"][0]["id"] = pd.NA
    (made,) = tools_masker([found])
    assert str(made.error) == f"messages[1].tool_calls[0].id: is a Python NAType, which JSON can't hold. {GIVE}"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (called(circular()), f"{ARGUMENTS}.self: holds itself, which JSON can't hold. {GIVE}"),
        (called({"x": [circular()]}), f"{ARGUMENTS}.x[0].self: holds itself, which JSON can't hold. {GIVE}"),
        (called({}, tools=[circular()]), f"tools[0].self: holds itself, which JSON can't hold. {GIVE}"),
        (
            called({"day": datetime.date(2026, 1, 2)}),
            f"{ARGUMENTS}.day: is a Python date, which JSON can't hold. {GIVE}",
        ),
        (called(nested(20_000)), f"{ARGUMENTS}: is nested too deeply. {GIVE}"),
        (called({}, tools=[{}, nested(20_000)]), f"tools[1]: is nested too deeply. {GIVE}"),
        (called({}, tools=[nested(500)]), f"tools[0]: is nested too deeply. {GIVE}"),  # the template gives up on it
        (extra_in(3, nested(20_000)), f"messages[3].extra: is nested too deeply. {GIVE}"),
        (extra_in(3, nested(900)), f"messages[3].extra: is nested too deeply. {GIVE}"),
    ],
)
def test_a_value_that_json_can_not_hold_is_refused_by_its_place_and_stops_no_other(
    tools_masker: Masker, document: dict[str, object], sentence: str
) -> None:
    good, bad, other = tools_masker([CHATS[0], document, CHATS[0]])
    assert str(bad.error) == sentence
    assert [len(one.rows) for one in (good, other)] == [1, 1]


def test_options_that_json_can_not_hold_are_refused_by_their_place(masker: Masker) -> None:
    with pytest.raises(InvalidOption, match=r"^chat_template_kwargs\.self holds itself, which JSON can't hold; give"):
        Masker(masker.model, Options(chat_template_kwargs=circular()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_length": "2048"}, "max_length is '2048'; give a whole number"),
        ({"max_length": True}, "max_length is True; give a whole number"),
        ({"max_length": 1}, "max_length is 1; a row needs at least 2 tokens"),
        ({"max_examples_per_conversation": 1.5}, "max_examples_per_conversation is 1.5; give a whole number"),
        ({"normalize_messages": "no"}, "normalize_messages is 'no'; give True or False"),
        ({"part_weights": {"reason": 0.5}}, "part_weights has no 'reason'; choose among reasoning, content, tool_call"),
        ({"part_weights": 0.5}, "part_weights is 0.5; give PartWeights"),
        ({"part_weights": {"reasoning": -1.0}}, "part_weights.reasoning is -1.0; give a finite number"),
        (
            {"part_weights": {"content": 3.5e38}},
            "part_weights.content is 3.5e+38; give a finite number",
        ),
        ({"date": "today"}, "date is 'today'; give an ISO date such as 2026-01-31"),
        ({"date": 20260131}, "date is 20260131; give text such as '2026-01-31'"),
    ],
)
def test_a_value_that_means_nothing_is_refused_before_any_conversation(
    masker: Masker, given: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidOption, match=f"^{re.escape(said)}"):
        Masker(masker.model, Options(**given))  # type: ignore[arg-type]


def test_a_template_for_servers_is_refused_at_once(masker: Masker) -> None:
    with pytest.raises(InvalidOption, match="put the template as chat_template"):
        Masker(masker.model, Options(chat_template="{{ messages }}"))


def test_a_row_has_one_weight_for_each_prediction(masker: Masker) -> None:
    (row,) = masker(CHATS[:1])[0].rows
    assert (row.token_ids.dtype, row.target_weights.dtype) == (np.int32, np.float32)
    assert row.token_ids.shape == (row.target_weights.shape[0] + 1,)
    trained = masker.model.vocabulary.decode(row.token_ids[1:][row.target_weights > 0])
    assert trained.decode() == "yes<|im_end|>"


def test_a_bad_conversation_harms_no_other(masker: Masker) -> None:
    found = masker([CHATS[0], {"messages": "x"}, {"text": "x"}, 3, CHATS[0]])
    assert [bool(one.rows) for one in found] == [True, False, False, False, True]
    assert [str(one.error) for one in found[1:4]] == [
        "messages: is text; send a list",
        "messages: missing (keys: text); send the list under this key",
        "messages: is the number 3; send a list",
    ]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("x", "messages[1]: is text; send an object with role and content"),
        ({"content": "x"}, "messages[1].role: is null or absent; send text such as 'user'"),
        ({"role": "assistant", "weight": -1}, "messages[1].weight: is the number -1; send a number from 0 to 3.4e38"),
        ({"role": "assistant", "trainable": 1}, "messages[1].trainable: is the number 1; send true or false"),
    ],
)
def test_what_can_not_be_read_is_named(message: object, sentence: str) -> None:
    with pytest.raises(MalformedConversation) as caught:
        conversation_from([{"role": "user", "content": "x"}, message])
    assert str(caught.value) == sentence


def test_the_senders_weights_reach_the_rows(folder: Path) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes", "weight": 0.5}]
    (row,) = Masker(load_model(folder))([chat])[0].rows
    assert set(row.target_weights.tolist()) == {0.0, 0.5}


def test_a_column_of_arrow_is_taken_as_it_is(masker: Masker) -> None:
    column = pa.chunked_array([[CHATS[0]], [CHATS[0]]])
    assert [len(one.rows) for one in masker(column)] == [1, 1]


def test_what_pandas_reads_from_parquet_is_taken_as_it_is(tools_masker: Masker) -> None:
    tool = {"type": "function", "function": {"name": "w", "parameters": {"type": "object", "required": ["c"]}}}
    call = {"type": "function", "function": {"name": "w", "arguments": {"c": [1, 2]}}}
    plain = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    arrays = [plain[0], plain[1] | {"tool_calls": np.array([_with_array(call)], dtype=object)}]
    required = {**tool["function"], "parameters": {"type": "object", "required": np.array(["c"], dtype=object)}}
    given = {
        "messages": np.array(arrays, dtype=object),
        "tools": np.array([{**tool, "function": required}], dtype=object),
    }
    expected, found = tools_masker([{"messages": plain, "tools": [tool]}, given])
    assert found.error is None
    assert [row.token_ids.tolist() for row in found.rows] == [row.token_ids.tolist() for row in expected.rows]
    for nothing in (float("nan"), None, "", "null"):
        first, second = tools_masker([{"messages": given["messages"], "tools": nothing}, plain])
        assert [row.token_ids.tolist() for row in first.rows] == [row.token_ids.tolist() for row in second.rows] != []


def _with_array(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "function": {"name": "w", "arguments": {"c": np.array([1, 2])}}}


def test_an_array_beside_messages_harms_no_other_conversation(masker: Masker) -> None:
    chat = {"messages": CHATS[0]["messages"]}  # type: ignore[call-overload]  # the first is an object
    found = masker([{**chat, "loss_mask": np.array([0, 1])}, {**chat, "loss_mask": np.array([0, 0, 1])}, chat])
    assert [bool(one.rows) for one in found] == [True, False, True]
    assert str(found[1].error).startswith("loss_mask: does not fit; give 0 or 1 for each message (2 in all)")


def test_threads_may_share_a_masker(masker: Masker) -> None:
    expected = [row.token_ids.tolist() for one in masker(CHATS) for row in one.rows]
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: masker(CHATS), range(16)):
            assert [row.token_ids.tolist() for one in found for row in one.rows] == expected


@pytest.mark.parametrize("built", [False, True])
def test_a_pickled_masker_gives_the_same_rows(masker: Masker, folder: Path, built: bool) -> None:
    if built:
        masker = Masker(load_model(folder))
        object.__setattr__(masker.model, "folder", None)
    again = pickle.loads(pickle.dumps(masker))
    assert pickle.loads(pickle.dumps(masker)).model is again.model  # loaded once in a process
    assert [row.token_ids.tolist() for row in again(CHATS)[0].rows] == [
        row.token_ids.tolist() for row in masker(CHATS)[0].rows
    ]


def test_a_folder_that_changed_since_it_was_pickled_is_refused(tmp_path: Path) -> None:
    changed = source(tmp_path / "model", template="{# of its own #}{% for m in messages %}{{ m.content }}{% endfor %}")
    pickled = pickle.dumps(load_model(changed, "changed"))
    (changed / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}.{% endfor %}")
    with pytest.raises(ModelNotUsable, match="differs here from what it was where the model was pickled"):
        pickle.loads(pickled)


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PreprocessError)]


@given(kind=st.sampled_from(ERRORS), index=st.none() | st.integers(0, 9), field=st.sampled_from(["", "content"]))
def test_refusals_can_be_pickled(kind: type[PreprocessError], index: int | None, field: str) -> None:
    error = kind("is wrong; mend it", message_index=index, field=field)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.message_index, again.field) == (kind, str(error), index, field)


def test_options_are_checked_before_any_conversation(folder: Path) -> None:
    with pytest.raises(InvalidOption, match="max_length is 1; a row needs at least 2 tokens"):
        Masker(load_model(folder), Options(max_length=1))


CHOICES = [
    (field.name, one) for field in fields(Options) if isinstance(field.default, Enum) for one in type(field.default)
]


@given(choice=st.sampled_from(CHOICES))
def test_an_option_may_be_named(choice: tuple[str, Enum]) -> None:
    name, one = choice
    assert Options(**{name: one.value}) == Options(**{name: one})


def test_a_name_that_an_option_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidOption) as caught:
        Options(truncation="bogus")
    assert str(caught.value) == "truncation is 'bogus'; choose one of right, left, drop_turns, error"
    assert Options(part_weights={"reasoning": 0.5}).part_weights.reasoning == 0.5


def test_options_are_honoured(folder: Path) -> None:
    model = load_model(folder)
    strict = Masker(model, Options(max_length=4, truncation=Truncation.ERROR))
    assert isinstance(strict(CHATS)[0].error, TooLong)
    everything = Masker(model, Options(train_on=TrainOn.ALL_TOKENS))
    assert everything(CHATS)[0].rows[0].target_weights.min() == 1.0


def test_a_folder_of_the_hub_gives_what_its_preparation_gives(folder: Path, masker: Masker, tmp_path: Path) -> None:
    prepare(str(folder), tmp_path / "prepared")
    prepared = Masker(load_model(tmp_path / "prepared"))
    assert dict(prepared.model.special_tokens) == dict(masker.model.special_tokens)
    for one, other in zip(prepared(CHATS), masker(CHATS), strict=True):
        assert [row.token_ids.tolist() for row in one.rows] == [row.token_ids.tolist() for row in other.rows]


def test_a_template_of_the_configuration_is_found(tmp_path: Path) -> None:
    named = {"tool_use": "{{ 1 }}", "default": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    model = load_model(source(tmp_path / "model", template=named))
    assert model.chat_format.template.source == named["default"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"chat_template": None}, "has no chat template; add chat_template.jinja"),
        (
            {"chat_template": "x", "added_tokens_decoder": {"9": {"content": "<new>"}}},
            "names the token '<new>', which tokenizer.json lacks; turnloom.masks.prepare_model",
        ),
    ],
)
def test_a_folder_that_transformers_would_change_is_refused(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    model = source(tmp_path / "model", template=None)
    (model / "tokenizer_config.json").write_text(json.dumps(change))
    with pytest.raises(ModelNotUsable, match=sentence):
        load_model(model)


def test_a_name_of_the_hub_is_told_apart_from_a_folder() -> None:
    with pytest.raises(ModelNotUsable, match=r"there is no such folder; fetch .* turnloom\.masks\.prepare_model"):
        load_model("nobody/no-model")


#: What the engine must not need; an import of one of these ends the script.
FORBIDDEN = ("grpc", "google", "redis", "rq", "pyarrow", "fsspec", "transformers", "typer", "rich", "services")
SCRIPT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise ImportError("the engine imported " + name)

sys.meta_path.insert(0, Refuse())
import json
from turnloom.masks import Masker, load_model
masker = Masker(load_model(sys.argv[1]))
chats = [json.loads(line) for line in open(sys.argv[2])]
print(sum(len(one.rows) for one in masker(chats)))
"""


def test_the_engine_needs_none_of_the_clients_or_services_libraries(folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "chats.jsonl"
    lines.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    script = SCRIPT.format(forbidden=set(FORBIDDEN))
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(lines)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


@pytest.mark.parametrize(("sent", "expected"), [(0, "0"), (7, "7"), ("", ""), (None, ""), ("a", "a")])
def test_an_id_of_zero_is_an_id(sent: object, expected: str) -> None:
    assert conversation_from({"messages": [], "id": sent}).id == expected
