"""Rows for other trainers: what their labels and weights say is what ours say, and their libraries take them."""

from __future__ import annotations

import doctest
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnloom import training_formats
from turnloom.client.exports import export
from turnloom.errors import InvalidInput
from turnloom.training_formats import IGNORED, RECORDS, datums, is_fractional, record
from turnloom.wire.batches import Row


@st.composite
def rows(draw: st.DrawFn) -> Row:
    tokens = draw(st.lists(st.integers(0, 1000), min_size=2, max_size=12))
    weights = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=len(tokens) - 1, max_size=len(tokens) - 1))
    return Row(np.array(tokens, np.int32), np.array(weights, np.float32), draw(st.integers(0, 5)), 0)


@given(row=rows())
def test_a_label_is_its_token_exactly_where_predicting_it_has_weight(row: Row) -> None:
    made = record(row, "trl")
    assert made["input_ids"] == row.token_ids.tolist()
    assert len(made["labels"]) == len(made["loss_weights"]) == len(row.token_ids)
    assert (made["labels"][0], made["loss_weights"][0]) == (IGNORED, 0.0)
    for at, weight in enumerate(row.target_weights.tolist(), start=1):
        assert made["labels"][at] == (int(row.token_ids[at]) if weight > 0 else IGNORED)
        assert made["loss_weights"][at] == weight


@given(row=rows())
def test_a_datum_has_the_shifted_tokens_and_every_weight(row: Row) -> None:
    tinker = pytest.importorskip("tinker")
    (made,) = datums([row])
    assert isinstance(made, tinker.Datum)
    assert made.model_input.to_ints() == row.token_ids[:-1].tolist()
    assert made.loss_fn_inputs["target_tokens"].to_numpy().tolist() == row.token_ids[1:].tolist()
    assert made.loss_fn_inputs["weights"].to_numpy().tolist() == row.target_weights.tolist()
    line = json.loads(json.dumps(record(row, "cookbook")))
    assert training_formats.datum(line).loss_fn_inputs["weights"].to_numpy().tolist() == row.target_weights.tolist()


@given(row=rows())
def test_axolotl_gets_no_row_whose_weights_it_would_lose(row: Row) -> None:
    if is_fractional(row):
        with pytest.raises(training_formats.WeightsNotTaken, match="weights other than 0 and 1"):
            record(row, "axolotl")
    else:
        assert record(row, "axolotl")["attention_mask"] == [1] * len(row.token_ids)


def row(weight: float = 1.0, conversation: int = 3) -> Row:
    return Row(np.array([5, 6, 7], np.int32), np.array([0, weight], np.float32), conversation, 1)


@pytest.mark.parametrize("to", sorted(RECORDS))
def test_a_file_has_every_row(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnloom.client.exports.GROUP", 2)
    path = tmp_path / "deep" / "rows"
    assert export((row(conversation=at) for at in range(5)), to, path) == 5
    if to == "cookbook":
        found = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        found = pq.read_table(path).to_pylist()
    extra = [{"conversation": at, "part": 1} if to == "datasets" else {} for at in range(5)]
    assert found == [{**record(row(), to), **more} for more in extra]


def test_an_export_that_would_lose_weights_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"Row 1: axolotl: a row has weights other than 0 and 1"):
        export([row(), row(0.5)], "axolotl", tmp_path / "rows")
    assert list(tmp_path.iterdir()) == []


def test_no_rows_make_an_empty_file(tmp_path: Path) -> None:
    assert export([], "trl", tmp_path / "rows") == 0
    assert pq.read_table(tmp_path / "rows").num_rows == 0


def test_the_example_of_the_page_is_right() -> None:
    assert doctest.testmod(training_formats).failed == 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs bench/requirements-peers.txt")
def test_the_first_loss_of_trls_trainer_is_ours(tmp_path: Path) -> None:
    """SFTTrainer takes the exported file as it is, and its loss is the NLL per trained token that we report."""
    import datasets
    import torch
    import transformers
    import trl

    from services.trainer.batches.weighting import weighted_nll
    from turnloom.embedded.sample_data import train_conversations
    from turnloom.embedded.tiny_model import make
    from turnloom.masks import Masker, load_model

    chats = train_conversations()[:6]
    lines = tmp_path / "chats.jsonl"
    lines.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    make(tmp_path / "model", [lines], 600, seed=0)
    masked = Masker(load_model(tmp_path / "model"))(chats)
    ours = [Row(one.token_ids, one.target_weights, at, one.part) for at, some in enumerate(masked) for one in some.rows]
    export(ours, "trl", tmp_path / "rows.parquet")
    trainer = trl.SFTTrainer(
        model=str(tmp_path / "model"),
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=len(ours),
            max_steps=1,
            max_length=None,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            save_strategy="no",
        ),
        train_dataset=datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train"),
    )
    trainer.train()
    theirs = trainer.state.log_history[0]["loss"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    nll = []
    with torch.no_grad():
        for one in ours:
            ids = torch.tensor(one.token_ids.astype(np.int64))[None]
            logprobs = torch.log_softmax(model(ids[:, :-1]).logits[0].double(), -1)
            nll.append(weighted_nll(logprobs.gather(1, ids[0, 1:, None])[:, 0].numpy(), one.target_weights))
    expected = math.fsum(nll) / math.fsum(float(one.target_weights.sum()) for one in ours)
    assert theirs == pytest.approx(expected, abs=1e-5)
