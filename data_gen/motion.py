"""What moves: a fault, smooth motion around it, and how the satellite itself shook.

A displacement is a function of position on the *earlier* image's grid. The later image shows at
x the ground that was at p with p + u(p) = x; `backward_positions` solves that, also next to the
trace, where p has to lie on the side whose displacement moved it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from data_gen import faults
from data_gen.config import GeneratorConfig
from data_gen.random import Draws

_DETECTORS = 8  # of a push-broom sensor that one sample may show


class Motion(NamedTuple):
    """All that displaces the image. Positions in pixels, (row, col)."""

    fault: faults.Fault
    centre: jax.Array  # (2,) about which the ramp turns
    offset_px: jax.Array  # (2,) uniform shift
    ramp: jax.Array  # (2, 2) px per px
    bump_px: jax.Array  # (2,) height of a smooth bump
    bump_centre: jax.Array  # (2,)
    bump_radius_px: jax.Array  # scalar
    track: jax.Array  # (2,) unit vector along which the satellite flew
    jitter_px: jax.Array  # (2,) amplitude of the waves along the track
    jitter: jax.Array  # (2,) their wavelength [px] and phase
    detector_px: jax.Array  # (D, 2) offset of each detector
    detector_width_px: jax.Array  # scalar


def sample_motion(key: jax.Array, config: GeneratorConfig) -> Motion:
    """Draws a fault, or none, with the motion around it."""
    k_fault, k_draw, k_detector = jax.random.split(key, 3)
    draw = Draws(k_draw, 32)
    size = config.size
    fault = faults.sample_fault(k_fault, config)
    bump = jnp.where(draw.chance(config.bump_fraction), draw.log_uniform(config.bump_px), 0.0)
    angle = draw.angle()
    # Near polar orbits: the track is within 20 degrees of the rows, or of the columns if turned.
    heading = jnp.deg2rad(draw.uniform((-20.0, 20.0))) + 0.5 * jnp.pi * draw.chance(0.5)
    jitter = draw.log_uniform(config.jitter_px) * draw.normal((2,))
    shaken = draw.chance(config.jitter_fraction)
    step = jnp.where(draw.chance(config.ccd_fraction), draw.log_uniform(config.ccd_px), 0.0)
    return Motion(
        fault=fault,
        centre=fault.traces.centre[0],
        offset_px=config.offset_px * draw.uniform((-1.0, 1.0), (2,)),
        ramp=config.ramp_px / size * draw.normal((2, 2)),
        bump_px=bump * jnp.stack([jnp.cos(angle), jnp.sin(angle)]),
        bump_centre=draw.uniform((0.0, size), (2,)),
        bump_radius_px=draw.uniform((0.08 * size, 0.3 * size)),
        track=jnp.stack([jnp.cos(heading), jnp.sin(heading)]),
        jitter_px=jnp.where(shaken, jitter, 0.0),
        jitter=jnp.stack([draw.uniform((0.2 * size, 2.2 * size)), draw.angle()]),
        detector_px=step * jax.random.normal(k_detector, (_DETECTORS, 2)),
        detector_width_px=draw.uniform((0.3 * size, size)),
    )


def _instrument(motion: Motion, row: jax.Array, col: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the satellite displaces: waves along its track, steps between its detectors."""
    along = row * motion.track[0] + col * motion.track[1]
    across = col * motion.track[0] - row * motion.track[1]
    wavelength, phase = motion.jitter
    wave = jnp.sin(2.0 * jnp.pi * along / wavelength + phase)
    detector = jnp.floor(across / motion.detector_width_px).astype(jnp.int32) % _DETECTORS
    return tuple(wave * motion.jitter_px[i] + motion.detector_px[detector, i] for i in (0, 1))


def _components(motion: Motion, row: jax.Array, col: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Displacement along rows and along columns at (row, col)."""
    down, right = row - motion.centre[0], col - motion.centre[1]
    from_bump = (row - motion.bump_centre[0]) ** 2 + (col - motion.bump_centre[1]) ** 2
    bump = jnp.exp(-0.5 * from_bump / motion.bump_radius_px**2)
    share = faults.slip_share(motion.fault, row, col)
    instrument = _instrument(motion, row, col)
    return tuple(
        share * motion.fault.slip_px[i]
        + motion.offset_px[i]
        + down * motion.ramp[i, 0]
        + right * motion.ramp[i, 1]
        + bump * motion.bump_px[i]
        + instrument[i]
        for i in (0, 1)
    )


def displacement_at(motion: Motion, positions: jax.Array) -> jax.Array:
    """Displacement of the image at `positions` on the earlier grid.

    What the satellite's shaking did is in it: it is what the two images say, and no estimator can
    know better.

    Args:
      motion: from `sample_motion`.
      positions: `(..., 2)` pixels, (row, col).

    Returns:
      `(..., 2)` pixels, (row, col), later minus earlier.
    """
    return jnp.stack(_components(motion, positions[..., 0], positions[..., 1]), axis=-1)


def backward_positions(motion: Motion, positions: jax.Array, *, iterations: int) -> jax.Array:
    """Where the ground that the later image shows at `positions` was in the earlier image.

    Solves p + u(p) = x by p <- x - u(p). Across a sharp trace this settles on the side that is
    consistent with its own displacement; where two are (ground overridden) it takes the side that
    x lies on, and where none is (a gap has opened) one of the two.

    Args:
      motion: from `sample_motion`.
      positions: `(..., 2)` pixels on the later grid.
      iterations: how often; smooth motion gains a digit each time.

    Returns:
      `(..., 2)` pixels on the earlier grid.
    """
    row, col = positions[..., 0], positions[..., 1]

    def step(_, p):
        moved = _components(motion, *p)
        return row - moved[0], col - moved[1]

    return jnp.stack(jax.lax.fori_loop(0, iterations, step, (row, col)), axis=-1)
