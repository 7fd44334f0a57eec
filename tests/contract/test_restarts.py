"""What survives a crash of a TuFT server that keeps records. The fake and the real one pass the same tests."""

from __future__ import annotations

import numpy as np
import pytest

from services.trainer.checkpoints import ServerFolder
from services.trainer.tuft_http import TuftHttp
from tests.contract.driving import DEADLINE, Server, client_at, client_of, forward, rows, step


def test_after_a_crash_an_idle_client_goes_on_rolled_back_and_a_new_one_continues_to_the_bit(server: Server) -> None:
    client, data = client_of(server), rows(6)
    step(client, data)
    state = client.save_state("before-the-crash").result(DEADLINE).path
    at_the_checkpoint = forward(client, data)
    expected = [step(client, data) for _ in range(3)]
    beyond_it = forward(client, data)

    server.kill()
    server.start()

    resumed = client_at(server, state)
    np.testing.assert_array_equal(forward(resumed, data), at_the_checkpoint)
    assert [step(resumed, data) for _ in range(3)] == expected
    np.testing.assert_array_equal(forward(resumed, data), beyond_it)
    # Nothing tells the old client that its last three steps are gone.
    np.testing.assert_array_equal(forward(client, data), at_the_checkpoint)


def test_after_a_crash_a_deleted_checkpoint_stays_deleted_and_its_run_is_back_at_the_one_before(server: Server) -> None:
    client, data = client_of(server), rows(6)
    step(client, data)
    client.save_state("kept").result(DEADLINE)
    at_the_kept_one = forward(client, data)
    step(client, data)
    deleted = client.save_state("deleted").result(DEADLINE).path
    TuftHttp(server.url, server.api_key).delete_checkpoint(ServerFolder.run_of(deleted), "deleted")

    server.kill()
    server.start()

    np.testing.assert_array_equal(forward(client, data), at_the_kept_one)
    with pytest.raises(ValueError, match=r"404.*deleted"):
        client_at(server, deleted)
