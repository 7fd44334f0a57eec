"""What the API itself refuses, before or beside preprocessing. api/status_table maps each class to a status.

Refusal
├── InvalidRequest     fields that are missing, out of range or contradict each other
├── UnknownModel       no model of that name is served
├── ModelNotServed     the model is configured and could not be loaded, or no host trains it
├── WrongState         the thing exists and its state forbids the call
├── Unauthenticated    no token, or none that is known
├── NotPermitted       the token has not the scope, or the thing is somebody else's
├── TokensUnreadable   the file of tokens can't be read, so nobody can be known
├── TooManyCalls       every place for a call is taken
├── TooManyStreams     every slot for long calls is taken
├── ShareTaken         one token has as many calls as it may have
├── WorkFull           the messages in work fill the memory that is set aside for them
├── WorkExceeded       a message took longer to work on than one may
├── Undecodable        the bytes of a message are not the message that the call takes
├── RateExceeded       more conversations a second than one token may send
├── TooLarge           a batch or dataset is over its limit
├── Stalled            the client of a stream sent nothing for too long
├── ClientLeft         the client cancelled its call
├── Loading            models are still being loaded
├── Draining           the server is about to end
├── SamplingDisabled   the host's training server trains only
├── NotSampled         no host that may train the job samples its model
├── HostBusy           every worker of the host trains
└── SampleFailed       the host took the prompt and could not answer it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.quoting import cut


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is wrong."""

    field: str  #: path from the request's root: "options.max_length", "conversations[3].messages[0].role"
    description: str  #: one sentence without message text


class Refusal(Exception):
    """A request that the caller can't have; `str()` is the sentence that the caller gets."""


class InvalidRequest(Refusal):
    """Fields of the request are wrong."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        first = violations[0]
        rest = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{rest}")
        self.violations = tuple(violations)


class UnknownModel(Refusal):
    """No model of that name."""

    def __init__(self, name: str, served: Sequence[str]) -> None:
        known = ", ".join(served) if served else "none"
        super().__init__(
            f"Model {cut(name)!r} is not served here (served: {known}); name one of these, or add it to models.toml."
        )


class ModelNotServed(Refusal):
    """The model is known but can't be used now. It failed to load, or no live host trains it with that rank."""


class WrongState(Refusal):
    """The thing exists, but not in a state that allows the call."""


class Unauthenticated(Refusal):
    """The call's credentials name no known caller; the sentence never repeats them."""


class NotPermitted(Refusal):
    """The caller is known and may not do this."""


class TokensUnreadable(Refusal):
    """The file of tokens was changed into one that can't be read."""

    def __init__(self) -> None:
        super().__init__("The server can't read its file of tokens; its log says why, and its operator must repair it.")


class TooManyCalls(Refusal):
    """Every place for a call is taken."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"All {limit} places for calls are taken; try again in a moment.")


class RateExceeded(Refusal):
    """More conversations a second than one token may send."""

    def __init__(self, rate: float, wait: float) -> None:
        super().__init__(f"More than {rate:g} conversations a second came with this token; wait {wait:.1f} s.")
        self.wait = wait  #: seconds after which the same call passes, if nothing else is sent


class TooLarge(Refusal):
    """A batch or dataset is over its limit: the same one will not pass again, a smaller one will."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.violation = Violation(field, description)


class TooManyStreams(Refusal):
    """Every slot for long calls is taken."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"All {limit} slots for streaming calls are taken; end one, or try again in a few seconds.")


class ShareTaken(Refusal):
    """One token has as many calls as it may have, so that others find room."""

    def __init__(self, token: str, limit: int, what: str) -> None:
        super().__init__(f"Token {token!r} has {limit} {what} already, its share of this server; wait for one to end.")


class WorkFull(Refusal):
    """The messages in work fill the memory that is set aside for them."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__(
            f"A message of {size} bytes finds no room beside others ({most} bytes are worked on at a time); "
            "try again in a few seconds, or send less at once."
        )


class WorkExceeded(Refusal):
    """A message took longer to work on than one may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The message was worked on for more than {seconds:g} s and was given up; "
            "send fewer or shorter conversations at once."
        )


class Undecodable(Refusal):
    """The bytes of a message are not the message that the call takes."""

    def __init__(self, method: str) -> None:
        super().__init__(
            f"The request of {method} can't be decoded; use stubs that are generated from this server's proto files."
        )


class Stalled(Refusal):
    """The client of a stream sent nothing for too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Nothing arrived for {seconds:g} s, so the stream was ended; open a new one.")


class ClientLeft(Refusal):
    """The client cancelled its call."""

    def __init__(self) -> None:
        super().__init__("The client left before the end of its stream, so nothing was made; send it all again.")


class Loading(Refusal):
    """Models are still being loaded."""

    def __init__(self) -> None:
        super().__init__("The server is still loading its models; try again in a few seconds.")


class Draining(Refusal):
    """The server is about to end and takes nothing new."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down; try again, another replica or the restarted server will answer.")


class SamplingDisabled(Refusal):
    """The host that holds the adapter writes no text."""

    def __init__(self, host: str, model: str, job: str) -> None:
        super().__init__(
            f"The TuFT server of host {host!r} trains {model!r} and does not sample it; fetch the adapter of {job!r} "
            "and load it in PEFT or vLLM instead."
        )


class NotSampled(Refusal):
    """No host that may train the job samples its model."""

    def __init__(self, model: str, host: str) -> None:
        where = f"host {host!r} trains" if host else "every live host that could take the job trains"
        super().__init__(
            f"sample_prompts can't be answered: {where} {model!r} and does not sample it. Leave sample_prompts out, "
            "or add the capability sampling to the model on its TuFT server (`turnloom hosts`)."
        )


class HostBusy(Refusal):
    """Every worker of the host that holds the adapter trains."""

    def __init__(self, host: str, jobs: Sequence[str]) -> None:
        what = f"its only worker trains {jobs[0]}" if len(jobs) == 1 else f"its {len(jobs)} workers train {_some(jobs)}"
        super().__init__(
            f"Host {host!r} is busy: {what}; ask again when a job has ended or is paused, "
            "or start another worker there."
        )


class SampleFailed(Refusal):
    """The host could not answer the prompt."""

    def __init__(self, host: str, reason: str, hint: str) -> None:
        super().__init__(f"Host {host!r} gave no reply: {reason.rstrip('.')}.{f' {hint}' if hint else ''}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
