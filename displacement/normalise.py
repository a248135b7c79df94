"""Local contrast normalisation: each image in units of its own local scatter, once."""

import jax
import jax.numpy as jnp
import numpy as np

_SIGMA_PX = 6.0
_REACH = 18


def _blur(image: jax.Array) -> jax.Array:
    """Gaussian blur of `(B, H, W, C)` with zeros beyond the edges."""
    offset = np.arange(-_REACH, _REACH + 1)
    taps = np.exp(-0.5 * (offset / _SIGMA_PX) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (_REACH, _REACH)
        padded = jnp.pad(image, pad)
        size = image.shape[axis]
        image = sum(
            tap * jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k, tap in enumerate(taps)
        )
    return image


def normalise(pair: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Takes out each image's local mean and divides by its local standard deviation.

    Gain, offset and slow changes of light fall away; both images are treated alike. The window is
    a Gaussian of 6 px, so the result near a pixel depends only on its 18 px neighbourhood.

    Args:
      pair: `(B, H, W, 2)` earlier and later image, NaN invalid; each with a mean of about 0 and a
        standard deviation of about 1, as `estimate` and the simulator hand them on.

    Returns:
      the normalised pair `(B, H, W, 2)`, 0 where invalid, and its validity `(B, H, W, 2)` float.
    """
    valid = jnp.isfinite(pair).astype(jnp.float32)
    pair = jnp.where(valid > 0, pair, 0.0)
    weight = _blur(valid) + 1e-6
    centred = (pair - _blur(pair) / weight) * valid
    variance = _blur(centred**2) / weight
    # The floor keeps dead flat ground (saturated, lakes of one value) from blowing up.
    return centred / jnp.sqrt(variance + 1e-4), valid
