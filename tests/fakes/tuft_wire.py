"""The protobuf bodies of the Tinker wire format. Knows no HTTP and no model."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes.tuft_model import Floats, Row


def _messages() -> ModuleType:
    """The SDK's generated messages, without importing the SDK, which would take two seconds of every start."""
    package = importlib.util.find_spec("tinker")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "proto" / "tinker_public_pb2.py"
    spec = importlib.util.spec_from_file_location("tinker_public_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pb = _messages()
NUMPY: dict[int, np.dtype[Any]] = {
    pb.DTYPE_FLOAT32: np.dtype(np.float32),
    pb.DTYPE_INT64: np.dtype(np.int64),
    pb.DTYPE_INT32: np.dtype(np.int32),
}
LOSSES = {"cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "trinity_ppo"}


class BadRequest(ValueError):
    """A body that TuFT answers with 422 before it queues anything."""


@dataclass(frozen=True, slots=True)
class ForwardRequest:
    """What /forward_backward is asked."""

    model_id: str
    seq_id: int
    rows: list[Row]
    weight_lengths: list[int]  #: as sent; rows are padded to their targets
    forward_only: bool


def decode_forward(body: bytes) -> ForwardRequest:
    """Reads a ForwardBackwardRequest.

    Raises:
        BadRequest: with TuFT's words.
    """
    message = pb.ForwardBackwardRequest()
    try:
        message.ParseFromString(body)
    except Exception as error:  # protobuf's DecodeError has a new home in every release
        raise BadRequest(f"Malformed protobuf request body: {error}") from error
    if message.loss_fn not in LOSSES:
        raise BadRequest(f"Unsupported loss_fn: {message.loss_fn!r}")
    rows, lengths = [], []
    for datum in message.data:
        tokens = [np.frombuffer(chunk.encoded_text.tokens, np.int32) for chunk in datum.model_input]
        targets = _tensor(datum.loss_fn_inputs["target_tokens"]).astype(np.int64)
        weights = _tensor(datum.loss_fn_inputs["weights"]).astype(np.float64)
        lengths.append(len(weights))
        padded = np.zeros(len(targets))
        padded[: len(weights)] = weights[: len(targets)]
        rows.append(Row(np.concatenate(tokens).astype(np.int64), targets, padded))
    return ForwardRequest(message.model_id, message.seq_id, rows, lengths, message.forward_only)


def encode_output(logprobs: list[Floats], loss: float) -> bytes:
    """Writes a ForwardBackwardOutput: per-datum logprobs as float32, and the metric loss:sum."""
    message = pb.ForwardBackwardOutput(loss_fn_output_type="cross_entropy", metrics={"loss:sum": loss})
    record = message.loss_fn_outputs.add()
    record.type_tag = "cross_entropy"
    record.num_datums = len(logprobs)
    field = record.fields["logprobs"]
    field.data = np.concatenate(logprobs).astype(np.float32).tobytes()
    field.offsets = np.cumsum([0, *(4 * len(row) for row in logprobs)], dtype=np.int64).tobytes()
    field.dtype = pb.DTYPE_FLOAT32
    return bytes(message.SerializeToString())


def encode_sample(tokens: list[int], stop_reason: str) -> bytes:
    """Writes a SampleResponse with one sequence; stop_reason is "stop" or "length"."""
    message = pb.SampleResponse()
    sequence = message.sequences.add()
    sequence.stop_reason = pb.STOP_REASON_LENGTH if stop_reason == "length" else pb.STOP_REASON_STOP
    sequence.tokens = np.array(tokens, dtype=np.int32).tobytes()
    sequence.logprobs = np.zeros(len(tokens), dtype=np.float32).tobytes()
    return bytes(message.SerializeToString())


def _tensor(tensor: Any) -> NDArray[Any]:
    return np.frombuffer(tensor.dense, dtype=NUMPY[tensor.dtype])
