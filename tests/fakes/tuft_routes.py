"""What each route of the Tinker API, forward_backward apart, calls on the fake TuFT. Knows no sockets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from tests.fakes.tuft_faults import Fault
from tests.fakes.tuft_runs import TuftFailure
from tests.fakes.tuft_service import Json, Service

CLIENT_CONFIG = {
    "pjwt_auth_enabled": False,
    "credential_default_source": "api_key",
    "sample_dispatch_bytes_semaphore_size": 10 * 1024 * 1024,
    "inflight_response_bytes_semaphore_size": 50 * 1024 * 1024,
    "parallel_fwdbwd_chunks": False,
}


def call_with_json(
    service: Service, kind: str, body: Json, call: Json, faults: dict[str, Fault]
) -> tuple[int, Json | bytes]:
    """The calls with a JSON body."""
    runs = service.runs
    if kind == "retrieve_future":
        return 200, service.retrieve(body["request_id"])
    if kind == "create_session":
        return 201, {"type": "create_session", "session_id": runs.create_session()}
    if kind == "session_heartbeat":
        if body["session_id"] not in runs.sessions:
            raise LookupError(body["session_id"])  # TuFT does not handle this one: a bare 500
        return 200, {"type": "session_heartbeat"}
    if kind == "client/config":
        return 200, dict(CLIENT_CONFIG)
    if kind == "telemetry":
        return 200, {"status": "accepted"}
    if kind == "create_model":
        try:
            run = runs.create_run(body["session_id"], body["base_model"], body["lora_config"])
        except TuftFailure as failure:
            raise TuftFailure(failure.status, f"Failed to create model: {failure.detail}") from failure
        call |= {"model_id": run.model_id, "rank": run.rank}
        return 202, service.ready({"type": "create_model", "model_id": run.model_id}, run.model_id)
    if kind == "unload_model":
        call["model_id"] = body["model_id"]
        try:
            runs.unload(body["model_id"])
        except TuftFailure as failure:
            raise TuftFailure(failure.status, f"Failed to unload model: {failure.detail}") from failure
        return 202, service.ready({"type": "unload_model", "model_id": body["model_id"]}, body["model_id"])
    if kind in ("get_info", "weights_info"):
        model_id = (
            body["model_id"] if kind == "get_info" else body["tinker_path"].removeprefix("tinker://").split("/")[0]
        )
        if model_id not in runs.runs:
            raise LookupError(model_id)  # a bare 500 as well
        run = runs.run(model_id)
        if kind == "weights_info":
            return 200, {"base_model": run.base_model, "is_lora": True, "lora_rank": run.rank}
        about = {"arch": "toy-transformer", "model_name": run.base_model, "tokenizer_id": run.base_model}
        return 200, {
            "type": "get_info",
            "model_data": about,
            "model_id": model_id,
            "is_lora": True,
            "lora_rank": run.rank,
            "model_name": run.base_model,
        }
    if kind == "create_sampling_session":
        call["path"] = body.get("model_path") or ""
        try:
            session = service.samplers.create(call["path"])
        except TuftFailure as failure:
            raise TuftFailure(failure.status, f"Failed to create sampling session: {failure.detail}") from failure
        return 201, {"type": "create_sampling_session", "sampling_session_id": session}
    queued: dict[str, Callable[[], Json]] = {
        "optim_step": lambda: service.optim_step(body, call, faults),
        "save_weights": lambda: service.save(body, call, faults, "training"),
        "save_weights_for_sampler": lambda: service.save(body, call, faults, "sampler"),
        "load_weights": lambda: service.load(body, call, faults),
        "asample": lambda: service.sample(body, call, faults),
    }
    if kind not in queued:
        raise TuftFailure(404, "Not Found")
    return 202, queued[kind]()


def about_runs(service: Service, model_name: str, method: str, kind: str) -> tuple[int, Json | bytes | None]:
    """The REST calls about runs and their checkpoints."""
    runs = service.runs
    if kind == "get_server_capabilities":
        model = {"model_name": model_name, "max_context_length": 1024, "capabilities": service.samplers.capabilities}
        return 200, {"supported_models": [model]}
    parts = kind.split("/")
    if parts == ["training_runs"]:
        listed = [
            {"training_run_id": run.model_id, "base_model": run.base_model, "is_lora": True, "lora_rank": run.rank}
            | {"model_owner": "turnloom", "corrupted": False, "last_request_time": datetime.now(UTC).isoformat()}
            for run in runs.runs.values()
        ]
        return 200, {"training_runs": listed, "cursor": {"offset": 0, "limit": 20, "total_count": len(listed)}}
    if parts[0] != "training_runs" or len(parts) < 2:
        raise TuftFailure(404, "Not Found")
    if parts[1] not in runs.runs:
        raise LookupError(parts[1])
    run = runs.run(parts[1])
    if parts[2:3] != ["checkpoints"]:
        raise TuftFailure(404, "Not Found")
    if len(parts) == 3:
        listed = [
            {
                "checkpoint_id": checkpoint.name,
                "checkpoint_type": checkpoint.kind,
                "time": checkpoint.created,
                "tinker_path": runs.path(run, checkpoint),
                "size_bytes": 0,
                "public": False,
            }
            for checkpoint in run.checkpoints.values()
        ]
        return 200, {"checkpoints": listed, "cursor": {"offset": 0, "limit": 100, "total_count": len(listed)}}
    name = parts[-2] if parts[-1] == "archive" else parts[-1]
    if parts[-1] == "archive":
        return 302, {"location": runs.folder(run.model_id, name).as_uri()}
    if method != "DELETE":
        raise TuftFailure(405, "Method Not Allowed")
    runs.delete(run, name)
    return 204, None
