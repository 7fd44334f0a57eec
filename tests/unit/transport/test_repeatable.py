"""Which RPCs the client may send a second time when the connection broke."""

from __future__ import annotations

import pytest

from turnloom.transport.calls import REPEATABLE
from turnloom.v1 import datasets_pb2, preprocess_pb2, training_pb2

SERVICES = [
    service
    for module in (datasets_pb2, preprocess_pb2, training_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_rpc_that_only_reads_may_be_sent_again(service) -> None:
    reads = {name for name in service.methods_by_name if name.startswith(("Get", "List"))}
    assert reads <= set(REPEATABLE[service.name])


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_what_changes_something_is_sent_again_only_with_a_request_id(service) -> None:
    for name in set(REPEATABLE[service.name]) & set(service.methods_by_name):
        fields = service.methods_by_name[name].input_type.fields_by_name
        assert name.startswith(("Get", "List", "Preprocess", "Preview")) or "request_id" in fields, name
    assert set(REPEATABLE[service.name]) <= set(service.methods_by_name)
