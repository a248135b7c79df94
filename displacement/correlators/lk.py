"""Gradient least squares (Lucas & Kanade) in windows, dense, with robust weights.

The whole-pixel shift of least squared difference, refined until the later image, warped back by a
cubic B-spline, fits the earlier one (Lucas & Kanade 1981; Baker & Matthews 2004, "Lucas-Kanade 20
years on"). Windows are Gaussian, which costs the same at any size. A correlator of its own, and
what the networks choose from (`displacement.models.matching`).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from displacement.correlators import windows
from displacement.normalise import DETAIL_PX, gaussian_mean, normalise
from displacement.warp import FINE, fine_coefficients, grid, sample, sample_with_gradient

_SATURATION = 4.0  # a squared difference counts for no more: one changed roof does not rule
_ROBUST = 0.4  # residual, in local standard deviations, at which a pixel counts for half
_DAMPING = 2e-3  # beside a squared gradient of about 0.3 per px: textureless ground stays put
_CONVERGED_PX = 1e-3  # no window moves by more
_ITERATIONS = 8  # of `lk`
_LEAST_QUALITY = 0.1  # unrelated ground at its best shift stays below, mostly
_LEAST_TEXTURE = 1e-3  # smaller eigenvalue of the gradients' moments; below, nothing is measured

# From a start `(B, H, W, 2)`, sigma [px] of the window and iterations at most: the displacement,
# and the smaller eigenvalue of the gradients' moments `(B, H, W)`, a measure of texture.
Refine = Callable[[jax.Array, float, int], tuple[jax.Array, jax.Array]]


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
    coefficients = fine_coefficients(pair[..., 1])
    sampler = functools.partial(sampler, nodes_per_px=FINE)
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


def search(
    pair: jax.Array, valid: jax.Array, *, radius: int, sigmas: tuple[float, ...]
) -> list[jax.Array]:
    """Whole-pixel shifts of least difference, with a parabola.

    Windows are placed at every second pixel: they are wide, and this is only where to start.

    Args:
      pair: `(B, H, W, 2)` normalised; H and W even.
      valid: `(B, H, W, 2)` float.
      radius: reach in px.
      sigmas: of the windows [px].

    Returns:
      for each window, `(B, H, W, 2)` px.
    """
    cost = squared_differences(pair, valid, radius=radius)
    count, batch, height, width = cost.shape
    cost = cost.reshape(count, batch, height // 2, 2, width // 2, 2).mean((3, 5))
    found = []
    for sigma in sigmas:
        shift = least_difference(gaussian_mean(cost, sigma=sigma / 2), radius=radius)
        found.append(shift.repeat(2, axis=1).repeat(2, axis=2))
    return found


class Linearisation(NamedTuple):
    """How the later image, warped back by a displacement, differs from the earlier one.

    Attributes:
      gradient: `(B, H, W, 2)` per px, mean of both images'.
      residual: `(B, H, W)` earlier minus later warped back.
      weight: `(B, H, W)` low where they disagree, 0 where either is invalid.
    """

    gradient: jax.Array
    residual: jax.Array
    weight: jax.Array


def lineariser(pair: jax.Array, valid: jax.Array) -> Callable[[jax.Array], Linearisation]:
    """Prepares to linearise the difference of two images about a displacement `(B, H, W, 2)`.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid.
      valid: `(B, H, W, 2)` float.
    """
    earlier, earlier_valid = pair[..., 0], valid[..., 0]
    still = jnp.broadcast_to(grid(*earlier.shape[1:]), (*earlier.shape, 2))
    at_rest = functools.partial(sample_with_gradient, nodes_per_px=FINE)
    _, earlier_gradient = jax.vmap(at_rest)(fine_coefficients(earlier), still)
    look_up = _look_up(sample_with_gradient, pair, valid)

    def linearise(displacement):
        (value, gradient), known = look_up(displacement)
        residual = earlier - value
        weight = known * earlier_valid / (1.0 + (residual / _ROBUST) ** 2)
        # The mean of both gradients: twice the order, and no date's noise rules.
        return Linearisation(0.5 * (gradient + earlier_gradient), residual, weight)

    return linearise


def least_squares(
    linear: Linearisation, about: jax.Array | float, *, sigma: float
) -> tuple[jax.Array, jax.Array]:
    """Solves for one motion in each window.

    Args:
      linear: the images' difference.
      about: `(B, H, W, 2)` px, the displacement about which it was linearised: the result is then
        the window's one displacement. Or 0: the result is what the displacement lacks, and the
        window may hold a step that the displacement already has.
      sigma: of the Gaussian window [px].

    Returns:
      `(B, H, W, 2)` px, and the smaller eigenvalue of the gradients' moments `(B, H, W)`.
    """
    gradient, residual, weight = linear
    about = jnp.broadcast_to(about, gradient.shape)
    # What each pixel's own linearisation says, (residual + g . u), over the whole window.
    target = residual + (gradient * about).sum(-1)
    g_row, g_col = gradient[..., 0], gradient[..., 1]
    sums = [g_row * g_row, g_row * g_col, g_col * g_col, g_row * target, g_col * target]
    sums = gaussian_mean(jnp.stack([weight * s for s in sums]), sigma=sigma)
    rr, rc, cc, br, bc = sums
    smaller = 0.5 * (rr + cc) - jnp.sqrt(0.25 * (rr - cc) ** 2 + rc**2)
    br, bc = br + _DAMPING * about[..., 0], bc + _DAMPING * about[..., 1]
    rr, cc = rr + _DAMPING, cc + _DAMPING
    solved = jnp.stack([cc * br - rc * bc, rr * bc - rc * br], axis=-1)
    solved = solved / (rr * cc - rc * rc)[..., None]
    return about + jnp.clip(solved - about, -1.0, 1.0), smaller


def refiner(pair: jax.Array, valid: jax.Array) -> Refine:
    """Prepares to refine displacements between two images.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid.
      valid: `(B, H, W, 2)` float.

    Returns:
      See `Refine`.
    """
    linearise = lineariser(pair, valid)

    def refine(displacement, sigma, iterations):
        # A loop whose end is not known beforehand keeps XLA from fusing one step into the next,
        # which would compute it again for each of the sixteen samples that its result takes.
        def going(carry):
            done, change, *_ = carry
            return (done < iterations) & (change > _CONVERGED_PX)

        def once(carry):
            done, _, before, _ = carry
            after, smaller = least_squares(linearise(before), before, sigma=sigma)
            return done + 1, jnp.abs(after - before).max(), after, smaller

        start = (0, jnp.float32(jnp.inf), displacement, jnp.zeros_like(displacement[..., 0]))
        _, _, displacement, smaller = jax.lax.while_loop(going, once, start)
        return displacement, smaller

    return refine


@functools.partial(jax.jit, static_argnames=("window", "search_px"))
def lk(pair: jax.Array, *, window: int = 32, search_px: int = 3) -> tuple[jax.Array, jax.Array]:
    """Measures a pair by gradient least squares, dense.

    Args:
      pair: `(H, W, 2)` earlier and later image, NaN invalid; each of about zero mean and unit
        variance; H and W even.
      window: size in px, 4 or more: of a square window of as much spread as the Gaussian has.
      search_px: reach of the whole-pixel search.

    Returns:
      displacement `(H, W, 2)` px, (row, col), later minus earlier, NaN where there is no texture;
      and quality `(H, W)`: 1 less the robust mean square difference over the window in local
      variances; 1 is perfect, unrelated ground has about -1/3. NaN too where this is under 0.1.
    """
    if window < 4:
        raise ValueError(f"lk needs a window of 4 px or more, got {window}.")
    sigma = window / math.sqrt(12.0)
    whole = jax.vmap(windows.without_specks, -1, -1)(pair)
    image, valid = normalise(whole[None], mean_px=DETAIL_PX)
    (start,) = search(image, valid, radius=search_px, sigmas=(max(sigma, 2.25),))
    displacement, smaller = refiner(image, valid)(start, sigma, _ITERATIONS)
    value, known = later_at(image, valid)(displacement)
    known = known * valid[..., 0]
    share = gaussian_mean(known, sigma=sigma)
    misfit = gaussian_mean(known * saturated((image[..., 0] - value) ** 2), sigma=sigma)
    quality = 1.0 - misfit / jnp.maximum(share, 1e-6)
    measured = (smaller > _LEAST_TEXTURE) & (share >= windows.SMALLEST_SHARE)
    measured &= (jnp.abs(displacement) < search_px + 0.5).all(-1) & (quality > _LEAST_QUALITY)
    displacement = jnp.where(measured[..., None], displacement, jnp.nan)
    return displacement[0], jnp.where(measured, quality, jnp.nan)[0]
