"""From ground at half a pixel to an image: blur, decimation, radiometry, noise, steps, nodata."""

import jax
import jax.numpy as jnp
import numpy as np

from data_gen.config import GeneratorConfig
from data_gen.random import log_uniform, uniform
from data_gen.textures import smooth_field

OVERSAMPLING = 2  # ground samples per pixel
_REACH = 4  # px on either side that the blur needs
FINE_MARGIN = OVERSAMPLING * _REACH


def sigma_for_mtf(mtf_nyquist: jax.Array) -> jax.Array:
    """Standard deviation [px] of the Gaussian whose transfer at Nyquist (0.5 / px) is given.

    exp(-2 pi^2 sigma^2 f^2) = m at f = 1/2, so sigma = sqrt(-2 ln m) / pi.
    """
    return jnp.sqrt(-2.0 * jnp.log(mtf_nyquist)) / jnp.pi


def ground_size(size: int) -> int:
    """How many samples of ground an image of `size` pixels needs along each axis."""
    return OVERSAMPLING * size + 2 * FINE_MARGIN


def ground_positions(size: int) -> jax.Array:
    """Where the ground is sampled, in pixels of the image, `(n, n, 2)`, n = `ground_size`."""
    axis = (
        jnp.arange(ground_size(size), dtype=jnp.float32) - FINE_MARGIN + 0.5
    ) / OVERSAMPLING - 0.5
    return jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1)


def expose(ground: jax.Array, sigma_px: jax.Array, *, size: int) -> jax.Array:
    """Blurs ground sampled at `ground_positions` with the sensor's PSF and samples at the pixels.

    Args:
      ground: `(n, n)`, n = `ground_size`.
      sigma_px: scalar, the PSF's standard deviation in pixels of the image.
      size: height and width of the image.

    Returns:
      `(size, size)`.
    """
    half = FINE_MARGIN  # taps on either side of a pixel's centre, which lies between two samples
    offset = np.arange(-half, half) + 0.5
    taps = jnp.exp(-0.5 * (offset / (OVERSAMPLING * sigma_px)) ** 2)
    taps = taps / taps.sum()
    for axis in (0, 1):
        # Pixel i lies between samples 2 i + FINE_MARGIN and the next; `offset` counts from there.
        ground = sum(
            taps[k]
            * jax.lax.slice_in_dim(
                ground, k + 1, k + 1 + OVERSAMPLING * size - 1, OVERSAMPLING, axis=axis
            )
            for k in range(2 * half)
        )
    return ground


def radiometry(key: jax.Array, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """One date's gamma, gain, offset, illumination, signal-dependent noise, stripes, quantisation.

    Args:
      key: PRNG key, another for each date.
      image: `(H, W)` in units of the ground's standard deviation.
      config: ranges.

    Returns:
      `(H, W)`, the same units.
    """
    k = jax.random.split(key, 11)
    size = image.shape[0]
    # Gamma acts on reflectance: place the image at 4 standard deviations above black.
    level = jnp.maximum(image + 4.0, 0.05) / 4.0
    image = 4.0 * (level ** log_uniform(k[0], config.gamma) - 1.0)
    light = 1.0 + config.illumination * smooth_field(k[1], size=size, cells=3)
    image = (image + 4.0) * light - 4.0
    noise = log_uniform(k[2], config.noise_fraction) * image.std()
    shot = jnp.sqrt(jnp.clip(1.0 + 0.25 * image * jax.random.uniform(k[3]), 0.2, 4.0))
    image = image + noise * shot * jax.random.normal(k[4], image.shape)
    striped = jax.random.bernoulli(k[5], config.stripe_fraction)
    stripes = jnp.where(striped, log_uniform(k[6], config.stripe_level), 0.0)
    lines = stripes * jax.random.normal(k[7], (size, 1))
    image = image + jnp.where(jax.random.bernoulli(k[8]), lines, lines.T)
    gain = log_uniform(k[9], config.gain)
    offset = config.offset_fraction * uniform(k[10], (-1.0, 1.0))
    return gain * image + offset


def quantise(key: jax.Array, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """Rounds to the steps of `config.quantisation`, in standard deviations of the ground."""
    step = log_uniform(key, config.quantisation)
    return step * jnp.round(image / step)


def nodata_edge(key: jax.Array, config: GeneratorConfig, *, size: int) -> jax.Array:
    """`(size, size)` bool, True beyond a straight swath edge; mostly False everywhere."""
    k_any, k_angle, k_cut = jax.random.split(key, 3)
    angle = jax.random.uniform(k_angle, maxval=2 * jnp.pi)
    axis = jnp.linspace(-1.0, 1.0, size)
    reach = jnp.cos(angle) * axis[:, None] + jnp.sin(angle) * axis[None, :]
    beyond = reach > jax.random.uniform(k_cut, minval=0.2, maxval=1.0)
    return beyond & (jax.random.uniform(k_any) < config.nodata_fraction)
