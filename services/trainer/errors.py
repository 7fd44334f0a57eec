"""Training server failures and what to do about them, classified by class names and texts; imports no SDK.

BackendError(code, sentence, hint, retryable)
StopRun: the run ends as FAILED for a reason of its own
    NonFiniteLoss, ProbeMismatch, CheckpointLost, DatasetUnusable
CallOutOfMemory(step, rows, budget): the run goes on with smaller calls
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """Every way in which a training server or its SDK can fail a job."""

    KEY_REJECTED = "KEY_REJECTED"
    MODEL_NOT_SERVED = "MODEL_NOT_SERVED"
    CAPABILITY_DISABLED = "CAPABILITY_DISABLED"
    RANK_NOT_CONFIGURED = "RANK_NOT_CONFIGURED"
    SDK_MISMATCH = "SDK_MISMATCH"
    SERVER_UNREACHABLE = "SERVER_UNREACHABLE"
    SERVER_RESTARTED = "SERVER_RESTARTED"
    SEQUENCE_CONFLICT = "SEQUENCE_CONFLICT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BAD_REQUEST = "BAD_REQUEST"
    UNKNOWN = "UNKNOWN"


#: Codes after which a new client and the last checkpoint may well succeed.
RETRYABLE: Final = frozenset(
    {Code.SERVER_UNREACHABLE, Code.SERVER_RESTARTED, Code.SEQUENCE_CONFLICT, Code.OUT_OF_MEMORY, Code.UNKNOWN}
)

HINTS: Final[dict[Code, str]] = {
    Code.KEY_REJECTED: "Set TURNLOOM_TUFT_API_KEY to one of the authorized_users of the TuFT server.",
    Code.MODEL_NOT_SERVED: "Add it to supported_models of the TuFT server, or correct tuft_model_name in models.toml.",
    Code.CAPABILITY_DISABLED: "Add it to the model's capabilities in the TuFT configuration and restart the server.",
    Code.RANK_NOT_CONFIGURED: "Choose a lora_rank that the TuFT server has slots for, or add one to its configuration.",
    Code.SDK_MISMATCH: "Install tinker==0.25.0 on the worker; TuFT 0.2.2 trains with no other version.",
    Code.SERVER_UNREACHABLE: "Check that the TuFT server runs and that TURNLOOM_TUFT_URL is right; see its log.",
    Code.SERVER_RESTARTED: "Nothing to do: the run goes on from its last checkpoint.",
    Code.SEQUENCE_CONFLICT: "Nothing to do: the run goes on from its last checkpoint with a new client.",
    Code.OUT_OF_MEMORY: "Lower max_length first, then batch_size, then lora_rank.",
    Code.BAD_REQUEST: "The server refused the request as it is; its sentence says why.",
    Code.UNKNOWN: "See the log of the worker and of the TuFT server.",
}

#: The first pattern found in the text decides. Narrow ones come before the wide ones that a status code alone gives.
PATTERNS: Final[tuple[tuple[Code, re.Pattern[str]], ...]] = tuple(
    (code, re.compile(pattern, re.IGNORECASE))
    for code, pattern in (
        (Code.OUT_OF_MEMORY, r"OutOfMemoryError|CUDA out of memory|out of memory|DefaultCPUAllocator: can't allocate"),
        (Code.SEQUENCE_CONFLICT, r"Sequence conflict|Missing sequence ID|waiting for sequence ID"),
        (
            Code.KEY_REJECTED,
            r"Invalid API key|Missing API key|must start with 'tml-'|api_key client option must be set",
        ),
        (Code.CAPABILITY_DISABLED, r"Capability disabled|does not have the '\w+' capability"),
        (
            Code.RANK_NOT_CONFIGURED,
            r"rank \d+ is not configured|max_lora_rank",
        ),
        (
            Code.SDK_MISMATCH,
            r"Unsupported Content-Type|optimizer_config|Invalid protobuf request|predates proto|\b415\b",
        ),
        # A run that the server does not know is one that it forgot; a base model that it does not know was never there.
        (
            Code.SERVER_RESTARTED,
            r"Unknown model: [^\s'\"]*[0-9a-f]{8}-[0-9a-f]{4}-|Session \S+ not found|Future .*not found",
        ),
        (Code.SERVER_RESTARTED, r"RetryableException|Promise expired|was cancelled|Server restored|Server restarted"),
        (Code.MODEL_NOT_SERVED, r"Unknown model"),
        (Code.UNKNOWN, r"Future failed: Server error"),  # an operation raised inside the server: it may pass next time
        (Code.SERVER_UNREACHABLE, r"APIConnectionError|APITimeoutError|ConnectError|Connection (error|refused|reset)"),
        (Code.SERVER_UNREACHABLE, r"TimeoutError|timed out|\b(429|502|503|504)\b"),
        (Code.KEY_REJECTED, r"\b401\b|\b403\b|PermissionDenied|AuthenticationError"),
        (Code.SERVER_RESTARTED, r"\b404\b|\b410\b|NotFoundError"),
        (Code.SEQUENCE_CONFLICT, r"\b409\b|ConflictError"),
        (Code.BAD_REQUEST, r"\b(400|413|422)\b|BadRequestError|UnprocessableEntity"),
    )
)


# Of tracebacks as answers quote them.
COLOUR: Final = re.compile(r"(?:\x1b|\\x1b)\[[0-9;]*m")  #: of a terminal, as itself or spelled out
RAISED: Final = re.compile(r"[\w.]*(?:Error|Exception|Interrupt)\b(?:\(.*?\))?: ")  #: how the last line begins
QUOTED_END: Final = re.compile(r"'(?:, '\w+': .*)?\}[^}]*$")  #: what follows a text in a dictionary written out


class BackendError(Exception):
    """The training server, or the connection to it, failed."""

    def __init__(self, code: Code, sentence: str, hint: str, retryable: bool) -> None:
        """Describe the failure.

        Args:
            code: which kind of failure.
            sentence: what happened, and where.
            hint: what to do.
            retryable: whether the last checkpoint with a new client is worth a try.
        """
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.hint = hint
        self.retryable = retryable


def backend_error(code: Code, sentence: str, *, hint: str | None = None, retryable: bool | None = None) -> BackendError:
    """Make a BackendError, with the code's own hint and retryability unless given."""
    known = code in RETRYABLE
    return BackendError(
        code, sentence, HINTS[code] if hint is None else hint, known if retryable is None else retryable
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def classify(error: BaseException, doing: str) -> BackendError:
    """Translate an exception of the SDK into a BackendError.

    Args:
        error: what was raised; mostly a bare ValueError with the HTTP status in its text.
        doing: the operation, for the sentence.
    """
    if isinstance(error, BackendError):
        return error
    text = f"{type(error).__name__}: {error}"
    whole = "\n".join(f"{type(link).__name__}: {link}" for link in _chain(error))
    # The outermost text decides where it can: a cause deeper down is often a neutral transport error.
    code = next(
        (code for source in (text, whole) for code, pattern in PATTERNS if pattern.search(source)), Code.UNKNOWN
    )
    return backend_error(code, f"{doing}: {_one_line(_raised_there(text))}")


def _raised_there(text: str) -> str:
    """Return the last line of a quoted traceback, or the text unchanged."""
    if "Server error" not in text:
        return text
    lines = COLOUR.sub("", text).replace("\\n", "\n").splitlines()
    raised = [line for line in lines[1:] if RAISED.match(line)]
    return f"the server: {QUOTED_END.sub('', raised[-1])}" if raised else text


def _one_line(text: str, limit: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


class CallOutOfMemory(Exception):
    """The server ran out of memory; smaller calls may still fit."""

    def __init__(self, step: int, rows: int, budget: int, error: BackendError, *, packed: bool = False) -> None:
        """Describe where it happened.

        Args:
            step: the step that was under way.
            rows: rows of the call that failed; 1: it can't be cut further; 0: not known which call.
            budget: tokens that calls were allowed.
            error: what the server said.
            packed: they are real tokens, for the server packs rows; else padded ones.
        """
        self.unit = "tokens" if packed else "padded tokens"
        super().__init__(f"step {step}, calls of at most {budget} {self.unit}: {error.sentence}")
        self.packed = packed
        self.step = step
        self.rows = rows
        self.budget = budget
        self.error = error


class StopRun(Exception):
    """The run can't go on for a reason of its own; a retry would fail in the same way."""

    code = "UNKNOWN"  #: of the job's error
    hint = ""  #: what to do


class NonFiniteLoss(StopRun):
    """A step's NLL was NaN or infinite."""

    code = "NON_FINITE_LOSS"
    hint = (
        "Lower learning_rate, add warmup_steps or set grad_clip_norm; resume from the last checkpoint, which is good."
    )


class ProbeMismatch(StopRun):
    """A loaded checkpoint did not give the NLL that was stored beside it."""

    code = "PROBE_MISMATCH"
    hint = "Check the base model and checkpoint folder of the server, or resume from another checkpoint."


class CheckpointLost(StopRun):
    """A checkpoint was neither on the server nor in the store."""

    code = "CHECKPOINT_LOST"
    hint = "Resume from another checkpoint."


class DatasetUnusable(StopRun):
    """The dataset had nothing to train as the job asks."""

    code = "DATASET_UNUSABLE"
    hint = "Raise max_length or choose another dataset."
