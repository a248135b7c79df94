"""Faults: rough traces, slip, the displacement they cause, and the distance to them.

A displacement is a function of position on the *earlier* image's ground. The later image shows at
x the ground that was at p with p + u(p) = x; `backward_positions` solves that, also next to the
trace, where p has to lie on the side whose displacement moved it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from data_gen.config import GeneratorConfig


class Fault(NamedTuple):
    """One fault and the smooth motion around it. Positions in pixels, (row, col)."""

    centre: jax.Array  # (2,) a point of the mean trace
    along: jax.Array  # (2,) unit vector of the mean strike
    deviation_px: jax.Array  # (T,) trace's deviation from its line, at steps of `node_px`
    node_px: jax.Array  # scalar, spacing of the trace's nodes along strike
    slip_px: jax.Array  # (2,) displacement of the positive side minus the negative side
    shear_zone_px: jax.Array  # scalar, full width; 0 is perfectly sharp
    locking_px: jax.Array  # scalar, distance over which the offset decays
    tip_px: jax.Array  # scalar, position along strike where slip ends
    taper_px: jax.Array  # scalar, over which it tapers
    offset_px: jax.Array  # (2,) uniform shift
    ramp: jax.Array  # (2, 2) px per px, about `centre`
    bump_px: jax.Array  # (2,) height of a smooth bump
    bump_centre: jax.Array  # (2,)
    bump_radius_px: jax.Array  # scalar


def _log_uniform(key: jax.Array, bounds: tuple[float, float], shape=()) -> jax.Array:
    low, high = jnp.log(bounds[0]), jnp.log(bounds[1])
    return jnp.exp(jax.random.uniform(key, shape, minval=low, maxval=high))


def _self_affine(key: jax.Array, hurst: jax.Array, *, nodes: int) -> jax.Array:
    """`(nodes,)` self-affine profile of unit rms and no trend, spectral power -(2 hurst + 1)."""
    size = 2 * nodes  # half of a periodic profile, so that its ends are unlike
    frequency = jnp.arange(1, size // 2 + 1, dtype=jnp.float32)
    amplitude = frequency ** -(hurst + 0.5)
    real, imag = amplitude * jax.random.normal(key, (2, size // 2))
    spectrum = jnp.concatenate([jnp.zeros(1, jnp.complex64), real + 1j * imag])
    profile = jnp.fft.irfft(spectrum, n=size)[:nodes]
    x = jnp.linspace(-1.0, 1.0, nodes)
    profile = profile - profile.mean()
    profile = profile - x * (profile * x).sum() / (x**2).sum()
    return profile / (profile.std() + 1e-9)


def sample_fault(key: jax.Array, config: GeneratorConfig) -> Fault:
    """Draws one fault, or none (slip 0), with the smooth motion around it."""
    k = iter(jax.random.split(key, 24))
    size = config.size
    reach = 1.3 * size  # half the trace's length: it crosses the sample from any centre
    nodes = 2 * int(reach // 4) + 1
    centre = size * jax.random.uniform(
        next(k), (2,), minval=config.edge_clearance, maxval=1.0 - config.edge_clearance
    )
    strike = jax.random.uniform(next(k), maxval=2 * jnp.pi)
    along = jnp.stack([jnp.cos(strike), jnp.sin(strike)])
    across = jnp.stack([-along[1], along[0]])
    hurst = jax.random.uniform(next(k), minval=config.hurst[0], maxval=config.hurst[1])
    roughness = _log_uniform(next(k), config.roughness_px)
    deviation = roughness * _self_affine(next(k), hurst, nodes=nodes)
    # The line passes through its centre, so that the trace is in the image however rough.
    deviation = deviation - deviation[nodes // 2]

    any_rake = jax.random.uniform(next(k)) < config.opening_fraction
    rake = jnp.where(
        any_rake,
        jax.random.uniform(next(k), maxval=2 * jnp.pi),
        jnp.deg2rad(config.oblique_deg) * jax.random.normal(next(k)),
    )
    sense = jnp.where(jax.random.bernoulli(next(k)), 1.0, -1.0)
    slip = _log_uniform(next(k), config.slip_px) * sense
    present = jax.random.uniform(next(k)) < config.fault_fraction
    slip = jnp.where(present, slip, 0.0) * (jnp.cos(rake) * along + jnp.sin(rake) * across)

    sharp = jax.random.uniform(next(k)) < config.sharp_fraction
    ends = jax.random.uniform(next(k)) < config.tip_fraction
    tip = jax.random.uniform(next(k), minval=-0.4, maxval=0.4) * size
    bump = jax.random.uniform(next(k)) < config.bump_fraction
    bump_angle = jax.random.uniform(next(k), maxval=2 * jnp.pi)
    bump_px = jnp.where(bump, _log_uniform(next(k), config.bump_px), 0.0)
    return Fault(
        centre=centre,
        along=along,
        deviation_px=deviation,
        node_px=jnp.float32(2 * reach / (nodes - 1)),
        slip_px=slip,
        shear_zone_px=jnp.where(sharp, 0.0, _log_uniform(next(k), config.shear_zone_px)),
        locking_px=_log_uniform(next(k), config.locking_px),
        tip_px=jnp.where(ends, tip, 4.0 * size),
        taper_px=size * jax.random.uniform(next(k), minval=0.1, maxval=0.6),
        offset_px=config.offset_px * jax.random.uniform(next(k), (2,), minval=-1.0),
        ramp=config.ramp_px / size * jax.random.normal(next(k), (2, 2)),
        bump_px=bump_px * jnp.stack([jnp.cos(bump_angle), jnp.sin(bump_angle)]),
        bump_centre=size * jax.random.uniform(next(k), (2,)),
        bump_radius_px=size * jax.random.uniform(next(k), minval=0.08, maxval=0.3),
    )


def _trace_coordinates(fault: Fault, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position along strike, and offset across it from the rough trace (positive: right bank)."""
    # Written out: XLA would make a call of its own of a product over two components.
    row, col = positions[..., 0] - fault.centre[0], positions[..., 1] - fault.centre[1]
    along = row * fault.along[0] + col * fault.along[1]
    across = col * fault.along[0] - row * fault.along[1]
    nodes = fault.deviation_px.shape[0]
    node = jnp.clip(along / fault.node_px + (nodes - 1) / 2, 0.0, nodes - 1.001)
    base = jnp.floor(node).astype(jnp.int32)
    left, right = fault.deviation_px[base], fault.deviation_px[base + 1]
    return along, across - (left + (right - left) * (node - base))


def _slip_fraction(fault: Fault, along: jax.Array) -> jax.Array:
    """Share of the slip that is left at `along`: a smooth taper to 0 at the tip."""
    room = jnp.clip((fault.tip_px - along) / fault.taper_px, 0.0, 1.0)
    return room**2 * (3.0 - 2.0 * room)


def slip_at(fault: Fault, positions: jax.Array) -> jax.Array:
    """Slip `(..., 2)` [px] on the trace beside `positions`: positive minus negative side."""
    along, _ = _trace_coordinates(fault, positions)
    return _slip_fraction(fault, along)[..., None] * fault.slip_px


def displacement_at(fault: Fault, positions: jax.Array) -> jax.Array:
    """Displacement of the ground at `positions` on the earlier grid.

    Args:
      fault: the fault.
      positions: `(..., 2)` pixels, (row, col).

    Returns:
      `(..., 2)` pixels, (row, col), later minus earlier.
    """
    along, across = _trace_coordinates(fault, positions)
    relative = positions - fault.centre
    width = jnp.maximum(fault.shear_zone_px, 1e-6)
    # At a sharp trace the positive side includes the trace itself, in both directions alike.
    side = jnp.where(
        fault.shear_zone_px > 0, jnp.tanh(2.0 * across / width), jnp.where(across >= 0, 1.0, -1.0)
    )
    # Elastic far field of a vertical fault that slipped to a depth (Savage & Burford 1973).
    decay = 1.0 - (2.0 / jnp.pi) * jnp.arctan(jnp.abs(across) / fault.locking_px)
    share = 0.5 * side * decay * _slip_fraction(fault, along)
    smooth = (
        fault.offset_px
        + relative[..., :1] * fault.ramp[:, 0]
        + relative[..., 1:] * fault.ramp[:, 1]
    )
    from_bump = ((positions - fault.bump_centre) ** 2).sum(-1) / fault.bump_radius_px**2
    bump = jnp.exp(-0.5 * from_bump)[..., None] * fault.bump_px
    return share[..., None] * fault.slip_px + smooth + bump


def backward_positions(fault: Fault, positions: jax.Array, *, iterations: int = 4) -> jax.Array:
    """Where the ground that the later image shows at `positions` was in the earlier image.

    Solves p + u(p) = x by p <- x - u(p). Across a sharp trace this settles on the side that is
    consistent with its own displacement; where two are (ground overridden) it takes the side that
    x lies on, and where none is (a gap has opened) one of the two.

    Args:
      fault: the fault.
      positions: `(..., 2)` pixels on the later grid.

    Returns:
      `(..., 2)` pixels on the earlier grid.
    """

    def step(_, p):
        return positions - displacement_at(fault, p)

    return jax.lax.fori_loop(0, iterations, step, positions)


def signed_distance(fault: Fault, positions: jax.Array) -> jax.Array:
    """Distance `(...)` [px] to the slipping part of the trace, positive on its positive side.

    Measured to every straight piece of the rough trace, so perpendicular also at its kinks;
    inf where nothing slips.
    """
    nodes = fault.deviation_px.shape[0]
    along = (jnp.arange(nodes) - (nodes - 1) / 2) * fault.node_px
    across_unit = jnp.stack([-fault.along[1], fault.along[0]])
    points = fault.centre + along[:, None] * fault.along + fault.deviation_px[:, None] * across_unit
    slips = (_slip_fraction(fault, 0.5 * (along[1:] + along[:-1])) > 0.02) & (
        jnp.abs(fault.slip_px).max() > 0
    )

    def nearest(piece, best):
        start, step = points[piece], points[piece + 1] - points[piece]
        relative = positions - start
        t = jnp.clip((relative @ step) / (step @ step), 0.0, 1.0)
        squared = ((relative - t[..., None] * step) ** 2).sum(-1)
        return jnp.minimum(best, jnp.where(slips[piece], squared, jnp.inf))

    squared = jax.lax.fori_loop(
        0, nodes - 1, nearest, jnp.full(positions.shape[:-1], jnp.inf, jnp.float32)
    )
    _, across = _trace_coordinates(fault, positions)
    return jnp.where(across >= 0, 1.0, -1.0) * jnp.sqrt(squared)
