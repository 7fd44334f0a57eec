"""`client.models`: models that conversations can be preprocessed for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from turnloom.client.resource import CALL_SECONDS, Renamed, Resource, pages
from turnloom.transport.calls import Connection
from turnloom.v1 import preprocess_pb2 as pp
from turnloom.v1.preprocess_pb2_grpc import PreprocessServiceStub

ModelList: TypeAlias = list[pp.Model]


class Models(Resource):
    """The server's models."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._service = PreprocessServiceStub(connection.channel)

    def list(self) -> ModelList:
        """Return all models, by name."""

        def page(token: str) -> tuple[Iterable[pp.Model], str]:
            request = pp.ListModelsRequest(page_token=token)
            answer = self._connection.ask(self._service.ListModels, request, CALL_SECONDS)
            return answer.models, answer.next_page_token

        return [*pages(page)]

    __call__ = Renamed("", list)
