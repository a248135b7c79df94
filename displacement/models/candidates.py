"""What might be true at a pixel: the motions of the windows at it and beside it, and how they fit.

Next to a fault the window centred on a pixel mixes two motions, but a window a little further off
lies on one side and knows that side's motion exactly. Which side the pixel itself belongs to shows
when the later image is looked up under each of these motions: only its own makes the two dates
agree (the slanted-window and patch-match idea of stereo vision, Bleyer et al. 2011).
"""

import jax
import jax.numpy as jnp

from displacement.correlators.lk import later_at, saturated
from displacement.normalise import gaussian_mean

# px between the windows of one size that a pixel may choose from, for each of `SIGMAS_PX`; the
# finest are too noisy to be worth asking beside the pixel.
_REACH_PX = (0, 4, 8, 16)
COUNT = sum(9 if reach else 1 for reach in _REACH_PX)
_POOL_PX = 1.0  # how sharply the fit is seen
_FLOOR = 1e-3  # of a mean square difference, in local variances


def beside(maps: jax.Array) -> jax.Array:
    """For every candidate, what its window says.

    Args:
      maps: `(SCALES, B, H, W, C)`, finest window first.

    Returns:
      `(COUNT, B, H, W, C)`: for each window size but the finest the nine windows on a 3 x 3 grid
      about the pixel; edges held.
    """
    layers = []
    for field, reach in zip(maps, _REACH_PX, strict=True):
        layers += about(field, reach)
    return jnp.stack(layers)


def about(field: jax.Array, reach: int) -> list[jax.Array]:
    """A field `(B, H, W, C)` as seen from a 3 x 3 grid of `reach` px, row by row; edges held."""
    height, width = field.shape[1:3]
    padded = jnp.pad(field, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    offsets = sorted({0, reach, 2 * reach})
    return [padded[:, i : i + height, j : j + width] for i in offsets for j in offsets]


def log_misfit(mean_square: jax.Array) -> jax.Array:
    """Logarithm of a mean square difference in local variances, level where it is noise anyway."""
    return jnp.log(mean_square + _FLOOR)


def misfits(pair: jax.Array, valid: jax.Array, motions: jax.Array) -> jax.Array:
    """How badly the dates agree at a pixel under each motion.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid.
      valid: `(B, H, W, 2)` float.
      motions: `(K, B, H, W, 2)` px.

    Returns:
      `(K, B, H, W)` log of the robust mean square difference over a Gaussian of 1 px.
    """
    look_up = later_at(pair, valid)

    def misfit(motion):
        value, known = look_up(motion)
        squared = saturated((pair[..., 0] - value) ** 2)
        known = known * valid[..., 0]
        return log_misfit(gaussian_mean(known * squared + (1.0 - known), sigma=_POOL_PX))

    return jax.lax.stop_gradient(jax.lax.map(misfit, motions))
