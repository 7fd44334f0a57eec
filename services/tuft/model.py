"""TuFT's training model with its forward and backward pass replaced; saving, loading and Adam stay TuFT's.

Whatever is not known to give what TuFT gives goes to TuFT's own code. That can be single calls, single adapters or the
whole model.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from tinker import types
from tuft.backends import hf_training_model as stock
from tuft.backends.loss_inputs import (
    MODEL_DERIVED_LOSS_INPUTS,
    validate_client_loss_fn_inputs,
    validate_trinity_ppo_loss_fn_inputs,
)
from tuft.checkpoints import CheckpointRecord
from tuft.config import ModelConfig
from tuft.loss_fn import metrics_reduction
from tuft.telemetry.tracing import extract_context, get_tracer

from services.tuft import checks, graphs, memory, passes, status
from services.tuft.adapters import Layout
from services.tuft.calls import Call
from services.tuft.errors import Odd, UnknownToken
from services.tuft.layers import Decoder
from services.tuft.packing import Row, read_rows
from services.tuft.self_test import ADAPTER, Tolerance, compare

log = logging.getLogger("turnloom.tuft")

GLANCE = 0.0005  #: seconds between two looks at whether the GPU has an answer
GROW_AFTER = 200  #: passes without running out of memory after which a shrunk limit doubles


class AcceleratedModel(stock.HFTrainingModel):  # type: ignore[misc]  # TuFT carries no types
    """The model that Ray runs instead of HFTrainingModel."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.status = status.ModelStatus(config.model_name)
        self._file = status.StatusFile(status.folder(os.environ), self.status)
        self._layouts: dict[str, Layout] = {}
        self._decoder: Decoder | None = None
        self._graphs: graphs.GraphedDecoder | None = None  #: around it, where there is a GPU
        self._settling = asyncio.Lock()
        self._most = 0  #: tokens of a pass that the card took at the start
        self._since_shrunk = 0  #: passes
        self._rest: tuple[str, asyncio.Future[None]] | None = None  #: the adapter, and that launch
        self._failures: dict[str, Exception] = {}  #: what went wrong after the answer, by adapter
        self._flush: asyncio.TimerHandle | None = None

    @property
    def causal_lm(self) -> Any:
        """Return the transformers model below peft's."""
        return self.model.base_model.model

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        found: torch.device = self.causal_lm.model.embed_tokens.weight.device
        return found

    # -- start ---------------------------------------------------------------------------------------------------------

    async def async_init(self) -> None:
        """Decide whether this model is accelerated. The hook calls this as soon as the model exists."""
        await super().async_init()
        await self._settled()

    async def _settled(self) -> None:
        """Wait for that decision; the first caller makes it."""
        async with self._settling:
            if self.status.state == "ready":
                return
            try:
                reason = checks.model_reason(self.causal_lm, checks.mode(os.environ)) or await self._prepare()
            except Exception as error:  # any doubt means TuFT's own code
                log.exception("the self-test failed")
                reason = f"the self-test failed: {_sentence(error)}"
            self._decide(reason)

    async def _prepare(self) -> str:
        """Compile, compare with TuFT's own pass and size the passes; returns a reason not to accelerate."""
        self._decoder = Decoder(self.causal_lm, "inductor" if self.device.type == "cuda" else None)
        self.status.max_tokens_per_pass = memory.STEADY
        with _same_randomness(self.device):
            try:
                self.status.self_test = found = await compare(self, super().forward, self._accelerated)
                reason = Tolerance().reason(found)
                if not reason:
                    parameters = sum(one.numel() for one in self.causal_lm.parameters())
                    self._most = memory.fitting(self._probe, self.device, parameters)
                    self.status.max_tokens_per_pass = self._most
                    self._graphs = self._graphed(parameters)
            finally:
                self._layouts.pop(ADAPTER, None)
                await super().remove_adapter(ADAPTER)
                self.status.forget_counters()
        return reason

    def _probe(self, tokens: int) -> None:
        ids = torch.arange(tokens) % self.causal_lm.config.vocab_size
        row = Row(ids, {"target_tokens": ids, "weights": torch.ones(tokens)})
        assert self._decoder is not None
        loss = passes.Loss("cross_entropy", {})
        call = Call(self._decoder, self._layout(ADAPTER), [row], loss, self._shrink, backward=True)
        call.start(tokens)
        call.finish()

    def _graphed(self, parameters: int) -> graphs.GraphedDecoder | None:
        """Return the decoder that records passes, where that can be done and is wanted."""
        assert self._decoder is not None
        if self.device.type != "cuda" or os.environ.get(graphs.VARIABLE) == "0":
            return None
        operands = self._layout(ADAPTER).operands(self._decoder.dtype, gradient=True)
        if not graphs.recomputes(self._decoder, operands, self.device):
            return None
        return graphs.GraphedDecoder(self._decoder, parameters, graphs.CudaRecorder())

    def _decide(self, reason: str) -> None:
        now = self.status
        now.state, now.accelerated, now.reason = "ready", not reason, reason
        if reason:
            now.max_tokens_per_pass = 0
            self._decoder = self._graphs = None
            log.warning("turnloom: %s is served by stock TuFT: %s", now.model_name, reason)
        else:
            log.warning(  # a warning, so that it is in every log
                "turnloom: %s is served accelerated: passes of %d tokens, %s", now.model_name, self._most, now.self_test
            )
        self._file.write()

    # -- adapters ------------------------------------------------------------------------------------------------------

    async def create_adapter(
        self, lora_id: str, lora_config: types.LoraConfig, trace_context: dict[str, str] | None = None
    ) -> None:
        """Create an adapter as TuFT does."""
        await self._settled()
        await self.finished()
        self._layouts.pop(lora_id, None)
        await super().create_adapter(lora_id, lora_config, trace_context)

    async def load_state(
        self,
        lora_id: str,
        checkpoint_record: CheckpointRecord,
        optimizer: bool,
        trace_context: dict[str, str] | None = None,
    ) -> None:
        """Load a state as TuFT does."""
        await self._settled()
        await self.finished()
        self._failures.pop(lora_id, None)  # the gradients that are missing belong to what is replaced
        try:
            await super().load_state(lora_id, checkpoint_record, optimizer, trace_context)
        finally:
            self._layouts.pop(lora_id, None)

    async def remove_adapter(self, lora_id: str) -> None:
        """Remove an adapter as TuFT does."""
        await self.finished()
        self._failures.pop(lora_id, None)
        self._layouts.pop(lora_id, None)
        await super().remove_adapter(lora_id)

    async def save_state(
        self,
        lora_id: str,
        checkpoint_record: CheckpointRecord,
        optimizer: bool,
        trace_context: dict[str, str] | None = None,
    ) -> None:
        """Save a state as TuFT does."""
        await self.finished(lora_id)
        await super().save_state(lora_id, checkpoint_record, optimizer, trace_context)

    def _layout(self, lora_id: str) -> Layout:
        if lora_id not in self._layouts:
            self._layouts[lora_id] = Layout.of(self.causal_lm, lora_id)
        return self._layouts[lora_id]

    # -- training ------------------------------------------------------------------------------------------------------

    async def optim_step(
        self, adam_params: types.AdamParams, lora_id: str, trace_context: dict[str, str] | None = None
    ) -> types.OptimStepResponse:
        """Apply gradients as TuFT does, but keep the memory in this process."""
        await self.finished(lora_id)
        with _cache_kept() if self.status.accelerated else nullcontext():  # no await inside: no other task runs
            answer: types.OptimStepResponse = await super().optim_step(adam_params, lora_id, trace_context)
        return answer

    async def forward(
        self,
        data: list[types.Datum],
        lora_id: str,
        loss_fn: types.LossFnType,
        loss_fn_config: dict[str, float] | None,
        backward: bool = False,
        trace_context: dict[str, str] | None = None,
    ) -> types.ForwardBackwardOutput:
        """Compute what TuFT does: log-probabilities of every target, metrics, with `backward` gradients that add up."""
        await self._settled()
        await self.finished(lora_id)
        if not self.status.accelerated:
            return await self._stock(
                self.status.reason, data, lora_id, loss_fn, loss_fn_config, backward, trace_context
            )
        try:
            return await self._accelerated(data, lora_id, loss_fn, loss_fn_config or {}, backward, trace_context)
        except Odd as odd:
            reason = str(odd)
        except (torch.OutOfMemoryError, UnknownToken):  # the client's business
            raise
        except Exception as error:
            log.exception("an accelerated pass failed")
            reason = f"a pass failed: {_sentence(error)}"
            self._decide(reason)
        return await self._stock(reason, data, lora_id, loss_fn, loss_fn_config, backward, trace_context)

    async def _stock(self, reason: str, *arguments: Any) -> types.ForwardBackwardOutput:
        self.status.calls["stock"] += 1
        if self.status.accelerated:
            self.status.fallbacks[reason] = self.status.fallbacks.get(reason, 0) + 1
        try:
            answer: types.ForwardBackwardOutput = await super().forward(*arguments)
        finally:
            self._counted()
        return answer

    async def _accelerated(
        self,
        data: list[types.Datum],
        lora_id: str,
        loss_fn: types.LossFnType,
        config: dict[str, float],
        backward: bool,
        trace_context: dict[str, str] | None = None,
    ) -> types.ForwardBackwardOutput:
        if not data or lora_id not in self.adapter_optimizer:
            raise Odd("a request without rows or adapter")
        context = extract_context(trace_context or {})
        name = "hf_model.forward_backward" if backward else "hf_model.forward"
        with get_tracer("tuft.hf_training_model").start_as_current_span(name, context=context) as span:
            span.set_attribute("tuft.lora_id", lora_id)
            span.set_attribute("tuft.backward", backward)
            span.set_attribute("tuft.data_count", len(data))
            span.set_attribute("turnloom.accelerated", True)
            _validate(data, loss_fn)
            rows = read_rows(data, self.causal_lm.config.vocab_size)
            loss = passes.Loss(loss_fn, config)
            passes.check(loss, rows)
            async with self._lock:
                await self.finished()
                answers = await self._answers(lora_id, rows, loss, backward=backward)
        self.status.calls["accelerated"] += 1
        if self._graphs is not None:
            self.status.graphs, self.status.replayed = self._graphs.recorded, self._graphs.replayed
        self.status.passes += len(answers)
        self.status.tokens += sum(row.length for row in rows)
        self._counted()
        logprobs = {
            number: one for answer in answers for number, one in zip(answer.rows, answer.logprobs(), strict=True)
        }
        return types.ForwardBackwardOutput(
            loss_fn_output_type=loss_fn,
            loss_fn_outputs=[{"logprobs": types.TensorData.from_torch(logprobs[n])} for n in range(len(rows))],
            metrics=metrics_reduction([one.metrics() for one in answers], [len(one.rows) for one in answers]),
        )

    async def _answers(
        self, lora_id: str, rows: Sequence[Row], loss: passes.Loss, *, backward: bool
    ) -> list[passes.Answer]:
        """Launch a request's passes; return once the forward ones are done.

        A GPU that had nothing to do waits for launches. Then the last backward pass is launched in a thread, so that
        the answer can leave meanwhile. A GPU that is behind does not gain by it.
        """
        assert self._decoder is not None
        idle = memory.idle(self.device)
        decoder = self._graphs or self._decoder
        call = Call(decoder, self._layout(lora_id), rows, loss, self._shrink, backward=backward)
        call.start(self.status.max_tokens_per_pass)
        self._grow(len(call.answers))
        if not backward or not idle:
            call.finish()
            return call.answers
        self._rest = lora_id, asyncio.get_running_loop().run_in_executor(None, call.finish)
        answers = call.answers[:]
        while not answers[-1].found.arrived():
            await asyncio.sleep(GLANCE)
        return answers

    async def finished(self, lora_id: str = "") -> None:
        """Wait until all is launched. Raises what went wrong after the last answer to this adapter."""
        while self._rest is not None:
            name, rest = self._rest
            try:
                await asyncio.shield(rest)
            except Exception as error:
                self._failures[name] = error
                if not isinstance(error, torch.OutOfMemoryError):
                    log.exception("an accelerated backward pass failed")
                    self._decide(f"a backward pass failed: {_sentence(error)}")
            if self._rest is not None and self._rest[1] is rest:
                self._rest = None
        if lora_id in self._failures:
            raise self._failures.pop(lora_id)

    # -- limits and counters -------------------------------------------------------------------------------------------

    def _shrink(self, failed: int) -> None:
        self.status.out_of_memory_splits += 1
        if self._graphs is not None:  # what they hold is needed
            self._graphs.end("out of memory")
            memory.release()
        if not failed:
            return
        self.status.max_tokens_per_pass = max(memory.SMALLEST, min(self.status.max_tokens_per_pass, failed) // 2)
        self._since_shrunk = 0

    def _grow(self, passed: int) -> None:
        self._since_shrunk += passed
        if self._since_shrunk >= GROW_AFTER and self.status.max_tokens_per_pass < self._most:
            self.status.max_tokens_per_pass = min(self._most, 2 * self.status.max_tokens_per_pass)
            self._since_shrunk = 0

    def _counted(self) -> None:
        """Write the counters now, or a second after the last write."""
        due = self._file.due()
        if due <= 0:
            self._file.write()
        elif self._flush is None or self._flush.when() <= asyncio.get_running_loop().time():
            self._flush = asyncio.get_running_loop().call_later(due, self._file.write)


def _validate(data: list[types.Datum], loss_fn: str) -> None:
    """Leave what TuFT refuses to TuFT, which says why. Raises Odd."""
    try:
        if loss_fn == "trinity_ppo":
            validate_trinity_ppo_loss_fn_inputs(data)
        else:
            validate_client_loss_fn_inputs(
                data, ignored_keys=MODEL_DERIVED_LOSS_INPUTS, required_keys=frozenset({"target_tokens"})
            )
    except ValueError as error:
        raise Odd("rows that TuFT refuses") from error


@contextmanager
def _cache_kept() -> Iterator[None]:
    """Keep PyTorch's free memory: TuFT returns it to the driver after every call and must ask for it again."""
    emptied = torch.cuda.empty_cache
    torch.cuda.empty_cache = lambda: None
    try:
        yield
    finally:
        torch.cuda.empty_cache = emptied


@contextmanager
def _same_randomness(device: torch.device) -> Iterator[None]:
    """Restore the random streams afterwards, so that adapters begin as they would without a self-test."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
