"""Looking from several sides: an estimator that knows no sides gives the same from all of them."""

import numpy as np
import pytest

import displacement
from displacement import views
from tests.conftest import Texture


def _gradients(tile):
    """A made-up measurement that turns with the ground: slopes, their sizes, and a number."""
    down, right = np.gradient(tile[..., 0])
    return np.stack([down, right, np.abs(down), np.abs(right), tile[..., 1]], axis=-1)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_what_turns_with_the_ground_is_the_same_from_every_side(rng, count):
    tile = rng.standard_normal((20, 28, 2))
    found = views.from_sides(_gradients, tile, views=count)
    np.testing.assert_allclose(found, _gradients(tile), atol=1e-6)


def test_the_mean_of_all_sides_turns_with_the_ground(rng):
    tile = rng.standard_normal((16, 16, 2))
    weights = rng.standard_normal((16, 16, 4))

    def lopsided(tile):
        return tile[..., :1] * weights

    plain = views.from_sides(lopsided, tile, views=8)
    mirrored = views.from_sides(lopsided, tile[::-1], views=8)[::-1] * [-1, 1, 1, 1]
    np.testing.assert_allclose(mirrored, plain, atol=1e-6)


def test_estimate_takes_views(rng):
    pair = Texture(3, 64).pair((0.4, -0.3))
    found = displacement.estimate(pair[..., 0], pair[..., 1], method="quick", views=2)
    middle = found.displacement[16:-16, 16:-16].reshape(-1, 2)
    np.testing.assert_allclose(np.median(middle, 0), [0.4, -0.3], atol=0.02)
    assert found.details["views"] == 2
    with pytest.raises(ValueError, match="views=9 must be from 1 to 8"):
        displacement.estimate(pair[..., 0], pair[..., 1], method="quick", views=9)
