"""`client.sweeps`: grids of jobs."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Unpack

from turnloom.client.jobs import JobFields, job_request
from turnloom.client.resource import CALL_SECONDS, WORK_SECONDS, Renamed, Resource, pages
from turnloom.transport.calls import Connection
from turnloom.v1 import training_pb2 as tr
from turnloom.v1.training_pb2_grpc import FineTuningServiceStub


class Sweeps(Resource):
    """The server's sweeps."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._service = FineTuningServiceStub(connection.channel)

    def create(
        self,
        axes: Mapping[str, Sequence[float]],
        *,
        model: str,
        training_dataset: str = "",
        display_name: str = "",
        request_id: str = "",
        successive_halving: bool = False,
        halving_eta: int | None = None,
        halving_rungs: Sequence[int] = (),
        **fields: Unpack[JobFields],
    ) -> tr.Sweep:
        """Queue a job for every combination of the axes.

        Args:
            axes: hyperparameter -> its values, such as {"lora_rank": [8, 16], "learning_rate": [1e-4]}.
            model: name from client.models.list().
            training_dataset: dataset id, READY; "" with `mix`.
            display_name: for people.
            request_id: the same id again gives the same sweep. Empty: a new one is generated.
            successive_halving: at each rung keep the cells with the lowest test NLL and stop the others.
            halving_eta: one cell in this many goes on at a rung; None: 2.
            halving_rungs: steps of the rungs; empty: as many as fit.
            fields: of every cell; see JobFields.
        """
        request = tr.CreateSweepRequest(
            base=job_request(model, training_dataset, fields),
            axes=[tr.SweepAxis(hyperparameter=name, values=values) for name, values in axes.items()],
            request_id=request_id or str(uuid.uuid4()),
            display_name=display_name,
            successive_halving=successive_halving,
            halving_eta=halving_eta,
            halving_rungs=halving_rungs,
        )
        return self._connection.ask(self._service.CreateSweep, request, WORK_SECONDS).sweep

    def retrieve(self, sweep: str) -> tr.Sweep:
        """Return one sweep with its jobs."""
        return self._connection.ask(self._service.GetSweep, tr.GetSweepRequest(id=sweep), CALL_SECONDS).sweep

    def list(self) -> Iterator[tr.Sweep]:
        """Yield sweeps, newest first."""

        def page(token: str) -> tuple[Iterable[tr.Sweep], str]:
            request = tr.ListSweepsRequest(page_token=token)
            answer = self._connection.ask(self._service.ListSweeps, request, CALL_SECONDS)
            return answer.sweeps, answer.next_page_token

        return pages(page)

    def cancel(self, sweep: str) -> tr.Sweep:
        """Cancel every unfinished job of a sweep."""
        return self._connection.ask(self._service.CancelSweep, tr.CancelSweepRequest(id=sweep), WORK_SECONDS).sweep

    __call__ = Renamed("", list)
