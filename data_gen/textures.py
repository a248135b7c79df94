"""Procedural ground: power-law spectra, ridges, field patchwork, speckle, featureless areas."""

import jax
import jax.numpy as jnp

from data_gen.config import GeneratorConfig


def power_law(key: jax.Array, slope: jax.Array, *, size: int) -> jax.Array:
    """A Gaussian random field whose amplitude spectrum falls as frequency to the minus `slope`.

    Args:
      key: PRNG key.
      slope: scalar, spectral slope of the amplitude.
      size: height and width in samples; the field is periodic.

    Returns:
      `(size, size)`, zero mean, unit standard deviation.
    """
    noise = jnp.fft.rfft2(jax.random.normal(key, (size, size)))
    fr = jnp.fft.fftfreq(size)[:, None]
    fc = jnp.fft.rfftfreq(size)[None, :]
    frequency = jnp.sqrt(fr**2 + fc**2).at[0, 0].set(1.0)
    # Flat below four cycles per field: a scene has no trend that its pair does not share.
    amplitude = jnp.maximum(frequency, 4.0 / size) ** -slope
    field = jnp.fft.irfft2((noise * amplitude).at[0, 0].set(0.0), s=(size, size))
    return standardise(field)


def standardise(field: jax.Array) -> jax.Array:
    """Zero mean, unit standard deviation over the whole field."""
    return (field - field.mean()) / (field.std() + 1e-6)


def smooth_field(key: jax.Array, *, size: int, cells: int) -> jax.Array:
    """A smooth random field of about unit variance: normal B-spline coefficients on a coarse grid.

    Args:
      key: PRNG key.
      size: height and width in samples.
      cells: how many coefficients span the field; larger is rougher.

    Returns:
      `(size, size)`.
    """
    position = jnp.linspace(0.0, cells - 1.0, size)[:, None]
    distance = jnp.abs(position - jnp.arange(-1.0, cells + 1.0)[None, :])
    inner = (4.0 - 6.0 * distance**2 + 3.0 * distance**3) / 6.0
    outer = (2.0 - distance) ** 3 / 6.0
    basis = jnp.where(distance < 1, inner, jnp.where(distance < 2, outer, 0.0))
    basis = basis / jnp.sqrt((basis**2).sum(1, keepdims=True))
    return basis @ jax.random.normal(key, (cells + 2, cells + 2)) @ basis.T


def _patchwork(key: jax.Array, bend: jax.Array, *, size: int) -> jax.Array:
    """Fields of constant brightness with straight or bent borders, and dark roads between some."""
    k_angle, k_length, k_bright, k_road, k_bend = jax.random.split(key, 5)
    angle = jax.random.uniform(k_angle, maxval=jnp.pi)
    length = jnp.exp(jax.random.uniform(k_length, (2,), minval=jnp.log(8.0), maxval=jnp.log(60.0)))
    axis = jnp.arange(size, dtype=jnp.float32)
    row, col = axis[:, None], axis[None, :]
    bend = 6.0 * jax.random.uniform(k_bend) * bend
    along = (jnp.cos(angle) * row + jnp.sin(angle) * col + bend) / length[0]
    across = (jnp.cos(angle) * col - jnp.sin(angle) * row + bend) / length[1]
    table = jax.random.normal(k_bright, (64, 64))
    cell = table[jnp.floor(along).astype(jnp.int32) % 64, jnp.floor(across).astype(jnp.int32) % 64]
    edge = jnp.minimum((along % 1.0) * length[0], (across % 1.0) * length[1])
    road = jax.random.uniform(k_road, maxval=2.0) * (edge < 2.0)
    return standardise(cell - road)


def procedural_ground(key: jax.Array, config: GeneratorConfig, *, size: int) -> jax.Array:
    """One random mixture of the kinds of ground.

    Args:
      key: PRNG key.
      config: ranges; uses `spectral_slope`.
      size: height and width in samples (half pixels).

    Returns:
      `(size, size)`, zero mean, unit standard deviation.
    """
    k_slope, k_a, k_b, k_patch, k_speckle, k_mix, k_where = jax.random.split(key, 7)
    low, high = config.spectral_slope
    slope = jax.random.uniform(k_slope, (2,), minval=low, maxval=high)
    rough = power_law(k_a, slope[0], size=size)
    other = power_law(k_b, slope[1], size=size)
    ridges = standardise(-jnp.abs(other))  # sharp crests and valleys, as in badlands
    patches = _patchwork(k_patch, other, size=size)
    white = jax.random.normal(k_speckle, (size, size))
    speckle = standardise(white**3)  # shrubs, boulders, houses: few, strong, pixel-sized
    kinds = jnp.stack([rough, ridges, patches, speckle])
    # Squared exponentials: usually one or two kinds rule, sometimes all share.
    weight = jax.random.exponential(k_mix, (4,)) ** 2
    mixed = jnp.tensordot(weight / weight.sum(), kinds, axes=1)
    # Contrast varies over the scene down to nearly featureless ground.
    contrast = jax.nn.sigmoid(1.5 + 1.5 * smooth_field(k_where, size=size, cells=5))
    return standardise(mixed * contrast)
