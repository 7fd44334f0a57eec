"""Authorization: scopes, ownership, and the table of what each RPC needs. Add a line here for a new RPC."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from services.preprocess.domain.caller import Caller, Scope
from services.preprocess.domain.refusals import NotPermitted, Unauthenticated

MAX_SECRET: Final = 512  #: characters of a token that are looked at


class Need(Enum):
    """What a call needs before it begins; ownership is checked once the object is known."""

    NOTHING = "nothing"
    TOKEN = "any token"  # noqa: S105  # no secret
    LOOK = "read, or submit for what it made"
    WORK = "submit"


_PREPROCESS: Final = {
    "GetServerInfo": Need.TOKEN,
    "ListModels": Need.TOKEN,
    "Preprocess": Need.WORK,  # holds no object, but costs as much as making one
    "StreamPreprocess": Need.WORK,
    "PreviewConversation": Need.WORK,
    "LintConversations": Need.WORK,
}
_DATASETS: Final = {
    "CreateDataset": Need.WORK,
    "GetDataset": Need.LOOK,
    "ListDatasets": Need.LOOK,
    "DownloadDataset": Need.LOOK,
    "WatchDataset": Need.LOOK,
    "CancelDataset": Need.WORK,
    "DeleteDataset": Need.WORK,
}
_TRAINING: Final = {
    "CreateJob": Need.WORK,
    "GetJob": Need.LOOK,
    "ListJobs": Need.LOOK,
    "WatchJob": Need.LOOK,
    "ListEvents": Need.LOOK,
    "ListSteps": Need.LOOK,
    "ListReplies": Need.LOOK,
    "GetEvaluation": Need.LOOK,
    "ListCheckpoints": Need.LOOK,
    "DownloadAdapter": Need.LOOK,
    "CancelJob": Need.WORK,
    "PauseJob": Need.WORK,
    "ResumeJob": Need.WORK,
    "MoveJob": Need.WORK,
    "ListQueue": Need.LOOK,
    "DeleteJob": Need.WORK,
    "CreateSweep": Need.WORK,
    "GetSweep": Need.LOOK,
    "ListSweeps": Need.LOOK,
    "CancelSweep": Need.WORK,
    "ListHosts": Need.TOKEN,
    "Diagnose": Need.WORK,  # puts a ticket on every host's queue
    "Sample": Need.WORK,
}
_HEALTH: Final = {
    "Check": Need.NOTHING,  # load balancers and container health checks hold no token
    "List": Need.NOTHING,
    "Watch": Need.TOKEN,  # stays open for as long as the client likes
}
_REFLECTION: Final = {"ServerReflectionInfo": Need.TOKEN}

#: Every RPC of the server by its path; one that is missing is refused.
NEEDS: Final[dict[str, Need]] = {
    f"/{service}/{method}": need
    for service, methods in {
        "turnloom.v1.PreprocessService": _PREPROCESS,
        "turnloom.v1.DatasetService": _DATASETS,
        "turnloom.v1.FineTuningService": _TRAINING,
        "grpc.health.v1.Health": _HEALTH,
        "grpc.reflection.v1alpha.ServerReflection": _REFLECTION,
    }.items()
    for method, need in methods.items()
}
_ENOUGH: Final[dict[Need, frozenset[Scope]]] = {
    Need.TOKEN: frozenset(Scope),
    Need.LOOK: frozenset(Scope),
    Need.WORK: frozenset({Scope.SUBMIT, Scope.ADMIN}),
}


def check_scope(caller: Caller, method: str) -> None:
    """Check a caller's scopes against the table.

    Raises:
        NotPermitted: none of them is enough, or the method is not in the table.
    """
    need = NEEDS.get(method)
    if need is None:
        raise NotPermitted(f"{method}: is not in this server's contract; call a method of turnloom.v1.")
    if need is not Need.NOTHING and not caller.scopes & _ENOUGH[need]:
        has = ", ".join(sorted(caller.scopes))
        name = method.rpartition("/")[2]
        raise NotPermitted(
            f"{name}: needs the scope {need.value}, and token {caller.name!r} has {has}; ask for one with it."
        )


def authenticate(metadata: Iterable[tuple[str, str | bytes]], find: Callable[[str], Caller | None]) -> Caller:
    """Return the caller that a call's metadata names.

    Raises:
        Unauthenticated: no token, more than one, something else than a bearer token, or an unknown one.
    """
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        raise Unauthenticated("The call brought no token, which this server needs; set TURNLOOM_TOKEN or --token.")
    if len(values) > 1:
        raise Unauthenticated("The call brought more than one authorization; send one.")
    kind, _, secret = str(values[0]).partition(" ")
    if kind.lower() != "bearer" or not 0 < len(secret) <= MAX_SECRET:
        raise Unauthenticated("The authorization is not of the form 'Bearer TOKEN'; set TURNLOOM_TOKEN or --token.")
    caller = find(secret)
    if caller is None:
        raise Unauthenticated(
            "The token is unknown here: mistyped, revoked, or of another server; ask this server's operator for one."
        )
    return caller
