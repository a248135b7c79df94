"""Whether two dates show one ground under a displacement."""

import numpy as np
import pytest

from displacement.agreement import UNRELATED, disagreement, misfits
from tests.conftest import Texture

SIZE = 128
INSIDE = (slice(20, -20), slice(20, -20))


@pytest.fixture(scope="module")
def pair():
    return Texture(3, SIZE, slope=1.0).pair((0.4, -0.3))


def _moved(*motion):
    return np.broadcast_to(np.float32(motion), (SIZE, SIZE, 2))


def unrelated(tile, displacement):
    return np.asarray(disagreement(tile, displacement)) > UNRELATED


def test_one_ground_agrees_under_its_motion_alone(pair, rng):
    noisy = pair + 0.2 * rng.standard_normal(pair.shape).astype(np.float32)
    assert not unrelated(noisy, _moved(0.4, -0.3))[INSIDE].any()
    assert unrelated(noisy, _moved(9.0, 7.0))[INSIDE].mean() > 0.9
    other = np.stack([pair[..., 0], Texture(8, SIZE, slope=1.0).pair((0.0, 0.0))[..., 1]], -1)
    assert unrelated(other, _moved(0.0, 0.0))[INSIDE].mean() > 0.9


def test_faint_water_does_not_agree_and_faint_ground_does(pair, rng):
    """Ground of a hundredth of the scene's contrast and less differs little, whatever it shows."""
    for contrast in (3e-2, 1e-2, 3e-3):
        faint = contrast * pair
        assert not unrelated(faint, _moved(0.4, -0.3))[INSIDE].any()
        water = contrast * rng.standard_normal(pair.shape).astype(np.float32)
        assert unrelated(water, _moved(0.4, -0.3))[INSIDE].mean() > 0.9


def test_unrelated_ground_is_told_up_to_the_edge_of_the_data(rng):
    one, other = (Texture(seed, SIZE, slope=1.0).pair((0.0, 0.0))[..., 0] for seed in (3, 8))
    tile = np.stack([one, other], -1)
    tile[:, 64:] = np.nan
    told = unrelated(tile, _moved(0.0, 0.0))[20:-20]
    assert told[:, 60:64].mean() > 0.9 and told[:, 20:60].mean() > 0.9


def test_what_has_no_data_speaks_for_nothing(pair):
    cut = pair.copy()
    cut[:, 64:, 1] = np.nan
    assert not unrelated(cut, _moved(0.4, -0.3))[20:-20, 20:64].any()
    found = _moved(0.4, -0.3).copy()
    found[30, 40] = np.nan
    misfit = misfits(pair, found, pool=2.0, unknown=2.0)
    assert np.isinf(misfit[30, 40]) and np.isfinite(misfit).sum() == SIZE**2 - 1
