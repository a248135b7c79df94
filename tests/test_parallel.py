"""Devices and hosts: who makes which examples, and hosts that do not go on from one place."""

import numpy as np
import pytest

from displacement import parallel


@pytest.fixture
def hosts(monkeypatch):
    """Two hosts, of which this is the second; a function that says what they gather."""
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel.jax, "process_index", lambda: 1)

    def gathering(values):
        found = parallel.multihost_utils
        monkeypatch.setattr(found, "process_allgather", lambda _: np.array(values))

    return gathering


def test_hosts_that_would_go_on_from_different_steps_are_refused(hosts):
    hosts([400, 400])
    parallel.check_same(400, place="--run_dir=runs/a")
    hosts([400, 0])
    with pytest.raises(ValueError, match=r"steps \[400, 0\]: --run_dir=runs/a has to be on a disk"):
        parallel.check_same(0, place="--run_dir=runs/a")


def test_what_one_host_asks_for_all_do(hosts):
    hosts([True, False])
    assert parallel.agreed(False)
    hosts([False, False])
    assert not parallel.agreed(False)


def test_each_host_makes_its_own_examples(hosts):
    del hosts  # the second of two: its devices are the last ones
    np.testing.assert_array_equal(parallel.example_indices(8, 4), [[4, 5], [6, 7]])
    with pytest.raises(ValueError, match="batch of 9 does not divide over 4 devices"):
        parallel.example_indices(9, 4)
    assert not parallel.is_first()
