"""simulate(key, config) -> Sample: an image pair with the displacement that made it.

Rendered at half a pixel: the earlier ground is sampled where the pixels look, the later one where
the ground came from that they look at now; both go through the same interpolation, blur and
decimation, so that neither is smoother than the other for having moved.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from data_gen import faults, sensor, textures
from data_gen.config import GeneratorConfig
from data_gen.scenes import SceneBank, scene_window
from displacement.warp import bspline_coefficients, grid, sample

_SLACK = 24  # samples (half pixels) of ground beyond the image: 12 px of motion inwards


class Sample(NamedTuple):
    """One simulated pair and its truth, all on the earlier image's grid; lengths in pixels.

    Attributes:
      pair: `(H, W, 2)` earlier and later image; NaN is nodata.
      displacement: `(H, W, 2)` (row, col), later minus earlier.
      distance: `(H, W)` signed distance to the fault's trace; inf where there is none.
      slip: `(H, W, 2)` slip on the trace beside the pixel, positive minus negative side.
      valid: `(H, W)` bool, both images have data and the ground is the same.
    """

    pair: jax.Array
    displacement: jax.Array
    distance: jax.Array
    slip: jax.Array
    valid: jax.Array


def _render(key, config, bank, fault):
    """Earlier, later and unrelated ground at half a pixel, and the blur that is still to come."""
    k_ground, k_phase, k_mtf = jax.random.split(key, 3)
    positions = sensor.ground_positions(config.size)
    origins = faults.backward_positions(fault, positions)
    sigma = sensor.sigma_for_mtf(
        jax.random.uniform(k_mtf, minval=config.mtf_nyquist[0], maxval=config.mtf_nyquist[1])
    )
    if bank is None:
        n = positions.shape[0] + 2 * _SLACK
        # A random sub-sample phase for both dates, so that neither is exactly on the nodes.
        shift = _SLACK + sensor.FINE_MARGIN + 0.5 + jax.random.uniform(k_phase, (2,))
        ground = textures.procedural_ground(k_ground, config, size=n)
        coefficients = bspline_coefficients(ground)
        to_ground = lambda p: sensor.OVERSAMPLING * p + shift  # noqa: E731
        earlier = sample(coefficients, to_ground(positions))
        later = sample(coefficients, to_ground(origins))
        return earlier, later, sigma
    window = scene_window(k_ground, bank, config)
    earlier = sample(window.earlier, window.to_scene(positions))
    native = window.to_scene(origins)
    later = sample(window.later, native + window.misregistration(native))
    return earlier, later, window.missing_blur(sigma)


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
    k = [jax.random.fold_in(key, stream) for stream in range(8)]
    fault = faults.sample_fault(k[0], config)
    earlier_ground, later_ground, sigma = _render(k[1], config, bank, fault)

    scale = earlier_ground.std() + 1e-6
    earlier = sensor.expose((earlier_ground - earlier_ground.mean()) / scale, sigma, size=size)
    later = sensor.expose((later_ground - later_ground.mean()) / scale, sigma, size=size)
    changed = sensor.change_mask(k[2], config, size=size)
    later = later + changed * (later[::-1, ::-1].T - later)

    earlier = sensor.radiometry(k[3], earlier, config)
    later = sensor.radiometry(k[4], later, config)
    earlier_nodata = sensor.nodata_edge(k[5], config, size=size)
    later_nodata = sensor.nodata_edge(k[6], config, size=size)
    pair = jnp.stack(
        [
            jnp.where(earlier_nodata, jnp.nan, earlier),
            jnp.where(later_nodata, jnp.nan, later),
        ],
        axis=-1,
    )
    pixels = grid(size, size)
    return Sample(
        pair=pair,
        displacement=faults.displacement_at(fault, pixels),
        distance=faults.signed_distance(fault, pixels),
        slip=faults.slip_at(fault, pixels),
        valid=~earlier_nodata & ~later_nodata & (changed < 0.5),
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
