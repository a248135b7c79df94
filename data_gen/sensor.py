"""From ground at half a pixel to an image: blur, decimation, radiometry, noise, steps, nodata."""

import jax
import jax.numpy as jnp
import numpy as np

from data_gen.config import GeneratorConfig
from data_gen.random import Draws
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
    """One date's gamma, gain, offset, illumination, signal-dependent noise, stripes.

    Args:
      key: PRNG key, another for each date.
      image: `(H, W)` in units of the ground's standard deviation.
      config: ranges.

    Returns:
      `(H, W)`, the same units.
    """
    k_draw, k_light, k_noise, k_lines = jax.random.split(key, 4)
    draw = Draws(k_draw, 12)
    size = image.shape[0]
    # Gamma acts on reflectance: place the image at 4 standard deviations above black.
    level = jnp.maximum(image + 4.0, 0.05) / 4.0
    image = 4.0 * (level ** draw.log_uniform(config.gamma) - 1.0)
    light = 1.0 + config.illumination * smooth_field(k_light, size=size, cells=3)
    image = (image + 4.0) * light - 4.0
    noise = draw.log_uniform(config.noise_fraction) * image.std()
    shot = jnp.sqrt(jnp.clip(1.0 + 0.25 * image * draw.uniform((0.0, 1.0)), 0.2, 4.0))
    image = image + noise * shot * jax.random.normal(k_noise, image.shape)
    striped = draw.chance(config.stripe_fraction)
    stripes = jnp.where(striped, draw.log_uniform(config.stripe_level), 0.0)
    lines = stripes * jax.random.normal(k_lines, (size, 1))
    image = image + jnp.where(draw.chance(0.5), lines, lines.T)
    gain = draw.log_uniform(config.gain)
    return gain * image + config.offset_fraction * draw.uniform((-1.0, 1.0))


def quantise(key: jax.Array, image: jax.Array, config: GeneratorConfig) -> jax.Array:
    """Rounds to the steps of `config.quantisation`, in standard deviations of the ground."""
    step = Draws(key, 1).log_uniform(config.quantisation)
    return step * jnp.round(image / step)


def digital_numbers(image: np.ndarray) -> np.ndarray:
    """As a satellite would deliver it: `(H, W)` unsigned 16 bit, 0 where there is no data.

    Args:
      image: `(H, W)` in standard deviations of the ground, NaN where there is no data.
    """
    counts = np.clip(np.round(3000.0 + 600.0 * np.nan_to_num(image)), 1, 65535)
    return np.where(np.isnan(image), 0, counts).astype(np.uint16)


def nodata_edge(key: jax.Array, config: GeneratorConfig, *, size: int) -> jax.Array:
    """`(size, size)` bool, True beyond a straight swath edge; mostly False everywhere."""
    draw = Draws(key, 3)
    angle = draw.angle()
    axis = jnp.linspace(-1.0, 1.0, size)
    reach = jnp.cos(angle) * axis[:, None] + jnp.sin(angle) * axis[None, :]
    beyond = reach > draw.uniform((0.2, 1.0))
    return beyond & draw.chance(config.nodata_fraction)
