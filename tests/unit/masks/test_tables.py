"""Conversations in tables give the rows of their JSON, by every way in that takes tables."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document

from services.preprocess.wire.conversation import conversation as from_wire
from tests.unit.masks.test_masker import TOOLS
from tests.unit.masks.test_model import source
from tests.unit.reading.test_arrow_kinds import CHAT, KINDS, PLAIN
from turnloom.datatrove_step import WriteRows
from turnloom.errors import InvalidInput
from turnloom.masks import Masked, Masker, Options, PartWeights, load_model
from turnloom.masks.columns import BadConversation, RowColumns
from turnloom.masks.domain.errors import InvalidOption, MalformedConversation, PreprocessError
from turnloom.masks.domain.reading import conversation_from
from turnloom.masks.pipeline import preprocess
from turnloom.reading.local_sources import read
from turnloom.wire.conversations import from_json

USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}
#: Reads parts, and takes a part for an image where it has such a key, as Qwen's vision templates do.
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
    "{% if 'image_url' in part %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> RowColumns:
    folder = source(tmp_path_factory.mktemp("tables") / "model", template=TOOLS)
    return RowColumns(Masker(load_model(folder), Options(date="2026-01-02")))


def tool(name: str, schema: object, **keys: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "parameters": schema, **keys}}


def properties(**named: object) -> dict[str, object]:
    return {"type": "object", "properties": named}


def ids(masked: Masked) -> list[list[int]]:
    assert masked.error is None, masked.error
    return [row.token_ids.tolist() for row in masked.rows]


def by_json(rows: RowColumns, document: object) -> list[list[int]]:
    """Token ids of a conversation as a dictionary; the same that came over the wire."""
    one, other = rows.masker([document, from_wire(from_json(document))])  # type: ignore[arg-type]
    assert ids(one) == ids(other)
    return ids(one)


def by_arrow(rows: RowColumns, table: pa.Table) -> list[list[int]]:
    made = rows.arrow(table.append_column("index", pa.array(range(table.num_rows))))
    return made.column("token_ids").to_pylist()  # type: ignore[return-value]


@pytest.mark.parametrize("kind", KINDS)
def test_every_arrow_type_of_messages_gives_the_rows_of_its_json(rows: RowColumns, kind: str) -> None:
    column = KINDS[kind]()
    found = by_arrow(rows, pa.table({"messages": column}))
    assert found in ([*by_json(rows, CHAT)], [*by_json(rows, PLAIN)])
    assert found == [one for masked in rows.masker(column) for one in ids(masked)]


def test_texts_of_arrows_json_type_are_what_they_say_inside_messages_and_tools(rows: RowColumns) -> None:
    def of_json(values: list[object]) -> pa.Array:
        return pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array([json.dumps(one) for one in values]))

    tools = [tool("f", properties(a={"type": "string", "default": None}))]
    contents = of_json(["hi", [{"type": "text", "text": "yes"}]])
    messages = pa.StructArray.from_arrays([pa.array(["user", "assistant"]), contents], ["role", "content"])
    table = pa.table(
        {
            "messages": pa.ListArray.from_arrays([0, 2], messages),
            "tools": pa.ListArray.from_arrays([0, 1], of_json(list(tools))),
        }
    )
    expected = by_json(rows, {"messages": [USER, REPLY], "tools": tools})
    assert by_arrow(rows, table) == expected
    structs = pa.StructArray.from_arrays(
        [table.column(name).combine_chunks() for name in table.column_names], ["messages", "tools"]
    )
    assert [ids(one) for one in rows.masker(structs)] == [expected]


def test_what_arrow_can_not_give_as_json_is_named_where_it_is_used(rows: RowColumns) -> None:
    messages = pa.array([[USER, REPLY]])
    spoiled = pa.table({"messages": messages, "tools": [b"\xff"]})
    with pytest.raises(BadConversation, match=r"conversation 0: tools: holds bytes that are no text; repair it"):
        by_arrow(rows, spoiled)
    media = pa.table({"messages": messages, "images": [b"\xff"], "other": [b"\xff"]})
    assert by_arrow(rows, media) == by_json(rows, [USER, REPLY])
    shown = pa.table({"messages": [[{**USER, "content": "<image> hi"}, REPLY]], "images": [b"\xff"]})
    with pytest.raises(BadConversation, match=r"conversation 0: images: holds what <image> in the messages"):
        by_arrow(rows, shown)
    (one,) = rows.masker(pa.array([b"\xff"], pa.binary()))
    assert str(one.error) == "messages: holds bytes that are no text."


#: Tools of which a table fills keys in, each beside a row that has them.
FILLED = {
    "keys of a property": (
        tool("f", properties(a={"type": "string"})),
        properties(a={"type": "string", "enum": ["x"]}),
    ),
    "keys of a schema in a list": (
        tool("f", properties(a={"anyOf": [{"type": "string"}]})),
        properties(a={"anyOf": [{"type": "string", "format": "date"}]}),
    ),
    "a property": (tool("f", properties(a={"type": "string"})), properties(b={"type": "string"})),
    "a definition": (
        tool("f", {**properties(a={"type": "string"}), "$defs": {"A": {"type": "string"}}}),
        {**properties(a={"type": "string"}), "$defs": {"B": {"type": "string"}}},
    ),
}


@pytest.mark.parametrize("name", FILLED)
def test_nulls_that_a_table_filled_into_tools_reach_no_template(rows: RowColumns, name: str, tmp_path: Path) -> None:
    own, schema = FILLED[name]
    document = {"messages": [USER, REPLY], "tools": [own]}
    data = datasets.Dataset.from_list([document, {**document, "tools": [tool("f", schema, strict=True)]}])
    expected = by_json(rows, document)
    assert data[0]["tools"] != document["tools"]  # nulls were filled in
    assert by_json(rows, data[0]) == expected
    assert rows(data[:1], [0])["token_ids"][0].tolist() == expected[0]
    assert by_arrow(rows, data.data.table.slice(0, 1)) == expected
    data.to_parquet(tmp_path / "chats.parquet")
    data.to_json(tmp_path / "chats.jsonl")
    for path in (tmp_path / "chats.parquet", tmp_path / "chats.jsonl"):
        assert [ids(one) for one in rows.masker([from_wire(read(path)[0])])] == [expected]


def test_a_null_that_a_schema_may_have_is_what_the_template_gets() -> None:
    schema = properties(a={"type": "string", "default": None, "enum": ["x", None]}, b={"const": None})
    document = {"messages": [USER, REPLY], "tools": [tool("f", schema)]}
    assert conversation_from(document).tools == document["tools"]
    assert from_wire(from_json(document)).tools == document["tools"]  # type: ignore[arg-type]


def test_null_keys_of_a_part_are_absent_so_that_its_text_is_seen(tmp_path: Path) -> None:
    masker = Masker(load_model(source(tmp_path / "model", template=PARTS)), Options(date="2026-01-02"))
    rows = RowColumns(masker)

    def chat(**keys: object) -> dict[str, object]:
        asked, said = ([{"type": "text", "text": text, **keys}] for text in ("hi", "yes"))
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}

    expected = by_json(rows, chat())
    assert by_json(rows, chat(image_url=None)) == expected
    data = datasets.Dataset.from_list([chat(), chat(image_url={"url": "x"})])
    assert rows(data[:1], [0])["token_ids"][0].tolist() == expected[0]
    assert by_arrow(rows, data.data.table.slice(0, 1)) == expected


@pytest.mark.parametrize("missing", [float("nan"), pd.NA, pd.NaT, None], ids=repr)
def test_what_pandas_has_for_a_missing_value_is_absent(rows: RowColumns, missing: object) -> None:
    document = {"messages": [USER, REPLY]}
    gaps = dict.fromkeys(("tools", "functions", "system", "loss_mask", "id", "train", "chat_template_kwargs"), missing)
    assert by_json(rows, {**document, **gaps}) == by_json(rows, document)


def test_records_of_a_data_frame_are_read_by_every_way_in(rows: RowColumns) -> None:
    frame = pd.DataFrame({"messages": [[USER, REPLY]] * 2, "system": ["Be kind.", None], "id": [7, None]})
    for kinds in (frame, frame.convert_dtypes()):
        first, second = kinds.to_dict("records")
        assert by_json(rows, second) == by_json(rows, [USER, REPLY])
        assert by_json(rows, first) == by_json(rows, [{"role": "system", "content": "Be kind."}, USER, REPLY])
        assert from_json(first).id == "7"


def test_tuples_are_lists(rows: RowColumns) -> None:
    content = ({"type": "text", "text": "yes"},)
    document = {"messages": (USER, {**REPLY, "content": content}), "tools": (tool("f", properties()),)}
    assert by_json(rows, document) == by_json(rows, {"messages": [USER, REPLY], "tools": [tool("f", properties())]})
    assert by_json(rows, (USER, REPLY)) == by_json(rows, [USER, REPLY])


@pytest.mark.parametrize("schema", [properties(a={"type": "string"}), {}])
def test_schemas_that_are_json_text_are_shown_as_objects(rows: RowColumns, schema: dict[str, object]) -> None:
    whole = tool("f", schema)
    texts = [
        tool("f", json.dumps(schema)),
        {**whole, "function": json.dumps(whole["function"])},
        {"name": "f", "parameters": json.dumps(schema)},
    ]
    expected = by_json(rows, {"messages": [USER, REPLY], "tools": [whole]})
    for one in texts:
        assert by_json(rows, {"messages": [USER, REPLY], "tools": [one]}) == expected
    as_sent = RowColumns(Masker(rows.masker.model, Options(date="2026-01-02", normalize_messages=False)))
    assert by_json(as_sent, {"messages": [USER, REPLY], "tools": [texts[0]]}) != expected


@pytest.mark.parametrize(
    ("tools", "place", "what"), [(["f"], "tools[0]", "text"), ([{}, 3], "tools[1]", "the number 3")]
)
def test_a_tool_that_is_no_object_is_refused_by_every_way_in(tools: list[object], place: str, what: str) -> None:
    for name in ("tools", "functions"):
        document = {"messages": [USER, REPLY], name: tools}
        where = place.replace("tools", name)
        with pytest.raises(InvalidInput) as sent:
            from_json(document)  # type: ignore[arg-type]
        with pytest.raises(MalformedConversation) as masked:
            conversation_from(document)
        assert sent.value.message == f"{where}: is {what}; give an object."
        assert str(masked.value) == sent.value.message


def test_datatrove_reads_what_stands_beside_the_messages(rows: RowColumns, tmp_path: Path) -> None:
    chat = [USER, REPLY, USER, {**REPLY, "content": "no"}]
    beside: list[dict[str, object]] = [
        {"loss_mask": [0, 0, 0, 1], "system": "Be kind."},
        {"functions": [{"name": "f"}]},
        {},
    ]
    documents = [
        Document(text="", id=str(at), metadata={"messages": chat, "index": at, **more})
        for at, more in enumerate(beside)
    ]
    list(WriteRows(rows, tmp_path).run(iter(documents)))
    made = pq.read_table(tmp_path / "00000-00000.parquet")
    expected = [rows({name: [value] for name, value in {"messages": chat, **more}.items()}, [0]) for more in beside]
    assert made.column("token_ids").to_pylist() == [list(row) for one in expected for row in one["token_ids"]]
    assert made.column("run_values").to_pylist() == [row for one in expected for row in one["run_values"]]
    train: list[dict[str, object]] = [{"messages": chat, "index": 0, "train": False}]
    with pytest.raises(BadConversation, match="train: says that the row is not trained"):
        list(WriteRows(rows, tmp_path).run(Document(text="", id="", metadata=one) for one in train))


def test_batches_without_a_row_have_the_types_of_the_others(rows: RowColumns, tmp_path: Path) -> None:
    skipping = RowColumns(rows.masker, skip_bad=True)
    bad, good = [USER], [USER, REPLY]
    tables = [skipping.arrow(pa.table({"messages": [one], "index": [0]})) for one in (bad, good)]
    assert len({cast("pa.Table", one).schema for one in tables}) == 1
    documents = [
        Document(text="", id=str(at), metadata={"messages": good if at == 300 else bad, "index": at})
        for at in range(301)
    ]
    list(WriteRows(skipping, tmp_path).run(iter(documents)))
    assert pq.read_table(tmp_path / "00000-00000.parquet").column("conversation").to_pylist() == [300]


def test_a_map_of_datasets_may_begin_with_batches_without_a_row(rows: RowColumns) -> None:
    skipping = RowColumns(rows.masker, skip_bad=True)
    data = datasets.Dataset.from_list([{"messages": [USER]}] * 3 + [{"messages": [USER, REPLY]}])
    made = data.map(skipping, batched=True, batch_size=2, with_indices=True, remove_columns=data.column_names)
    assert made["conversation"][:] == [3]
    assert np.asarray(made["token_ids"][0]).tolist() == by_json(rows, [USER, REPLY])[0]


def test_what_a_person_should_read_is_told_once(rows: RowColumns) -> None:
    told = RowColumns(rows.masker, skip_bad=True)
    silent = [USER, {**REPLY, "content": None}]
    batch: dict[str, list[Any]] = {"messages": [silent, [USER], silent], "weight": [2.0] * 3}
    before = pickle.dumps(told)
    with pytest.warns(UserWarning, match="weight") as caught:
        made = [told(batch, positions) for positions in ([4, 5, 6], [7, 8, 9])]
    assert [one["conversation"] for one in made] == [[4, 6], [7, 9]]
    assert [str(one.message)[:60] for one in caught] == [
        "Columns that nobody reads: weight (write weight at each mess",
        "conversation 4: messages[1].content is null, and there is no",
        "conversation 5: is left out: train_on=all_assistant_messages",
    ]
    assert pickle.dumps(told) == before  # `datasets` finds what it made by this
    (one,) = rows.masker([{"messages": [USER, REPLY], "weight": 2.0}])
    assert one.warnings == (str(caught[0].message),)


def test_a_column_or_position_that_is_missing_is_named(rows: RowColumns, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"index is 'index', but .*columns: messages\); .*with_indices=True"):
        rows({"messages": [[USER, REPLY]]})
    with pytest.raises(InvalidOption, match="messages is 'messages', but there is no such column"):
        rows.arrow(pa.table({"chat": [[USER, REPLY]], "index": [0]}))
    again = pa.table([pa.array([[USER, REPLY]])] * 2 + [pa.array([0])], names=["messages", "messages", "index"])
    with pytest.raises(InvalidOption, match="the table has the column messages twice"):
        rows.arrow(again)
    for position in ("c7", 1.5, None):
        with pytest.raises(BadConversation, match=f"{position!r} in index is no position; count conversations from 0"):
            rows({"messages": [[USER, REPLY]], "index": [position]})
    with pytest.raises(BadConversation, match="None in index is no position"):
        list(WriteRows(rows, tmp_path).run(iter([Document(text="", id="", metadata={"messages": [USER, REPLY]})])))


@pytest.mark.parametrize("nothing", [None, "", "null"])
def test_no_calls_may_be_said_as_text(rows: RowColumns, nothing: object) -> None:
    document = [USER, {**REPLY, "tool_calls": nothing, "function_call": nothing}]
    assert by_json(rows, document) == by_json(rows, [USER, REPLY])


def test_a_function_call_may_be_json_text(rows: RowColumns) -> None:
    call = {"name": "f", "arguments": '{"a": 1}'}
    called = by_json(rows, [USER, {"role": "assistant", "content": None, "function_call": call}])
    assert by_json(rows, [USER, {"role": "assistant", "content": None, "function_call": json.dumps(call)}]) == called


@pytest.mark.parametrize("kind", ["arrow", "numpy", "pandas", None])
def test_every_format_of_datasets_gives_the_same_rows(rows: RowColumns, kind: str | None) -> None:
    documents = [{"messages": [USER, REPLY]}, {"messages": CHAT}]
    data = datasets.Dataset.from_list(documents).with_format(kind)
    made = data.map(rows, batched=True, with_indices=True, remove_columns=data.column_names).with_format(None)
    assert list(made["token_ids"]) == [row for document in documents for row in by_json(rows, document)]
    with pytest.raises(InvalidOption, match="pass batched=True to map"):
        datasets.Dataset.from_list(documents).map(rows, with_indices=True)


def test_a_table_is_its_rows_and_one_conversation_is_no_list_of_some(rows: RowColumns) -> None:
    document = {"messages": [USER, REPLY], "tools": [tool("f", properties())]}
    table = pa.table({name: [value] for name, value in document.items()} | {"loss_mask": [[0, 1]]})
    for one in (table, table.to_batches()[0]):
        assert [ids(masked) for masked in rows.masker(one)] == [by_json(rows, document)]
    for wrong in (document, json.dumps(document), pd.DataFrame({"messages": [[USER, REPLY]]})):
        with pytest.raises(TypeError, match=f"conversations is a {type(wrong).__name__}; give a list"):
            rows.masker(wrong)
    assert "this is a message; give each conversation as a list" in str(rows.masker([USER, REPLY])[0].error)


def test_any_mapping_is_an_object(rows: RowColumns) -> None:
    messages = [MappingProxyType(USER), MappingProxyType(REPLY), MappingProxyType(USER), MappingProxyType(REPLY)]
    document = MappingProxyType({"messages": messages, "loss_mask": [0, 0, 0, 1], "tools": [MappingProxyType({})]})
    expected = conversation_from({"messages": [USER, REPLY] * 2, "loss_mask": [0, 0, 0, 1], "tools": [{}]})
    assert conversation_from(document).training == expected.training
    assert from_wire(from_json(document)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["weight", "loss_scale"])
@pytest.mark.parametrize(
    ("weight", "shown"),
    [pytest.param(10**400, "a number that is too large", id="400 digits"), (1e300, "1e+300"), (-1, "-1")],
)
def test_a_weight_that_rows_can_not_hold_is_refused(rows: RowColumns, key: str, weight: float, shown: str) -> None:
    document = [USER, {**REPLY, key: weight}]
    (one,) = rows.masker([document])
    assert f"messages[1].{key}: is " in str(one.error)
    with pytest.raises((InvalidInput, PreprocessError), match=rf"messages\[1\]\.{key}: is ") as sent:
        preprocess(from_wire(from_json(document)), rows.masker.options, rows.masker.model)  # type: ignore[arg-type]
    if key == "weight":
        assert shown in str(one.error)
        assert shown in str(sent.value)


def test_a_weight_is_the_same_whichever_way_and_key_it_came(rows: RowColumns) -> None:
    said = [{"weight": 0.1}, {"loss_scale": 0.1}, {"weight": 0.1, "loss_scale": 0.1}]
    documents = [[USER, {**REPLY, **one}] for one in said]
    halved = Masker(rows.masker.model, Options(date="2026-01-02", part_weights=PartWeights(content=0.3)))
    sent = [from_wire(from_json(document)) for document in documents]  # type: ignore[arg-type]
    found = {tuple(row.target_weights.tolist()) for one in halved([*documents, *sent]) for row in one.rows}
    assert len(found) == 1
