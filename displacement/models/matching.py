"""What two images say when matched in small windows of several sizes: a network's other inputs.

For Gaussian windows of about 1, 2, 5 and 9 px, dense: the whole-pixel shift of least squared
difference, refined by gradient least squares with robust weights until the later image, warped back
by a cubic B-spline, fits the earlier one (Lucas & Kanade 1981; Baker & Matthews 2004). Each is an
honest little correlator, precise to hundredths of a pixel where one motion rules its window, and
smeared over it where two do. Nothing here is learned. Which of them to believe, and on which side
of a fault, is left to the network.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from displacement.normalise import gaussian_mean
from displacement.warp import bspline_coefficients, grid, sample, sample_with_gradient

SIGMAS_PX = (1.0, 2.25, 4.5, 9.0)  # of the windows
SCALES = len(SIGMAS_PX)
# How each scale is found, in this order: (scale, where it starts, iterations). None searches for
# the whole-pixel shift; the finest would find only noise, the coarsest gains nothing by it.
_PLAN = ((1, None, 2), (0, 1, 1), (2, None, 2), (3, 2, 1))
_SATURATION = 4.0  # a squared difference counts for no more: one changed roof does not rule
_ROBUST = 0.7  # residual, in local standard deviations, at which a pixel counts for half
_DAMPING = 2e-3  # beside a squared gradient of about 0.3 per px: textureless ground stays put
_CONVERGED_PX = 1e-3  # no window moves by more


class Matches(NamedTuple):
    """What each window size says, finest first.

    Attributes:
      displacement: `(SCALES, B, H, W, 2)` px, (row, col), later minus earlier.
      residual: `(SCALES, B, H, W)` earlier minus later warped back, in local standard deviations.
      misfit: `(SCALES, B, H, W)` its robust mean square over the window.
      texture: `(SCALES, B, H, W)` log of the smaller eigenvalue of the gradients' moments.
    """

    displacement: jax.Array
    residual: jax.Array
    misfit: jax.Array
    texture: jax.Array


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
            layers.append(known * saturated(squared) + 2.0 * (1.0 - known))
    return jnp.stack(layers)


def least_difference(cost: jax.Array, *, radius: int) -> jax.Array:
    """Shift `(B, H, W, 2)` [px] of the least of `((2 radius + 1)^2, B, H, W)`, by parabola."""
    side = 2 * radius + 1
    inner = np.zeros((side, side), bool)
    inner[1:-1, 1:-1] = True  # a parabola needs both neighbours
    best = jnp.where(inner.reshape(-1, 1, 1, 1), cost, jnp.inf).argmin(0)

    def at(offset):
        return jnp.take_along_axis(cost, (best + offset)[None], axis=0)[0]

    parts = [best // side - radius, best % side - radius]
    for axis, stride in enumerate((side, 1)):
        below, above = at(-stride), at(stride)
        curvature = jnp.maximum(below - 2.0 * at(0) + above, 1e-4)
        parts[axis] = parts[axis] + jnp.clip(0.5 * (below - above) / curvature, -1.0, 1.0)
    return jnp.stack(parts, axis=-1)


def saturated(squared: jax.Array) -> jax.Array:
    """A squared difference that counts for no more than `_SATURATION`."""
    return squared / (1.0 + squared / _SATURATION)


def _look_up(sampler, pair, valid):
    """Function of a displacement `(B, H, W, 2)`: what the later image shows there, and whether."""
    height, width = pair.shape[1:3]
    coefficients = bspline_coefficients(pair[..., 1])
    later_valid = valid[..., 1]

    def one(coefficients, later_valid, displacement):
        positions = grid(height, width) + displacement
        near = jnp.round(positions).astype(jnp.int32)
        inside = (near >= 0).all(-1) & (near[..., 0] < height) & (near[..., 1] < width)
        rows, cols = jnp.clip(near[..., 0], 0, height - 1), jnp.clip(near[..., 1], 0, width - 1)
        return sampler(coefficients, positions), inside * later_valid[rows, cols]

    return lambda displacement: jax.vmap(one)(coefficients, later_valid, displacement)


def later_at(pair: jax.Array, valid: jax.Array) -> Callable:
    """Prepares to look the later image up under any motion.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid.
      valid: `(B, H, W, 2)` float.

    Returns:
      function of a displacement `(B, H, W, 2)` px that gives the later image's values there and
      whether they are valid (float), both `(B, H, W)`.
    """
    return _look_up(sample, pair, valid)


def search(pair: jax.Array, valid: jax.Array, *, radius: int) -> dict[int, jax.Array]:
    """Whole-pixel shifts of least difference, with a parabola, in windows of 2 and 5 px.

    Windows are placed at every second pixel: they are wide, and this is only where to start.

    Args:
      pair: `(B, H, W, 2)` normalised; H and W even.
      valid: `(B, H, W, 2)` float.
      radius: reach in px.

    Returns:
      for scale 1 and 2, `(B, H, W, 2)` px.
    """
    cost = squared_differences(pair, valid, radius=radius)
    count, batch, height, width = cost.shape
    cost = cost.reshape(count, batch, height // 2, 2, width // 2, 2).mean((3, 5))
    found = {}
    for scale in (1, 2):
        smooth = gaussian_mean(cost, sigma=SIGMAS_PX[scale] / 2)
        shift = least_difference(smooth, radius=radius)
        found[scale] = shift.repeat(2, axis=1).repeat(2, axis=2)
    return found


def match(pair: jax.Array, valid: jax.Array, *, radius: int) -> Matches:
    """Matches the pair in windows of several sizes.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid.
      valid: `(B, H, W, 2)` float.
      radius: reach of the whole-pixel search in px, 2 or more.

    Returns:
      Displacement and what to know about it, for every window size.
    """
    start = search(pair, valid, radius=radius)
    earlier, earlier_valid = pair[..., 0], valid[..., 0]
    still = jnp.broadcast_to(grid(*earlier.shape[1:]), (*earlier.shape, 2))
    _, earlier_gradient = jax.vmap(sample_with_gradient)(bspline_coefficients(earlier), still)
    look_up = _look_up(sample_with_gradient, pair, valid)

    def step(scale, displacement):
        (value, gradient), known = look_up(displacement)
        # The mean of both gradients: twice the order, and no date's noise rules.
        gradient = 0.5 * (gradient + earlier_gradient)
        residual = earlier - value
        weight = known * earlier_valid / (1.0 + (residual / _ROBUST) ** 2)
        # What each pixel's own linearisation says, (residual + g . u), over the whole window.
        target = residual + (gradient * displacement).sum(-1)
        g_row, g_col = gradient[..., 0], gradient[..., 1]
        sums = [g_row * g_row, g_row * g_col, g_col * g_col, g_row * target, g_col * target]
        sums = gaussian_mean(jnp.stack([weight * s for s in sums]), sigma=SIGMAS_PX[scale])
        rr, rc, cc, br, bc = sums
        smaller = 0.5 * (rr + cc) - jnp.sqrt(0.25 * (rr - cc) ** 2 + rc**2)
        br, bc = br + _DAMPING * displacement[..., 0], bc + _DAMPING * displacement[..., 1]
        rr, cc = rr + _DAMPING, cc + _DAMPING
        solved = jnp.stack([cc * br - rc * bc, rr * bc - rc * br], axis=-1)
        solved = solved / (rr * cc - rc * rc)[..., None]
        moved = displacement + jnp.clip(solved - displacement, -1.0, 1.0)
        return moved, smaller

    def refine(displacement, scale, iterations):
        # A loop whose end is not known beforehand keeps XLA from fusing one step into the next,
        # which would compute it again for each of the sixteen samples that its result takes.
        def going(carry):
            done, change, *_ = carry
            return (done < iterations) & (change > _CONVERGED_PX)

        def once(carry):
            done, _, before, _ = carry
            after, smaller = step(scale, before)
            return done + 1, jnp.abs(after - before).max(), after, smaller

        start = (0, jnp.float32(jnp.inf), displacement, jnp.zeros_like(earlier))
        _, _, displacement, smaller = jax.lax.while_loop(going, once, start)
        return displacement, jnp.log(jnp.maximum(smaller, 0.0) + 1e-3)

    found, matches = {}, {}
    for scale, origin, iterations in _PLAN:
        displacement = start[scale] if origin is None else found[origin]
        displacement, texture = refine(displacement, scale, iterations)
        displacement = jnp.clip(displacement, -radius - 0.5, radius + 0.5)
        (value, _), known = look_up(displacement)
        residual = (earlier - value) * known * earlier_valid
        misfit = gaussian_mean(saturated(residual**2), sigma=SIGMAS_PX[scale])
        found[scale] = displacement
        matches[scale] = (displacement, residual, misfit, texture)
    # Inputs, not a layer: nothing here has parameters.
    columns = zip(*(matches[scale] for scale in range(SCALES)), strict=True)
    return jax.lax.stop_gradient(Matches(*(jnp.stack(column) for column in columns)))
