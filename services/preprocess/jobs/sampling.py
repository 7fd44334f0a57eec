"""Sample a job's adapter: send a ticket to a worker of the host that holds it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

from services.preprocess.domain.refusals import InvalidRequest, SampleFailed, SamplingDisabled, Violation, WrongState
from services.preprocess.jobs.prompt import Prompt, prompt_of, reply_text
from services.preprocess.jobs.reply_prompts import training_options
from services.preprocess.jobs.sampling_hosts import sampling_host
from services.preprocess.models.registry import Registry
from services.preprocess.wire.issues import violation
from services.preprocess.wire.sample import DEFAULT_TOKENS, Asked, Reply
from services.store.connection import redis_time
from services.store.errors import NotFound, TicketTimeout
from services.store.queueing.queues import queue_name
from services.store.records import CheckpointRecord, HostRecord, JobRecord
from services.store.store import Store
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import InvalidOption, PreprocessError
from turnloom.masks.model import Model

HOST_SECONDS: Final = 50.0  #: that a host has for a reply, the wait for a worker included; the RPC has 60
FUNCTION: Final = "services.trainer.sample.run"
#: Codes of the trainer's answer (services/trainer/errors.py) that have a refusal of their own here.
DISABLED: Final = "CAPABILITY_DISABLED"
GONE: Final = "CHECKPOINT_LOST"


@dataclass(frozen=True, slots=True)
class Sampler:
    """Answers one call."""

    store: Store
    registry: Registry
    seconds: float  #: until the caller wants an answer of some kind
    stop: threading.Event  #: set when the caller leaves or the server drains

    def reply(self, job: JobRecord, asked: Asked) -> Reply:
        """Return the reply of the job's adapter.

        Raises:
            NotFound: the checkpoint.
            WrongState: there is none yet, or it or what the job was trained with is no longer there.
            InvalidRequest: the conversation can't be rendered, or is too long for the model.
            NoHost, HostBusy, SamplingDisabled, SampleFailed: the host.
            TicketTimeout: no worker answered in time, or `stop` was set; none will do so later.
        """
        checkpoint = None if asked.base else self._checkpoint(job, asked.checkpoint)
        prompt, model = self._prompt(job, asked)
        host = sampling_host(self.store, job)
        room = _room(prompt, asked, host, job.spec.tuft_model)
        path = "" if checkpoint is None else checkpoint.path
        answer = self._answer(host.name, path, job.spec.tuft_model, prompt, replace(asked, max_tokens=room))
        if "code" in answer:
            raise _refusal(answer, host.name, job, checkpoint)
        token_ids = cast(Sequence[int], answer["token_ids"])
        return Reply(
            text=reply_text(token_ids, prompt.stop_ids, model),
            tokens=len(token_ids),
            finish_reason=str(answer["finish_reason"]),
            prompt_tokens=len(prompt.token_ids),
            checkpoint="" if checkpoint is None else checkpoint.id,
        )

    def _checkpoint(self, job: JobRecord, name: str) -> CheckpointRecord:
        try:
            return self.store.ledger.checkpoint(job.id, name)
        except NotFound:
            if name:
                raise
            raise WrongState(
                f"Job {job.id!r} is {job.state.name} and has no checkpoint yet; "
                "WatchJob (`turnloom watch`) shows when its first one is saved."
            ) from None

    def _prompt(self, job: JobRecord, asked: Asked) -> tuple[Prompt, Model]:
        model = self.registry.get(job.spec.model)
        try:
            dataset = self.store.datasets.get(job.spec.training_dataset)
        except NotFound:
            raise WrongState(
                f"Dataset {job.spec.training_dataset!r}, whose options say how job {job.id!r} reads conversations, "
                "was deleted; fetch the adapter with DownloadAdapter and sample with it elsewhere."
            ) from None
        chosen = training_options(dataset, model)
        try:
            return prompt_of(asked.conversation, chosen, model), model
        except InvalidOption as error:  # nothing of this request, which has no options
            raise WrongState(f"Dataset {dataset.id!r} can't be read here: {error}.") from error
        except PreprocessError as error:
            raise InvalidRequest([_blamed(error, asked.conversation)]) from error

    def _answer(
        self, host: str, path: str, model: str, prompt: Prompt, asked: Asked
    ) -> Mapping[str, str | Sequence[int]]:
        seconds = min(HOST_SECONDS, self.seconds)
        order: dict[str, object] = {
            "path": path,
            "model": model,
            "prompt": prompt.token_ids.tolist(),
            "stop": list(prompt.stop_ids),
            "max_tokens": asked.max_tokens,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "seed": asked.seed,
            "until": redis_time(self.store.redis) + seconds,
        }
        try:
            found = self.store.tickets.ask(queue_name(host), FUNCTION, order, timeout=seconds, stop=self.stop)
        except TicketTimeout:
            raise TicketTimeout(
                f"no worker of host {host} answered within {seconds:.0f} s, and none will answer this later; "
                "its workers train or are gone (`turnloom hosts`)"
            ) from None
        return cast(Mapping[str, "str | Sequence[int]"], found)


def _blamed(error: PreprocessError, conversation: Conversation) -> Violation:
    """Return the field at fault; an error in the reply to come, which was never sent, blames the conversation."""
    if error.message_index is None or error.message_index < len(conversation.messages):
        return violation("conversation", error)
    reason = violation("conversation", error).description
    return Violation("conversation", f"no place for a reply is found as training would find it: {reason}")


def _room(prompt: Prompt, asked: Asked, host: HostRecord, model: str) -> int:
    """Return how many tokens the reply may have: prompt and reply must fit the model as the server runs it."""
    wanted = asked.max_tokens or DEFAULT_TOKENS
    limit = next((served.max_model_len for served in host.models if served.name == model), 0)
    if not limit:
        return wanted
    length = len(prompt.token_ids)
    if length >= limit:
        raise InvalidRequest(
            [Violation("conversation", f"has {length} tokens; send {limit} at most, what the server's model takes.")]
        )
    if asked.max_tokens is not None and asked.max_tokens > limit - length:
        sentence = f"is {asked.max_tokens}; give {limit - length} at most: the prompt has {length} of {limit} tokens."
        raise InvalidRequest([Violation("max_tokens", sentence)])
    return min(wanted, limit - length)


def _refusal(
    answer: Mapping[str, str | Sequence[int]], host: str, job: JobRecord, checkpoint: CheckpointRecord | None
) -> Exception:
    """Return the worker's error as this side's exception."""
    if answer["code"] == DISABLED:
        return SamplingDisabled(host, job.spec.tuft_model, job.id)
    if answer["code"] == GONE and checkpoint is not None:
        kept = (
            "it is kept in the store: fetch it with DownloadAdapter (`turnloom adapter download`) and load it in PEFT "
            "or vLLM"
            if checkpoint.stored
            else "sample another one; ListCheckpoints (`turnloom checkpoints`) names them"
        )
        return WrongState(f"Checkpoint {checkpoint.id!r} is no longer on the TuFT server of host {host!r}; {kept}.")
    return SampleFailed(host, str(answer["message"]), str(answer["hint"]))
