"""Looks near steps alone: where they are taken, and that the blocks do not show."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from displacement.models import focus
from displacement.models.refinement import SMEARS, Refinement, look_again
from displacement.normalise import normalise_twice

KEY = jax.random.key(3)
SIZE = 136  # no whole number of blocks


def _stepped(height, slip):
    """A field `(2, 1, SIZE, SIZE)` that is `slip` px above row `height` and left of column 40."""
    rows, cols = np.mgrid[:SIZE, :SIZE]
    field = np.zeros((2, 1, SIZE, SIZE), np.float32)
    field[1, 0] = slip * ((rows < height) & (cols < 40))
    return jnp.asarray(field)


def test_it_is_near_at_a_step_and_not_far_from_it():
    near = np.asarray(focus.near_steps(_stepped(64, 0.5), jnp.full((1, SIZE, SIZE, 2), -5.0)))[0]
    assert near.shape == (SIZE, SIZE) and near.min() >= 0.0 and near.max() <= 1.0
    assert (near[60:68, :40] > 0.9).all() and (near[:60, 36:44] > 0.9).all()
    assert (near[104:] == 0.0).all() and (near[:, 88:] == 0.0).all()
    assert np.abs(np.diff(near, axis=0)).max() < 0.1  # it fades out


@pytest.mark.parametrize(("slip", "log_scale"), [(0.02, -7.0), (0.2, -1.0)])
def test_what_may_be_noise_is_no_step(slip, log_scale):
    scale = jnp.full((1, SIZE, SIZE, 2), log_scale)
    assert float(focus.near_steps(_stepped(64, slip), scale).max()) == 0.0


class _Alone(nn.Module):
    """Looks without a network before them."""

    @nn.compact
    def __call__(self, pair, displacement, log_scale):
        refine = Refinement(SMEARS, width=8, widths=())
        images = normalise_twice(pair)
        known = images.white, (displacement, log_scale)
        if self.is_initializing():
            return look_again(refine, images, *known, looks=1)[0]
        return focus.look_near_steps(refine, images, *known, looks=2)


@pytest.fixture(scope="module")
def case():
    """Weights of some size, and a pair of noise with a stepped field."""
    pair = jax.random.normal(KEY, (1, SIZE, SIZE, 2))
    field, scale = _stepped(30, 0.8), jnp.full((1, SIZE, SIZE, 2), -4.0)
    small = jax.tree.map(lambda leaf: leaf[:, :32, :32], (pair, scale))
    variables = jax.jit(_Alone().init)(KEY, small[0], field[:, :, :32, :32], small[1])
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(KEY, len(leaves))
    leaves = [0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return tree.unflatten(leaves), (pair, field, scale)


def test_in_blocks_it_is_as_on_the_whole(case, monkeypatch):
    variables, given = case
    whole = jax.jit(_Alone().apply)(variables, *given)
    monkeypatch.setattr(focus, "LEAST_PX", SIZE)
    blocks = jax.jit(lambda *arguments: _Alone().apply(*arguments))(variables, *given)
    near = np.asarray(focus.near_steps(*given[1:]))[0]
    changed = np.abs(np.asarray(whole[0]) - given[1])[:, 0]
    assert changed[:, near > 0.5].mean() > 0.01
    # The rim holds all but the ends of the widest windows.
    for found, expected in zip(blocks, whole, strict=True):
        assert np.abs(found - expected).mean() < 1e-3 * np.abs(changed).max()
        np.testing.assert_allclose(found, expected, atol=0.02)
    np.testing.assert_array_equal(blocks[0][:, 0, near == 0], given[1][:, 0, near == 0])
    np.testing.assert_array_equal(blocks[1][0, near == 0], given[2][0, near == 0])


def test_gradients_are_those_of_small_changes(case):
    variables, given = case
    pair, field, scale = (
        given[0][:, :32, :32],
        given[1][:, :, 14:46, 24:56],
        given[2][:, :32, :32],
    )
    images = jax.jit(normalise_twice)(pair)
    refine = Refinement(SMEARS, width=8, widths=())

    @jax.jit
    def loss(params):
        (found, found_scale), _ = nn.apply(
            lambda module: look_again(
                module, images, images.white, (field, scale), looks=1, unrolled=True
            ),
            refine,
        )({"params": params})
        return (found**2).mean() + (found_scale**2).mean()

    params = variables["params"]["Refinement_0"]
    gradient = jax.grad(loss)(params)
    size = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    assert size > 1e-3
    ahead, back = (
        jax.tree.map(lambda p, g, step=step: p + step * g / size, params, gradient)
        for step in (1e-3, -1e-3)
    )
    assert (loss(ahead) - loss(back)) / 2e-3 == pytest.approx(float(size), rel=0.02)
