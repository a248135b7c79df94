"""Faults: the displacement field, its inverse and the distance, against closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_gen import faults
from data_gen.config import GeneratorConfig
from displacement.warp import grid

CONFIG = GeneratorConfig(size=64, fault_fraction=1.0, opening_fraction=0.0, tip_fraction=0.0)
draw = jax.jit(lambda seed: faults.sample_fault(jax.random.key(seed), CONFIG))
distance = jax.jit(faults.signed_distance)


def _straight(**changes):
    """A sharp vertical trace at col 50 with 2 px of slip along +row, positive side right."""
    fault = faults.Fault(
        centre=jnp.array([50.0, 50.0]),
        along=jnp.array([1.0, 0.0]),
        deviation_px=jnp.zeros(65),
        node_px=jnp.float32(4.0),
        slip_px=jnp.array([2.0, 0.0]),
        shear_zone_px=jnp.float32(0.0),
        locking_px=jnp.float32(1e9),
        tip_px=jnp.float32(1e6),
        taper_px=jnp.float32(10.0),
        offset_px=jnp.zeros(2),
        ramp=jnp.zeros((2, 2)),
        bump_px=jnp.zeros(2),
        bump_centre=jnp.zeros(2),
        bump_radius_px=jnp.float32(10.0),
    )
    return fault._replace(**{k: jnp.asarray(v, jnp.float32) for k, v in changes.items()})


def test_a_sharp_fault_is_a_step_of_the_slip():
    u = faults.displacement_at(_straight(), jnp.array([[10.0, 49.9], [10.0, 50.1]]))
    np.testing.assert_allclose(u, [[-1.0, 0.0], [1.0, 0.0]], atol=1e-5)


def test_half_the_offset_is_left_at_the_locking_depth():
    fault = _straight(locking_px=20.0)
    u = faults.displacement_at(fault, jnp.array([[10.0, 70.0], [10.0, 30.0]]))
    np.testing.assert_allclose(u[:, 0], [0.5, -0.5], atol=1e-5)


def test_distance_to_a_straight_trace_is_signed_and_perpendicular():
    found = distance(_straight(), jnp.array([[20.0, 57.5], [80.0, 40.0]]))
    np.testing.assert_allclose(found, [7.5, -10.0], atol=1e-4)


def test_distance_is_infinite_without_slip_and_grows_from_a_tip():
    none = distance(_straight(slip_px=[0.0, 0.0]), grid(8, 8))
    assert np.isinf(none).all()
    tip = _straight(tip_px=0.0)  # ends at row 50
    assert np.abs(distance(tip, jnp.array([90.0, 50.0]))) > 30


@pytest.mark.parametrize("seed", range(6))
def test_distance_matches_brute_force_over_a_rough_trace(seed):
    fault = draw(seed)
    nodes = fault.deviation_px.shape[0]
    along = (np.arange(nodes) - (nodes - 1) / 2) * float(fault.node_px)
    across = np.array([-fault.along[1], fault.along[0]])
    points = (
        np.asarray(fault.centre)
        + along[:, None] * np.asarray(fault.along)
        + np.asarray(fault.deviation_px)[:, None] * across
    )
    fine = np.concatenate([np.linspace(a, b, 40) for a, b in itertools.pairwise(points)])
    pixels = np.asarray(grid(64, 64)).reshape(-1, 2)[::37]
    nearest = np.sqrt(((pixels[:, None] - fine) ** 2).sum(-1)).min(1)
    found = np.abs(distance(fault, jnp.asarray(pixels)))
    np.testing.assert_allclose(found, nearest, atol=0.06)


@pytest.mark.parametrize("seed", range(8))
def test_backward_positions_undo_the_displacement(seed):
    """p + u(p) = x wherever the ground is neither torn open nor overridden."""
    fault, x = draw(seed), grid(64, 64)
    p = jax.jit(faults.backward_positions)(fault, x)
    miss = jnp.linalg.norm(p + faults.displacement_at(fault, p) - x, axis=-1)
    far = jnp.abs(distance(fault, x)) > 5.0
    # Next to a wide shear zone of large slip the fixed point converges slowly: rare and small.
    assert float(jnp.quantile(miss[far], 0.99)) < 0.01
    assert float((miss > 0.05).mean()) < 0.06


def test_backward_positions_choose_the_side_that_moved_the_ground():
    fault = _straight(slip_px=[0.0, -4.0])  # closing by 2 px from each side: an overlap
    p = faults.backward_positions(fault, jnp.array([[10.0, 60.0], [10.0, 40.0]]))
    np.testing.assert_allclose(p[:, 1], [62.0, 38.0], atol=1e-5)
    fault = _straight(slip_px=[0.0, 4.0])  # opening: what lies 3 px right came from the right
    p = faults.backward_positions(fault, jnp.array([[10.0, 53.0], [10.0, 47.0]]))
    np.testing.assert_allclose(p[:, 1], [51.0, 49.0], atol=1e-5)


def test_drawn_faults_keep_to_their_ranges():
    config = GeneratorConfig(size=64)
    drawn = jax.vmap(lambda k: faults.sample_fault(k, config))(
        jax.random.split(jax.random.key(0), 400)
    )
    slip = np.linalg.norm(drawn.slip_px, axis=-1)
    present = slip > 0
    assert abs(present.mean() - config.fault_fraction) < 0.06
    assert slip[present].min() >= config.slip_px[0] * 0.999
    assert slip[present].max() <= config.slip_px[1] * 1.001
    assert np.abs(drawn.offset_px).max() <= config.offset_px
    rms = np.asarray(drawn.deviation_px).std(-1)
    assert rms.min() > 0.9 * config.roughness_px[0] and rms.max() < 1.1 * config.roughness_px[1]
