"""What two images say when matched in small windows of several sizes: a network's other inputs.

A network of rectifiers can hardly form products and quotients by itself. So it is handed the local
squared differences at whole-pixel shifts, and, for Gaussian windows of about 1, 2 and 5 px, the
shift of least difference with its parabolic sub-pixel part, and how deep and how sharp the minimum
is. Each is a tiny correlator: noisy, smeared no more than its window. Which of them to believe,
and on which side of a fault, is left to the network.
"""

import jax
import jax.numpy as jnp
import numpy as np

_SATURATION = 4.0  # a squared difference counts for no more: one changed roof does not rule
_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16  # Gaussian of 1 px
_SCALES = 3  # window grows by spreading the taps 1, 2, 4 px apart


def squared_differences(pair: jax.Array, valid: jax.Array, *, radius: int) -> jax.Array:
    """Squared difference of the earlier image and the later one shifted by whole pixels.

    Args:
      pair: `(B, H, W, 2)` normalised.
      valid: `(B, H, W, 2)` float.
      radius: largest shift in px along either axis.

    Returns:
      `((2 radius + 1)^2, B, H, W)`: q = (earlier(p) - later(p + d))^2 for d in row-major order,
      as q / (1 + q / 4); 2, which is what unrelated ground gives, where either is invalid.
    """
    height, width = pair.shape[1:3]
    pad = ((0, 0), (radius, radius), (radius, radius))
    later, later_valid = jnp.pad(pair[..., 1], pad), jnp.pad(valid[..., 1], pad)
    layers = []
    for row in range(2 * radius + 1):
        for col in range(2 * radius + 1):
            window = (slice(None), slice(row, row + height), slice(col, col + width))
            squared = (pair[..., 0] - later[window]) ** 2
            known = valid[..., 0] * later_valid[window]
            layers.append(known * squared / (1.0 + squared / _SATURATION) + 2.0 * (1.0 - known))
    return jnp.stack(layers)


def _spread(cost: jax.Array, spacing: int) -> jax.Array:
    """Averages over a window: binomial taps `spacing` px apart, edges held."""
    for axis in (-2, -1):
        pad = [(0, 0)] * cost.ndim
        pad[axis] = (2 * spacing, 2 * spacing)
        padded = jnp.pad(cost, pad, mode="edge")
        size = cost.shape[axis]
        cost = sum(
            tap
            * jax.lax.slice_in_dim(padded, k * spacing, k * spacing + size, axis=axis % cost.ndim)
            for k, tap in enumerate(_BINOMIAL)
        )
    return cost


def _minimum(cost: jax.Array, *, radius: int) -> jax.Array:
    """`(D, B, H, W)` to `(5, B, H, W)`: shift (row, col) [px], its depth, its curvatures."""
    side = 2 * radius + 1
    inner = np.zeros((side, side), bool)
    inner[1:-1, 1:-1] = True  # a parabola needs both neighbours
    floor = jnp.where(inner.reshape(-1, 1, 1, 1), cost, jnp.inf)
    best = floor.argmin(0)

    def at(offset):
        return jnp.take_along_axis(cost, (best + offset)[None], axis=0)[0]

    centre = at(0)
    parts = [best // side - radius, best % side - radius]
    curvatures = []
    for axis, stride in enumerate((side, 1)):
        below, above = at(-stride), at(stride)
        curvature = jnp.maximum(below - 2.0 * centre + above, 1e-4)
        parts[axis] = parts[axis] + jnp.clip(0.5 * (below - above) / curvature, -1.0, 1.0)
        curvatures.append(curvature)
    return jnp.stack([*parts, centre, *curvatures])


def matching_features(pair: jax.Array, valid: jax.Array, *, radius: int) -> jax.Array:
    """Matches the pair in windows of several sizes.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid.
      valid: `(B, H, W, 2)` float.
      radius: reach of the matching in px, 2 or more.

    Returns:
      `(B, H, W, 24)`: the squared differences at shifts of up to 1 px (9), and for each window
      size shift (row, col), depth and curvatures of the minimum (5).
    """
    cost = squared_differences(pair, valid, radius=radius)
    side = 2 * radius + 1
    middle = slice(radius - 1, radius + 2)
    near = cost.reshape(side, side, *cost.shape[1:])[middle, middle].reshape(9, *cost.shape[1:])
    features = [near]
    for scale in range(_SCALES):
        cost = _spread(cost, 2**scale)
        features.append(_minimum(cost, radius=radius))
    # Inputs, not a layer: nothing here has parameters, and the minimum has no useful gradient.
    return jax.lax.stop_gradient(jnp.moveaxis(jnp.concatenate(features), 0, -1))
