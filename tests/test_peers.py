"""Other programs' answers: signs and axes of theirs, and ours against theirs."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from displacement.correlators.lk import lk
from displacement.correlators.ncc import ncc
from displacement.correlators.phase import phase
from experiments import peers

SHIFT = (0.4, -0.7)
INNER = np.s_[40:-40:8, 40:-40:8]


@pytest.fixture(scope="module")
def others():
    pytest.importorskip("cv2")
    return peers.peers(window=32, step=8)


def test_peers_are_called_with_the_right_signs_and_axes(texture, others):
    shift = (1.4, -2.7)
    earlier, later = np.moveaxis(texture.pair(shift), -1, 0)
    assert len(others) == 5
    for name, measure in others.items():  # some are drawn to whole pixels by 0.3 px
        error = measure(earlier, later)[INNER] - shift
        assert np.abs(np.median(error, axis=(0, 1))).max() < 0.45, name


def test_correlators_are_no_worse_than_scikit_image_and_opencv(texture, others):
    earlier, later = np.moveaxis(texture.pair(SHIFT), -1, 0)
    theirs = {
        name: np.abs(measure(earlier, later)[INNER] - SHIFT).mean()
        for name, measure in others.items()
    }
    pair = jnp.asarray(np.stack([earlier, later], -1))
    ours = {
        "phase": phase(pair, window=32, step=8),
        "ncc": ncc(pair, window=31, step=8),
        "lk": lk(pair, window=32),
    }
    for name, (found, _) in ours.items():
        error = np.abs(np.asarray(found)[INNER] - SHIFT).mean()
        assert error < 0.01, name
        assert error < min(theirs.values()) + 0.002, (name, theirs)


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    said = []
    found = peers.peers(window=16, step=8, report=said.append)
    assert all(name.startswith("scikit-image") for name in found)
    assert said == ["OpenCV is not installed and left out; the extra `dev` holds it."]
