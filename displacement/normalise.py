"""Gaussian windows, and local contrast: each image in units of its own local scatter, once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_SIGMA_PX = 6.0
DETAIL_PX = 1.5  # for gradients: whitened, so that slow changes between the dates do not rule
_SMOOTH_PX = 0.7  # for ground with detail finer than a pixel, folded back, or drowned in noise
_REACH = 3.0  # standard deviations
_BLOCK_PX = 96  # of the result that one product gives


def gaussian_mean(values: jax.Array, *, sigma: float) -> jax.Array:
    """Mean of `(..., H, W)` over a Gaussian window about each pixel; the edges cut the window.

    A product with a banded matrix along each axis, in blocks that leave most of its zeros out: it
    costs about the same at every width and size, and unlike a sum of shifted images it is not
    computed anew wherever it is used.

    Args:
      values: `(..., H, W)` finite.
      sigma: standard deviation of the window [px]; it ends at three of them.

    Returns:
      `(..., H, W)`.
    """
    reach = int(_REACH * sigma)
    for axis in (-2, -1):
        size = values.shape[axis]
        product = "ij,...jk->...ik" if axis == -2 else "ij,...kj->...ki"
        blocks = []
        for first in range(0, size, _BLOCK_PX):
            last = min(first + _BLOCK_PX, size)
            low, high = max(first - reach, 0), min(last + reach, size)
            offset = np.arange(first, last)[:, None] - np.arange(low, high)
            window = np.exp(-0.5 * (offset / sigma) ** 2) * (np.abs(offset) <= reach)
            window = jnp.asarray(window / window.sum(1, keepdims=True), values.dtype)
            part = jax.lax.slice_in_dim(values, low, high, axis=values.ndim + axis)
            blocks.append(jnp.einsum(product, window, part, precision="highest"))
        values = jnp.concatenate(blocks, axis)
    return values


def normalise(
    pair: jax.Array, *, mean_px: float = _SIGMA_PX, smooth_px: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Takes out each image's local mean and divides by its local standard deviation.

    Gain, offset and slow changes of light fall away; both images are treated alike. The windows
    are Gaussians, that of the standard deviation of 6 px, so the result near a pixel depends only
    on its 36 px neighbourhood.

    Args:
      pair: `(B, H, W, 2)` earlier and later image, NaN invalid; each with a mean of about 0 and a
        standard deviation of about 1, as `estimate` and the simulator hand them on.
      mean_px: sigma of the window whose mean is taken out [px]. At `DETAIL_PX` what is left is
        nearly white: two dates of one place differ most in what is coarse (light, moisture, crops),
        and gradient least squares on them comes out a fifth more precise than at 6 px.

    Returns:
      the normalised pair `(B, H, W, 2)`, 0 where invalid, and its validity `(B, H, W, 2)` float.
    """
    image = jnp.moveaxis(pair, -1, 1)
    valid = jnp.isfinite(image).astype(jnp.float32)
    image = jnp.where(valid > 0, image, 0.0)
    weight = gaussian_mean(valid, sigma=mean_px) + 1e-6
    mean = gaussian_mean(image, sigma=mean_px) / weight
    if smooth_px:
        weight = gaussian_mean(valid, sigma=smooth_px) + 1e-6
        image = gaussian_mean(image, sigma=smooth_px) / weight
    centred = (image - mean) * valid
    weight = gaussian_mean(valid, sigma=_SIGMA_PX) + 1e-6
    variance = gaussian_mean(centred**2, sigma=_SIGMA_PX) / weight
    # The floor keeps dead flat ground (saturated, lakes of one value) from blowing up.
    normalised = centred / jnp.sqrt(variance + 1e-4)
    return jnp.moveaxis(normalised, 1, -1), jnp.moveaxis(valid, 1, -1)


class Normalised(NamedTuple):
    """A pair as the networks see it, each `(B, H, W, 2)`.

    Attributes:
      white: normalised about the mean over `DETAIL_PX`, 0 where invalid.
      smooth: likewise, but averaged over 0.7 px: of its finest detail little is left.
      valid: float.
    """

    white: jax.Array
    smooth: jax.Array
    valid: jax.Array


def normalise_twice(pair: jax.Array) -> Normalised:
    """A pair `(B, H, W, 2)`, NaN invalid, whitened, and smooth as well (see `normalise`)."""
    white, valid = normalise(pair, mean_px=DETAIL_PX)
    smooth, _ = normalise(pair, mean_px=DETAIL_PX, smooth_px=_SMOOTH_PX)
    return Normalised(white, smooth, valid)
