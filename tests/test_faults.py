"""Faults: the displacement field, its inverse and the distance, against closed forms."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_gen import faults, motion
from data_gen.config import GeneratorConfig
from displacement.warp import grid

CONFIG = GeneratorConfig(
    size=64,
    fault_fraction=1.0,
    opening_fraction=0.0,
    tip_fraction=0.0,
    ccd_fraction=0.0,
)
SINGLE = dataclasses.replace(
    CONFIG, parallel_fraction=0.0, stepover_fraction=0.0, branch_fraction=0.0
)
draw = jax.jit(
    lambda seed, config: motion.sample_motion(jax.random.key(seed), config), static_argnums=1
)
distance = jax.jit(lambda fault, p: faults.distance_and_slip(fault, p)[0])
displacement = jax.jit(motion.displacement_at)


def _straight(kind=faults.SINGLE, **changes):
    """A sharp vertical trace at col 50 with 2 px of slip along +row, positive side right."""
    trace = faults.Trace(
        centre=jnp.array([[50.0, 50.0]] * 2),
        along=jnp.array([[1.0, 0.0]] * 2),
        deviation_px=jnp.zeros((2, 65)),
        node_px=jnp.full(2, 4.0),
    )
    trace = trace._replace(**{k: changes.pop(k) for k in trace._fields if k in changes})
    values = {
        "second_share": 0.25,
        "junction_px": 0.0,
        "overlap_px": 10.0,
        "branch_side": 1.0,
        "slip_px": [2.0, 0.0],
        "one_sided": 0.0,
        "shear_zone_px": 0.0,
        "locking_px": 1e9,
        "tips_px": [-1e6, 1e6],
        "taper_px": 10.0,
        "variation": [0.0, 1.0, 0.0],
    }
    arrays = {k: jnp.asarray(v, jnp.float32) for k, v in (values | changes).items()}
    fault = faults.Fault(traces=trace, kind=jnp.int32(kind), **arrays)
    still = draw(0, SINGLE)
    return jax.tree.map(jnp.zeros_like, still)._replace(
        fault=fault, bump_radius_px=1.0, jitter=jnp.ones(2), detector_width_px=1.0
    )


def test_a_sharp_fault_is_a_step_of_the_slip():
    u = displacement(_straight(), jnp.array([[10.0, 49.9], [10.0, 50.1]]))
    np.testing.assert_allclose(u, [[-1.0, 0.0], [1.0, 0.0]], atol=1e-5)


def test_half_the_offset_is_left_at_the_locking_depth():
    fault = _straight(locking_px=20.0)
    u = displacement(fault, jnp.array([[10.0, 70.0], [10.0, 30.0]]))
    np.testing.assert_allclose(u[:, 0], [0.5, -0.5], atol=1e-5)


def test_distance_to_a_straight_trace_is_signed_and_perpendicular():
    found = distance(_straight().fault, jnp.array([[20.0, 57.5], [80.0, 40.0]]))
    np.testing.assert_allclose(found, [7.5, -10.0], atol=1e-4)


def test_distance_is_infinite_without_slip_and_grows_from_a_tip():
    none = distance(_straight(slip_px=[0.0, 0.0]).fault, grid(8, 8))
    assert np.isinf(none).all()
    tip = _straight(tips_px=[-1e6, 0.0])  # ends at row 50
    assert np.abs(distance(tip.fault, jnp.array([90.0, 50.0]))) > 30


@pytest.mark.parametrize("seed", range(6))
def test_distance_matches_brute_force_over_a_rough_trace(seed):
    fault = draw(seed, SINGLE).fault
    trace = jax.tree.map(lambda x: np.asarray(x[0]), fault.traces)
    nodes = trace.deviation_px.shape[0]
    along = (np.arange(nodes) - (nodes - 1) / 2) * trace.node_px
    across = np.array([-trace.along[1], trace.along[0]])
    points = trace.centre + along[:, None] * trace.along + trace.deviation_px[:, None] * across
    fine = np.concatenate([np.linspace(a, b, 40) for a, b in itertools.pairwise(points)])
    pixels = np.asarray(grid(64, 64)).reshape(-1, 2)[::37]
    nearest = np.sqrt(((pixels[:, None] - fine) ** 2).sum(-1)).min(1)
    found = np.abs(distance(fault, jnp.asarray(pixels)))
    np.testing.assert_allclose(found, nearest, atol=0.06)


@pytest.mark.parametrize("seed", range(8))
def test_backward_positions_undo_the_displacement(seed):
    """p + u(p) = x wherever the ground is neither torn open nor overridden."""
    moved, x = draw(seed, CONFIG), grid(64, 64)
    p = jax.jit(lambda moved: motion.backward_positions(moved, x, iterations=4))(moved)
    miss = jnp.linalg.norm(p + displacement(moved, p) - x, axis=-1)
    far = jnp.abs(distance(moved.fault, x)) > 5.0
    # Next to a wide shear zone of large slip the fixed point converges slowly: rare and small.
    assert float(jnp.quantile(miss[far], 0.99)) < 0.01
    assert float((miss > 0.05).mean()) < 0.06


def test_backward_positions_choose_the_side_that_moved_the_ground():
    fault = _straight(slip_px=[0.0, -4.0])  # closing by 2 px from each side: an overlap
    p = motion.backward_positions(fault, jnp.array([[10.0, 60.0], [10.0, 40.0]]), iterations=4)
    np.testing.assert_allclose(p[:, 1], [62.0, 38.0], atol=1e-5)
    fault = _straight(slip_px=[0.0, 4.0])  # opening: what lies 3 px right came from the right
    p = motion.backward_positions(fault, jnp.array([[10.0, 53.0], [10.0, 47.0]]), iterations=4)
    np.testing.assert_allclose(p[:, 1], [51.0, 49.0], atol=1e-5)


def test_parallel_strands_share_the_slip():
    fault = _straight(faults.PARALLEL, centre=jnp.array([[50.0, 50.0], [50.0, 60.0]]))
    at = jnp.array([[10.0, 45.0], [10.0, 55.0], [10.0, 65.0]])
    np.testing.assert_allclose(displacement(fault, at)[:, 0], [-1.0, 0.5, 1.0], atol=1e-5)
    found, slip = faults.distance_and_slip(fault.fault, at)
    np.testing.assert_allclose(found, [-5.0, 5.0, 5.0], atol=1e-4)
    np.testing.assert_allclose(slip[:, 0], [1.5, 1.5, 0.5], atol=1e-5)


def test_a_stepover_hands_the_slip_over():
    fault = _straight(faults.STEPOVER, centre=jnp.array([[50.0, 50.0], [50.0, 60.0]]))
    before, after = jnp.array([[20.0, 55.0]]), jnp.array([[80.0, 55.0]])
    np.testing.assert_allclose(displacement(fault, before)[:, 0], 1.0, atol=1e-5)
    np.testing.assert_allclose(displacement(fault, after)[:, 0], -1.0, atol=1e-5)
    np.testing.assert_allclose(distance(fault.fault, before), 5.0, atol=1e-4)
    np.testing.assert_allclose(distance(fault.fault, after), -5.0, atol=1e-4)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_branch_takes_its_share_of_the_slip_from_the_main_strand(side):
    """The jump across the branch, and what is left on the main strand, add up to the slip."""
    unit = jnp.array([np.cos(np.pi / 6), side * np.sin(np.pi / 6)])
    fault = _straight(
        faults.BRANCH, along=jnp.stack([jnp.array([1.0, 0.0]), unit]), branch_side=side
    )
    rows = jnp.full(400, 80.0)
    cols = jnp.linspace(0.05, 99.95, 400)
    u = np.asarray(displacement(fault, jnp.stack([rows, cols], -1))[:, 0])
    jumps = np.abs(np.diff(u))
    assert sorted(np.round(jumps[jumps > 1e-3], 4)) == [0.5, 1.5]
    before = np.asarray(displacement(fault, jnp.stack([rows - 60.0, cols], -1))[:, 0])
    jumps = np.abs(np.diff(before))
    assert np.round(jumps[jumps > 1e-3], 4).tolist() == [2.0]
    pixels = grid(100, 100)
    d, slip = faults.distance_and_slip(fault.fault, pixels)
    near = np.abs(d) < 1.5
    assert set(np.unique(np.round(np.asarray(slip)[near][:, 0], 3))) <= {2.0, 1.5, 0.5}


def test_the_slip_on_a_branch_is_the_jump_across_it():
    """Also far from the main strand, from which it dies away."""
    unit = jnp.array([np.cos(np.pi / 6), np.sin(np.pi / 6)])
    along = jnp.stack([jnp.array([1.0, 0.0]), unit])
    fault = _straight(faults.BRANCH, along=along, locking_px=20.0)
    at = jnp.array([50.0, 50.0]) + 40.0 * unit
    across = jnp.array([-unit[1], unit[0]])
    u = np.asarray(displacement(fault, jnp.stack([at + 0.01 * across, at - 0.01 * across])))
    _, slip = faults.distance_and_slip(fault.fault, at[None])
    # That of the nearest straight piece of the trace, some 2 px long.
    np.testing.assert_allclose(slip[0], u[0] - u[1], atol=0.01)


def test_of_a_margin_only_the_positive_side_moves():
    fault = _straight(one_sided=1.0, locking_px=20.0)
    u = displacement(fault, jnp.array([[10.0, 49.0], [10.0, 50.0], [10.0, 70.0]]))
    np.testing.assert_allclose(u[:, 0], [0.0, 2.0, 1.0], atol=1e-4)


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0, 4.0, 1e4])
def test_the_far_field_is_an_arctangent(x):
    found = faults._far_decay(jnp.float32(-7.0 * x), jnp.float32(7.0))
    assert float(found) == pytest.approx(1 - 2 / np.pi * np.arctan(x), abs=1e-5)


def test_the_ground_moves_as_that_of_triangular_dislocations():
    """A vertical plane that slipped by 2 px from the surface down to 20 px, in a half-space."""
    halfspace = pytest.importorskip("cutde.halfspace")
    depth, end = 20.0, 20_000.0
    top, bottom = ([[0.0, y, z] for y in (-end, end)] for z in (0.0, -depth))
    plane = np.array([[bottom[1], top[1], top[0]], [bottom[0], bottom[1], top[0]]])
    across = np.array([-200.0, -60.0, -20.0, -5.0, -0.5, 0.5, 5.0, 20.0, 60.0, 200.0])
    ground = np.stack([across, 0 * across, 0 * across], axis=-1)
    response = halfspace.disp_matrix(ground, plane, 0.25)  # point, component, triangle, slip
    expected = 2.0 * response[..., 0].sum(-1)
    expected *= np.sign(expected[-1, 1])  # our positive side is the one that moves along +row
    fault = _straight(locking_px=depth)
    u = displacement(fault, jnp.stack([jnp.full(across.shape, 10.0), 50.0 + across], axis=-1))
    np.testing.assert_allclose(u[:, 0], expected[:, 1], atol=1e-3)
    np.testing.assert_allclose(u[:, 1], expected[:, 0], atol=1e-3)


@pytest.mark.parametrize("seed", range(12))
def test_jumps_lie_on_the_trace_and_nowhere_else(seed):
    """Of any kind of sharp fault: neighbours differ by much only where the distance is small."""
    config = dataclasses.replace(
        CONFIG,
        sharp_fraction=1.0,
        slip_px=(3.0, 3.0),
        parallel_fraction=0.25,
        stepover_fraction=0.25,
        branch_fraction=0.25,
        slip_variation=0.3,
    )
    moved, x = draw(seed, config), grid(64, 64)
    u, d = displacement(moved, x), np.abs(distance(moved.fault, x))
    jump = np.linalg.norm(np.diff(u, axis=0), axis=-1) > 0.6
    assert (np.minimum(d[1:], d[:-1])[jump] < 1.5).all()


def test_drawn_faults_keep_to_their_ranges():
    config = GeneratorConfig(size=64)
    drawn = jax.vmap(lambda k: motion.sample_motion(k, config))(
        jax.random.split(jax.random.key(0), 400)
    )
    slip = np.linalg.norm(drawn.fault.slip_px, axis=-1)
    present = slip > 0
    assert abs(present.mean() - config.fault_fraction) < 0.06
    assert slip[present].min() >= config.slip_px[0] * 0.999
    assert slip[present].max() <= config.slip_px[1] * 1.001
    assert np.abs(drawn.offset_px).max() <= config.offset_px
    rms = np.asarray(drawn.fault.traces.deviation_px).std(-1)
    assert rms.min() > 0.9 * config.roughness_px[0] and rms.max() < 1.1 * config.roughness_px[1]
    kinds = np.bincount(drawn.fault.kind, minlength=4) / 400
    assert (np.abs(kinds[1:] - 0.1) < 0.06).all()
    assert abs(np.mean(drawn.fault.one_sided) - config.one_sided_fraction) < 0.06
