"""Patch TuFT at run time in three places: the model class and the fsdp actor that Ray makes, and one more route.

TuFT's files stay untouched. Where anything is unlike TuFT 0.2.2, models are made as TuFT makes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from services.tuft import checks, status

ROUTE: Final = "/api/v1/turnloom/acceleration"

log = logging.getLogger("turnloom.tuft")


def install(environment: Mapping[str, str], folder: Path) -> None:
    """Change TuFT in this process, before its command line runs.

    Args:
        environment: read for TURNLOOM_TUFT_ACCELERATE.
        folder: of status files.

    Raises:
        ValueError: TURNLOOM_TUFT_ACCELERATE is wrong.
    """
    off = checks.mode(environment) is checks.Mode.OFF
    reason = f"turned off by {checks.VARIABLE}=0" if off else checks.installation_reason()
    known: dict[str, status.ModelStatus] = {}
    exact = False
    try:
        if not reason:
            _replace_model(environment, known)
        if not off:
            exact = _replace_fsdp_actor(environment)
        _add_route(folder, known, reason, exact_fsdp=exact)
    except (ImportError, AttributeError) as error:
        log.warning("turnloom: TuFT is not the one that services.tuft knows (%s); it runs as it is", error)


def _replace_model(environment: Mapping[str, str], known: dict[str, status.ModelStatus]) -> None:
    """Let Ray make an AcceleratedModel, which is imported only after versions and files were checked."""
    from tuft.backends.hf_training_model import HFTrainingModel  # noqa: PLC0415

    from services.tuft.model import AcceleratedModel  # noqa: PLC0415

    waiting: list[Any] = []  # a reference that is dropped would cancel the call
    made_by_tuft: Callable[..., Any] = HFTrainingModel.get_actor.__func__

    def get_actor(cls: type, config: Any) -> Any:
        reason = checks.config_reason(config, environment)
        if not reason:
            actor = made_by_tuft(AcceleratedModel, config)
            waiting.append(actor.async_init.remote())  # TuFT does not call it; what it decides, requests wait for
            return actor
        known[config.model_name] = _stock(config.model_name, reason)
        return made_by_tuft(cls, config)

    HFTrainingModel.get_actor = classmethod(get_actor)


def _replace_fsdp_actor(environment: Mapping[str, str]) -> bool:
    """Let Ray make an ExactActor for each GPU of an fsdp model; returns whether it will."""
    reason = checks.installation_reason(checks.FSDP_SOURCES) or checks.place_reason(environment)
    if reason:
        log.warning("turnloom: adapters of fsdp models stay in bf16: %s", reason)
        return False
    from tuft.backends import fsdp_training_backend  # noqa: PLC0415

    from services.tuft.fsdp import ExactActor  # noqa: PLC0415

    fsdp_training_backend.FSDPWorkerActor = ExactActor
    return True


def _add_route(folder: Path, known: Mapping[str, status.ModelStatus], reason: str, *, exact_fsdp: bool) -> None:
    """Add the route that serves the status files."""
    from fastapi import Depends  # noqa: PLC0415
    from tuft import cli, server  # noqa: PLC0415

    created: Callable[[Any], Any] = cli.create_root_app
    authorized = Depends(server._get_user)

    def create_root_app(config: Any) -> Any:
        app = created(config)

        @app.get(ROUTE, dependencies=[authorized])  # type: ignore[untyped-decorator]
        async def acceleration() -> dict[str, object]:
            return status.answer(
                folder, (_of(one, known, reason, exact_fsdp=exact_fsdp) for one in config.supported_models)
            )

        return app

    cli.create_root_app = create_root_app


def _of(model: Any, known: Mapping[str, status.ModelStatus], reason: str, *, exact_fsdp: bool) -> status.ModelStatus:
    """Return the status of a model that has written no file (yet)."""
    if model.model_name in known:
        return known[model.model_name]
    if not model.training_enabled:
        reason = "it does not train"
    elif not reason and model.training_backend != "hf":
        reason = f"its training_backend is {model.training_backend}"
        if model.training_backend == "fsdp" and exact_fsdp:
            reason += ", with adapters in fp32"
    return _stock(model.model_name, reason) if reason else status.ModelStatus(model.model_name)


def _stock(name: str, reason: str) -> status.ModelStatus:
    return status.ModelStatus(name, state="ready", reason=reason)
