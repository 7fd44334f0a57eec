"""Prometheus metrics of the API. Takes a registry, so that each test can make its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from turnloom.masks.domain.example import PreprocessedConversation

_RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_RPC_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600)  #: seconds
_STAGE_BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)  #: seconds per batch
PREPROCESS = "preprocess"  #: the stage that a batch goes through in the API


class RpcMetrics:
    """RPC metrics under the names that the gRPC ecosystem's dashboards expect."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.started = Counter("grpc_server_started", "RPCs begun.", _RPC_LABELS, registry=registry)
        self.handled = Counter("grpc_server_handled", "RPCs ended.", (*_RPC_LABELS, "grpc_code"), registry=registry)
        self.seconds = Histogram(
            "grpc_server_handling_seconds", "Time of RPCs.", _RPC_LABELS, buckets=_RPC_BUCKETS, registry=registry
        )
        self.bytes_in_work = Gauge(
            "turnloom_api_bytes_in_work",
            "Bytes of request messages that are worked on.",
            multiprocess_mode="livesum",
            registry=registry,
        )


class PreprocessMetrics:
    """Preprocessing metrics. Labels: model is a served name, code one of our error classes; never user text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.examples = Counter(
            "turnloom_preprocess_examples",
            "Examples made, or conversations refused.",
            ("model", "outcome"),
            registry=registry,
        )
        self.tokens = Counter("turnloom_preprocess_tokens", "Tokens of examples.", ("model",), registry=registry)
        self.loss_tokens = Counter(
            "turnloom_preprocess_loss_tokens", "Targets with weight > 0.", ("model",), registry=registry
        )
        self.truncated = Counter(
            "turnloom_preprocess_truncated", "Examples that max_length cut.", ("model",), registry=registry
        )
        self.unchecked = Counter(
            "turnloom_preprocess_unchecked",
            "Examples whose ids were not compared with the text.",
            ("model",),
            registry=registry,
        )
        self.issues = Counter("turnloom_preprocess_issues", "Conversations refused.", ("code",), registry=registry)
        self.stage_seconds = Histogram(
            "turnloom_preprocess_stage_duration_seconds",
            "Time of one batch by stage.",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.stage_seconds.labels(PREPROCESS)

    def begin(self, model: str, codes: Iterable[str]) -> None:
        """Publish zeros for a model and for codes of refusals, so that rate() sees the first batch."""
        for outcome in ("made", "refused"):
            self.examples.labels(model, outcome)
        for counter in (self.tokens, self.loss_tokens, self.truncated, self.unchecked):
            counter.labels(model)
        for code in codes:
            self.issues.labels(code)

    def count(self, model: str, results: Sequence[PreprocessedConversation | Exception]) -> None:
        """Count one batch: add sums first, then increment once per series, because a batch has hundreds of rows."""
        examples = [
            example for result in results if isinstance(result, PreprocessedConversation) for example in result.examples
        ]
        self.examples.labels(model, "made").inc(len(examples))
        self.examples.labels(model, "refused").inc(sum(isinstance(result, Exception) for result in results))
        self.tokens.labels(model).inc(sum(len(example.token_ids) for example in examples))
        self.loss_tokens.labels(model).inc(
            sum(length for example in examples for length, weight in example.weight_runs if weight > 0)
        )
        self.truncated.labels(model).inc(sum(example.truncated_tokens > 0 for example in examples))
        self.unchecked.labels(model).inc(
            sum(result.unchecked for result in results if isinstance(result, PreprocessedConversation))
        )


class ApiMetrics:
    """All metrics that the API process exports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.rpc = RpcMetrics(registry)
        self.preprocess = PreprocessMetrics(registry)


def make_metrics() -> ApiMetrics:
    """Return metrics in a registry of their own, with the process's memory and CPU beside them."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return ApiMetrics(registry)
