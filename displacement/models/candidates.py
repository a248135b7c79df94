"""What might be true at a pixel: the motions of the windows at it and beside it, and how they fit.

Next to a fault the window centred on a pixel mixes two motions, but a window a little further off
lies on one side and knows that side's motion exactly. Which side the pixel itself belongs to shows
when the later image is looked up under each of these motions: only its own makes the two dates
agree (the slanted-window and patch-match idea of stereo vision, Bleyer et al. 2011).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from displacement.correlators.lk import differences_at

# px between the windows of one size that a pixel may choose from, for each of `SIGMAS_PX`; the
# finest are too noisy to be worth asking beside the pixel, and the last serves far from a fault.
_REACH_PX = (0, 4, 8, 16, 8, 0)
COUNT = sum(9 if reach else 1 for reach in _REACH_PX)
_POOL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # how sharply the fit is seen: sigma 1 px
_FLOOR = 1e-3  # of a mean square difference, in local variances


def beside(maps: jax.Array) -> list[jax.Array]:
    """For every candidate, what its window says.

    Args:
      maps: `(SCALES, ..., H, W)`.

    Returns:
      `COUNT` of `(..., H, W)`: for each window size, but the first and the last, the nine windows
      on a 3 x 3 grid about the pixel; edges held.
    """
    layers = []
    for field, reach in zip(maps, _REACH_PX, strict=True):
        layers += about(field, reach)
    return layers


def about(
    field: jax.Array, reach: int | jax.Array, *, longest: int | None = None
) -> list[jax.Array]:
    """A field as seen from a 3 x 3 grid, row by row; edges held.

    Args:
      field: `(..., H, W)`.
      reach: spacing of the grid in px; of 0 there is one place, the middle.
      longest: that it may have, where it is known only as the program runs.

    Returns:
      nine, or one, of `(..., H, W)`.
    """
    if isinstance(reach, int) and not reach:
        return [field]
    height, width = field.shape[-2:]
    longest = reach if longest is None else longest
    pad = [(0, 0)] * (field.ndim - 2) + [(longest, longest)] * 2
    padded = jnp.pad(field, pad, mode="edge")
    starts = (longest - reach, longest, longest + reach)
    cut = jax.lax.dynamic_slice_in_dim
    lines = [cut(padded, start, height, padded.ndim - 2) for start in starts]
    return [cut(line, start, width, padded.ndim - 1) for line in lines for start in starts]


def log_misfit(mean_square: jax.Array) -> jax.Array:
    """Logarithm of a mean square difference in local variances, level where it is noise anyway."""
    return jnp.log(mean_square + _FLOOR)


def pooled(values: jax.Array, taps: Sequence[float] = _POOL) -> jax.Array:
    """Mean of `(..., H, W)` with these weights along either axis; edges held."""
    reach = len(taps) // 2
    height, width = values.shape[-2:]
    padded = jnp.pad(values, [(0, 0)] * (values.ndim - 2) + [(reach, reach)] * 2, mode="edge")
    rows = sum(tap * padded[..., k : k + height, :] for k, tap in enumerate(taps))
    return sum(tap * rows[..., k : k + width] for k, tap in enumerate(taps))


def misfits(pair: jax.Array, valid: jax.Array, motions: Sequence[jax.Array]) -> jax.Array:
    """How badly the dates agree at a pixel under each motion.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid.
      valid: `(B, H, W, 2)` float.
      motions: K of `(2, B, H, W)` px.

    Returns:
      `(K, B, H, W)` log of the robust mean square difference over about 1 px.
    """
    difference = differences_at(pair, valid)
    found = [log_misfit(pooled(difference(motion, unknown=1.0))) for motion in motions]
    return jax.lax.stop_gradient(jnp.stack(found))


def mean(logits: jax.Array, motions: Sequence[jax.Array]) -> jax.Array:
    """Mean of K motions `(2, B, H, W)`, weighted by the softmax of `(K, B, H, W)`."""
    # As sums of planes: XLA's CPU code for a sum along a leading axis takes ten times as long.
    most = functools.reduce(jnp.maximum, logits)
    weights = [jnp.exp(logit - most) for logit in logits]
    total = sum(weights)
    parts = (
        sum(weight * motion[axis] for weight, motion in zip(weights, motions, strict=True)) / total
        for axis in (0, 1)
    )
    # What is stacked XLA keeps; any other sum it would do again for each of its uses.
    return jnp.stack(list(parts))
