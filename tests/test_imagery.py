"""On real scenes, which are not part of the repository: skipped where they are absent."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

import displacement
from data_gen import prepare
from data_gen.config import plain
from data_gen.generator import simulate

IMAGERY = pathlib.Path(__file__).parents[2] / "shared" / "imagery"
pytestmark = pytest.mark.skipif(not IMAGERY.is_dir(), reason=f"no imagery at {IMAGERY}")
CONFIG = plain(
    size=192,
    scene_scale=(1.0, 1.35),
    slip_px=(2.0, 2.0),
    roughness_px=(2.0, 2.0),
    locking_px=(2000.0, 2000.0),
    edge_clearance=0.4,
    noise_fraction=(0.03, 0.03),
)


@pytest.fixture(scope="module")
def bank():
    return prepare.read_bank(IMAGERY, only=("cupertino",), report=lambda _: None)


@pytest.mark.parametrize("two_dates", [False, True])
def test_a_fault_put_into_cupertino_comes_back(bank, two_dates):
    config = dataclasses.replace(CONFIG, two_date_fraction=float(two_dates))
    sample = jax.device_get(jax.jit(simulate, static_argnums=1)(jax.random.key(5), config, bank))
    found = displacement.estimate(*np.moveaxis(sample.pair, -1, 0))
    direction = sample.slip.mean((0, 1)) / np.linalg.norm(sample.slip.mean((0, 1)))
    along = found.displacement @ direction
    truth = sample.displacement @ direction
    far = (np.abs(sample.distance) > 8) & found.valid & sample.valid
    error = np.median(np.abs(along - truth)[far])
    assert error < (0.15 if two_dates else 0.03)
    jumps = []
    for field in (along, truth):
        positive, negative = (
            np.median(field[far & (side * sample.distance > 8) & (side * sample.distance < 24)])
            for side in (1, -1)
        )
        jumps.append(positive - negative)
    assert abs(jumps[0] - jumps[1]) < (0.2 if two_dates else 0.05)
    assert abs(jumps[1]) > 1.5  # the fault is there
