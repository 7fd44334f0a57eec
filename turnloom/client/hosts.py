"""`client.hosts`: GPU hosts and what they report."""

from __future__ import annotations

from typing import TypeAlias

from turnloom.client.resource import CALL_SECONDS, WORK_SECONDS, Renamed, Resource
from turnloom.transport.calls import Connection
from turnloom.v1 import training_pb2 as tr
from turnloom.v1.training_pb2_grpc import FineTuningServiceStub

HostList: TypeAlias = list[tr.Host]
CheckList: TypeAlias = list[tr.Check]


class Hosts(Resource):
    """The GPU hosts that workers announced."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._service = FineTuningServiceStub(connection.channel)

    def list(self) -> HostList:
        """Return the known GPU hosts."""
        return [*self._connection.ask(self._service.ListHosts, tr.ListHostsRequest(), CALL_SECONDS).hosts]

    def diagnose(self, host: str = "") -> CheckList:
        """Return the results of the checks that only a GPU host can make; host "": those of all hosts."""
        request = tr.DiagnoseRequest(host=host)
        return [*self._connection.ask(self._service.Diagnose, request, WORK_SECONDS).checks]

    __call__ = Renamed("", list)
