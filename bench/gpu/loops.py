"""The loops that the product is compared with, in a process of their own: an order per line in, an answer per line out.

`guide`: TuFT's guide, with its own calls: a whole batch in one forward_backward, wait, optim_step, wait; rows in the
order in which they were drawn. With `tokenize` it also renders and encodes every prefix of every conversation, step by
step.
`levers`: the product's backend with each of its ideas on or off, to see what each one is worth.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from bench.program import TUFT, libraries, usage

PROGRAM: Final = usage("bench.gpu.loops", __doc__)

with libraries(TUFT, __name__, PROGRAM):
    import numpy as np
    import tinker
    import torch
    from safetensors.torch import load_file, save_file
    from tinker import types
    from transformers import PreTrainedTokenizerFast

    from bench.gpu.rows_file import loaded_rows
    from services.trainer.backend import Adam, Adapter, Backend, Logprobs, Pending
    from services.trainer.batches.batching import Batches, calls, longest_first
    from services.trainer.batches.mixing import Part
    from services.trainer.batches.rows import Row, without_tail
    from services.trainer.batches.weighting import weighted_nll
    from services.trainer.tuft import TuftSettings, connect
    from services.trainer.tuft_http import TuftHttp

ADAM: Final = {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}  #: as the job's
MAX_LENGTH: Final = 2048


@dataclass(frozen=True, slots=True)
class Order:
    """One run, and all that decides what it does."""

    loop: str  #: guide | levers
    url: str
    key: str
    model: str  #: the server's name of it
    rank: int
    rows: str  #: .npz of the tokenized dataset
    start: str  #: folder with adapter/ and optimizer/ that every run begins from
    checkpoints: str  #: the server's checkpoint folder
    batch_size: int
    seed: int
    steps: int
    tokenize: str = ""  #: folder of the tokenizer: the guide's loop end to end, from `chats`
    chats: str = ""  #: JSON lines of the same conversations
    sort: bool = False
    cut_tail: bool = False
    budget: int = 0  #: padded tokens a call; 0: a step is one call
    overhead: int = 0  #: padded tokens that a call costs, for the product's cheapest cut; 0: every call is filled
    few_shapes: bool = False  #: calls of few numbers of rows and lengths
    even: bool = False  #: rows of a call filled up to one length by the client
    depth: int = 1  #: steps in flight
    adapter_only: bool = False  #: of `start` only the adapter's matrices are taken, as fp32: another backend saved it


@dataclass(slots=True)
class Answer:
    """What a run did."""

    times: list[float]  #: end of each step, seconds since 1970
    nlls: list[float]  #: of each step, nats, summed with the weights
    cpu_seconds: float  #: of this process, from the end of step 1 to the end of the last
    error: str = ""


def drawn(batches: Batches, step: int) -> list[int]:
    """Conversations of a step in the order in which they are drawn; steps stay within the first epoch here."""
    chosen = batches.order(1).conversation[(step - 1) * batches.batch_size : step * batches.batch_size]
    return [int(conversation) for conversation in chosen]


def cut(rows: Sequence[Row], budget: int) -> Iterator[Sequence[Row]]:
    """Calls of at most `budget` padded tokens, each filled as far as it goes, of rows in any order."""
    begin = 0
    for end in range(1, len(rows) + 1):
        longest = max(row.length for row in rows[begin : end + 1])
        if end == len(rows) or (budget and longest * (end + 1 - begin) > budget):
            yield rows[begin:end]
            begin = end


def replace_by_start(order: Order, path: str) -> None:
    """Puts the common start into a checkpoint that the server has just saved."""
    run, _, name = path.removeprefix("tinker://").split("/")
    folder = Path(order.checkpoints) / run / name
    if order.adapter_only:
        weights = Path("adapter") / "adapter_model.safetensors"
        theirs, ours = load_file(Path(order.start) / weights), load_file(folder / weights)
        if theirs.keys() != ours.keys():
            raise ValueError(f"{order.start}: {len(theirs)} matrices, of other names than the server's {len(ours)}")
        save_file({key: value.float().contiguous() for key, value in theirs.items()}, folder / weights)
        return
    for part in ("adapter", "optimizer"):
        shutil.rmtree(folder / part)
        shutil.copytree(Path(order.start) / part, folder / part)


# -- the guide's loop --------------------------------------------------------------------------------------------------


def guide(order: Order, rows: Sequence[Row]) -> Answer:
    """Trains as the guide does, from the common start."""
    service = tinker.ServiceClient(base_url=order.url, api_key=order.key)
    client = service.create_lora_training_client(
        base_model=order.model, rank=order.rank, train_mlp=True, train_attn=True, train_unembed=True
    )
    path = client.save_state("start").result().path
    replace_by_start(order, path)
    client.load_state_with_optimizer(path).result()
    tokenizer = None
    chats: list[list[dict[str, str]]] = []
    if order.tokenize:
        folder = Path(order.tokenize)
        tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_file=str(folder / "tokenizer.json")
        )
        tokenizer.chat_template = (folder / "chat_template.jinja").read_text()
        chats = [json.loads(line)["messages"] for line in Path(order.chats).read_text().splitlines()]
    batches = Batches([Part(rows, [row.conversation for row in rows])], order.batch_size, order.seed)
    by_conversation = {row.conversation: row for row in rows}
    answer = Answer([], [], 0.0)
    for step in range(1, order.steps + 1):
        members = drawn(batches, step)
        if tokenizer is None:
            data = [_datum(by_conversation[c].token_ids, by_conversation[c].target_weights) for c in members]
        else:
            data = [_datum(*_prefix_by_prefix(tokenizer, chats[c])) for c in members]
        output = client.forward_backward(data, loss_fn="cross_entropy").result()
        nll = 0.0
        for one, datum in zip(output.loss_fn_outputs, data, strict=True):
            logprobs, weights = one["logprobs"].tolist(), datum.loss_fn_inputs["weights"].tolist()
            nll -= sum(logprob * weight for logprob, weight in zip(logprobs, weights, strict=True))
        client.optim_step(types.AdamParams(**ADAM)).result()
        _note(answer, nll)
    _unload(order, client.model_id)
    return _finished(answer)


def _datum(token_ids: Sequence[int] | np.ndarray, weights: Sequence[float] | np.ndarray) -> types.Datum:
    ids = [int(token) for token in token_ids]
    return types.Datum(
        model_input=types.ModelInput.from_ints(ids[:-1]),
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_torch(torch.tensor(ids[1:], dtype=torch.long)),
            "weights": types.TensorData.from_torch(torch.tensor(np.asarray(weights, np.float32))),
        },
    )


def _prefix_by_prefix(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]
) -> tuple[list[int], list[float]]:
    """Every prefix of the conversation is rendered and encoded anew; what a message adds gets its role's weight."""
    ids: list[int] = []
    weights: list[float] = []
    for count in range(1, len(messages) + 1):
        text = tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=False)
        added = tokenizer.encode(text, add_special_tokens=False)[len(ids) :]
        ids += added
        weights += [float(messages[count - 1]["role"] == "assistant")] * len(added)
    return ids[:MAX_LENGTH], weights[1:MAX_LENGTH]


# -- the product's ideas, one by one -----------------------------------------------------------------------------------


def levers(order: Order, rows: Sequence[Row]) -> Answer:
    """Trains with the product's backend and the ideas that the order asks for, from the common start."""
    adapter = Adapter(order.model, order.rank, train_mlp=True, train_attn=True, train_unembed=True)
    backend: Backend = connect(TuftSettings(order.url, order.key, even=order.even), adapter)
    path = backend.save_state("start").result()
    replace_by_start(order, path)
    backend.load(path, optimizer=True).result()
    batches = Batches([Part(rows, [row.conversation for row in rows])], order.batch_size, order.seed)
    by_conversation = {row.conversation: row for row in rows}
    adam = Adam(ADAM["learning_rate"], ADAM["beta1"], ADAM["beta2"], ADAM["eps"], 0.0, 0.0)
    flight: deque[tuple[list[tuple[Sequence[Row], Pending[Sequence[Logprobs]]]], Pending[None]]] = deque()
    answer = Answer([], [], 0.0)

    def collect() -> None:
        sent, optim = flight.popleft()
        nll = 0.0
        for call, pending in sent:
            for row, logprobs in zip(call, pending.result(), strict=True):
                nll += weighted_nll(logprobs, row.target_weights)
        optim.result()
        _note(answer, nll)

    for step in range(1, order.steps + 1):
        members = [by_conversation[conversation] for conversation in drawn(batches, step)]
        if order.cut_tail:
            members = [without_tail(row) for row in members]
        if order.sort:
            members = longest_first(members)
        sent = [
            (call, backend.forward_backward(call, [row.target_weights for row in call]))
            for call in _cut(members, order)
        ]
        if order.depth == 1:  # as sequential code: the optimizer step only once the gradients are known to be there
            for _, pending in sent:
                pending.result()
        flight.append((sent, backend.optim_step(adam)))
        if len(flight) >= order.depth:
            collect()
    while flight:
        collect()
    _unload(order, backend.run_id)
    backend.close()
    return _finished(answer)


def _cut(rows: Sequence[Row], order: Order) -> Iterator[Sequence[Row]]:
    if not order.overhead:
        return cut(rows, order.budget)
    return calls(rows, order.budget, order.overhead, few_shapes=order.few_shapes)


# -- common ------------------------------------------------------------------------------------------------------------


def _note(answer: Answer, nll: float) -> None:
    answer.times.append(time.time())
    answer.nlls.append(nll)
    if len(answer.times) == 1:
        answer.cpu_seconds = -time.process_time()


def _finished(answer: Answer) -> Answer:
    answer.cpu_seconds += time.process_time()
    return answer


def _unload(order: Order, run: str) -> None:
    TuftHttp(order.url, order.key).unload(run)


LOOPS: Final = {"guide": guide, "levers": levers}


def main() -> None:
    """Serves orders until stdin ends. An error is an answer, so that the next order can be tried."""
    PROGRAM.parse_args()
    os.environ["TINKER_TELEMETRY"] = "0"
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print goes to the log
    kept: dict[str, list[Row]] = {}
    for line in sys.stdin:
        order = Order(**cast("dict[str, str]", json.loads(line)))  # type: ignore[arg-type]  # written by our parent
        rows = kept.setdefault(order.rows, []) or loaded_rows(Path(order.rows))
        kept[order.rows] = rows
        try:
            answer = LOOPS[order.loop](order, rows)
        except Exception as error:
            answer = Answer([], [], 0.0, f"{type(error).__name__}: {error}"[:600])
        fields = {name: getattr(answer, name) for name in Answer.__dataclass_fields__}
        answers.write(json.dumps(fields) + "\n")


if __name__ == "__main__":
    main()
