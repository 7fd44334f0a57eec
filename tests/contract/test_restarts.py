"""What survives a crash of a TuFT server that keeps records. The fake and the real one pass the same tests."""

from __future__ import annotations

import numpy as np

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
