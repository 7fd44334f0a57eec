"""Generate with a base model, or with one saved adapter on it: token ids in, token ids out. Knows no HTTP."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

#: TuFT's path of a saved state or adapter; no other word reaches the file system.
SAVED_PATH: Final = re.compile(r"tinker://([A-Za-z0-9][A-Za-z0-9._:-]*)/(?:weights|sampler_weights)/([A-Za-z0-9_-]+)")
WEIGHTS: Final = "adapter_model.safetensors"


class Refused(Exception):
    """A request that can't be answered; `code` is one of the trainer's (services/trainer/errors.py) or TOO_LATE."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Order:
    """One reply to draw."""

    adapter: str  #: TuFT's path of a saved state or adapter; empty: the base model answers
    prompt: Sequence[int]  #: token ids, at least one
    stop: Sequence[int]  #: token ids that end the reply
    max_tokens: int  #: >= 1, the stop token included
    temperature: float  #: 0: the likeliest token each time
    top_p: float  #: > 0 and <= 1
    seed: int | None  #: None: another reply each time
    seconds: float  #: after which nobody waits any more


@dataclass(frozen=True, slots=True)
class Drawn:
    """A reply."""

    token_ids: list[int]  #: the stop token, where there is one, is the last
    finish_reason: str  #: "stop" or "length"


class Engine:
    """One base model with at most one adapter in memory; draws one reply at a time."""

    def __init__(self, model: Path, checkpoints: Path) -> None:
        """Load the model.

        Args:
            model: its folder.
            checkpoints: the TuFT server's checkpoint folder.
        """
        torch.set_num_threads(1)
        self._base: Any = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32, local_files_only=True)
        self._base.train(False)
        self._base.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # a request alone says how
        self._vocabulary = int(self._base.config.vocab_size)
        self._most = int(self._base.config.max_position_embeddings)
        self._checkpoints = checkpoints
        self._adapted: Any = None  # the base model in peft, once there was an adapter
        self._loaded: tuple[Path, int] | None = None  # folder, and time of its weights in ns
        self._count = 0  # of adapters loaded so far: peft wants a new name for each
        self._turn = threading.Lock()

    def draw(self, order: Order) -> Drawn:
        """Draw a reply.

        Raises:
            Refused: BAD_REQUEST, CHECKPOINT_LOST, OUT_OF_MEMORY, TOO_LATE.
        """
        until = time.monotonic() + order.seconds
        self._check(order)
        if not self._turn.acquire(timeout=max(0.0, order.seconds)):
            raise Refused("TOO_LATE", "other replies were drawn until nobody waited for this one any more")
        try:
            return self._drawn(order, until)
        except MemoryError as error:
            raise Refused("OUT_OF_MEMORY", "the sampler's bound on memory is reached") from error
        except RuntimeError as error:  # torch has no class for it on a CPU
            if "can't allocate memory" not in str(error):
                raise
            raise Refused("OUT_OF_MEMORY", "the sampler's bound on memory is reached") from error
        finally:
            self._turn.release()

    def _check(self, order: Order) -> None:
        ids = [*order.prompt, *order.stop]
        if not order.prompt or min(ids) < 0 or max(ids) >= self._vocabulary:
            raise Refused("BAD_REQUEST", f"a prompt has token ids from 0 to {self._vocabulary - 1}, at least one")
        if order.max_tokens < 1 or len(order.prompt) + order.max_tokens > self._most:
            raise Refused(
                "BAD_REQUEST",
                f"a prompt of {len(order.prompt)} tokens and {order.max_tokens} more exceed the model's {self._most}",
            )

    def _drawn(self, order: Order, until: float) -> Drawn:
        left = until - time.monotonic()
        if left <= 0:
            raise Refused("TOO_LATE", "its turn came when nobody waited for it any more")
        prompt = torch.tensor([list(order.prompt)])
        with self._model(order.adapter) as model, torch.inference_mode():
            if order.seed is None:  # only now: loading an adapter draws numbers as well
                torch.seed()
            else:
                torch.manual_seed(order.seed)
            how = _how(order, until - time.monotonic())
            whole = model.generate(prompt, generation_config=how, attention_mask=torch.ones_like(prompt))
        token_ids = whole[0, prompt.shape[1] :].tolist()
        if token_ids and token_ids[-1] in order.stop:
            return Drawn(token_ids, "stop")
        if len(token_ids) < order.max_tokens:
            raise Refused("TOO_LATE", f"{len(token_ids)} tokens were drawn when nobody waited for it any more")
        return Drawn(token_ids, "length")

    @contextmanager
    def _model(self, path: str) -> Iterator[Any]:
        """Give the base model, or it with this adapter; the adapter before it leaves the memory."""
        if path:
            self._load(path)
            yield self._adapted
        elif self._adapted is not None:  # peft put its layers into the base model
            with self._adapted.disable_adapter():
                yield self._adapted
        else:
            yield self._base

    def _load(self, path: str) -> None:
        """Activate the adapter at TuFT's path, and load it unless it is there."""
        found = SAVED_PATH.fullmatch(path)
        if found is None:
            raise Refused("BAD_REQUEST", "this is no path of a TuFT checkpoint")
        folder = self._checkpoints / found[1] / found[2] / "adapter"
        try:
            wanted = (folder, (folder / WEIGHTS).stat().st_mtime_ns)
        except OSError:
            raise Refused("CHECKPOINT_LOST", f"the sampler finds no adapter of {path}") from None
        if wanted == self._loaded:
            return
        self._loaded, self._count = None, self._count + 1
        name = f"adapter-{self._count}"
        if self._adapted is None:
            self._adapted = PeftModel.from_pretrained(self._base, str(folder), adapter_name=name).eval()
        else:
            self._adapted.load_adapter(str(folder), adapter_name=name)
            self._adapted.set_adapter(name)
            for other in [one for one in self._adapted.peft_config if one != name]:
                self._adapted.delete_adapter(other)
        self._loaded = wanted


def _how(order: Order, seconds: float) -> GenerationConfig:
    drawn = {"temperature": order.temperature, "top_p": order.top_p, "top_k": 0} if order.temperature > 0 else {}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=order.temperature > 0,
        max_new_tokens=order.max_tokens,
        max_time=max(0.01, seconds),
        eos_token_id=list(order.stop) or None,
        pad_token_id=order.stop[0] if order.stop else 0,
        **drawn,
    )
