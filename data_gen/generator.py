"""simulate(key, config) -> Sample: an image pair with the displacement that made it.

Rendered at half a pixel: the earlier ground is sampled where the pixels look, the later one where
the ground came from that they look at now; both go through the same interpolation, blur and
decimation, so that neither is smoother than the other for having moved.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from data_gen import change, faults, motion, sensor, textures
from data_gen.config import GeneratorConfig
from data_gen.scenes import SceneBank, scene_window
from displacement.warp import bspline_coefficients, grid, sample


class Sample(NamedTuple):
    """One simulated pair and its truth, all on the earlier image's grid; lengths in pixels.

    Attributes:
      pair: `(H, W, 2)` earlier and later image; NaN is nodata.
      displacement: `(H, W, 2)` (row, col), later minus earlier.
      distance: `(H, W)` signed distance to the fault's trace; inf where there is none.
      slip: `(H, W, 2)` slip on the trace beside the pixel, positive minus negative side.
      valid: `(H, W)` bool, both images have data at this pixel (not: where its ground went to) and
        the ground is the same.
    """

    pair: jax.Array
    displacement: jax.Array
    distance: jax.Array
    slip: jax.Array
    valid: jax.Array


def _render(key, config, bank, moved):
    """Earlier and later ground at half a pixel, the blur still to come, and where both agree."""
    k_ground, k_phase, k_mtf = jax.random.split(key, 3)
    positions = sensor.ground_positions(config.size)
    origins = motion.backward_positions(moved, positions, iterations=config.inversions)
    sigma = sensor.sigma_for_mtf(
        jax.random.uniform(k_mtf, minval=config.mtf_nyquist[0], maxval=config.mtf_nyquist[1])
    )
    if bank is None:
        slack = sensor.OVERSAMPLING * config.reach_px
        n = positions.shape[0] + 2 * slack
        # A random sub-sample phase for both dates, so that neither is exactly on the nodes.
        shift = slack + sensor.FINE_MARGIN + 0.5 + jax.random.uniform(k_phase, (2,))
        ground = textures.procedural_ground(k_ground, config, size=n)
        coefficients = bspline_coefficients(ground)
        to_ground = lambda p: sensor.OVERSAMPLING * p + shift  # noqa: E731
        earlier = sample(coefficients, to_ground(positions))
        later = sample(coefficients, to_ground(origins))
        return earlier, later, sigma, jnp.ones((config.size, config.size), bool)
    window = scene_window(k_ground, bank, config)
    earlier = sample(window.earlier, window.to_scene(positions))
    native = window.to_scene(origins)
    later = sample(window.later, native + window.misregistration(native))
    agree = window.agrees_at(grid(config.size, config.size))
    return earlier, later, window.missing_blur(sigma), agree


# Else a GPU would round positions in products, and with them the truth, by hundredths of a pixel.
@jax.default_matmul_precision("highest")
def simulate(key: jax.Array, config: GeneratorConfig, bank: SceneBank | None = None) -> Sample:
    """Simulates one pair.

    Args:
      key: PRNG key; the same key gives the same sample on any number of devices.
      config: what the pair may contain.
      bank: real scenes to use as ground; None renders procedural ground.

    Returns:
      The sample, `size` x `size` pixels.
    """
    size = config.size
    k = [jax.random.fold_in(key, stream) for stream in range(9)]
    moved = motion.sample_motion(k[0], config)
    earlier_ground, later_ground, sigma, agree = _render(k[1], config, bank, moved)

    scale = earlier_ground.std() + 1e-6
    earlier = sensor.expose((earlier_ground - earlier_ground.mean()) / scale, sigma, size=size)
    later = sensor.expose((later_ground - later_ground.mean()) / scale, sigma, size=size)
    changed = change.changed_patches(k[2], config, size=size)
    later = later + changed * (later[::-1, ::-1].T - later)
    later = change.cover(k[8], later, config)
    later = change.sun(k[3], change.season(k[4], later, config), config)
    pair = jnp.stack([earlier, later], axis=-1)
    pair, masked, seen = change.clouds(k[5], pair, config)

    dates = []
    for date, stream in ((0, k[6]), (1, k[7])):
        k_radiometry, k_step, k_edge = jax.random.split(stream, 3)
        image = sensor.radiometry(k_radiometry, pair[..., date], config)
        image = sensor.quantise(k_step, image, config)
        nodata = sensor.nodata_edge(k_edge, config, size=size) | masked[..., date]
        dates.append(jnp.where(nodata, jnp.nan, image))
    pair = jnp.stack(dates, axis=-1)
    pixels = grid(size, size)
    distance, slip = faults.distance_and_slip(moved.fault, pixels)
    return Sample(
        pair=pair,
        displacement=motion.displacement_at(moved, pixels),
        distance=distance,
        slip=slip,
        valid=jnp.isfinite(pair).all(-1) & agree & seen & (changed < 0.5),
    )


def example_keys(key: jax.Array, step: jax.Array, examples: jax.Array) -> jax.Array:
    """The key of each example of a step: from its index alone, never from the device."""
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda example: jax.random.fold_in(step_key, example))(examples)


def simulate_batch(
    keys: jax.Array, config: GeneratorConfig, bank: SceneBank | None = None
) -> Sample:
    """`simulate` over `(B,)` keys; every field gains a leading batch axis."""
    return jax.vmap(functools.partial(simulate, config=config, bank=bank))(keys)
