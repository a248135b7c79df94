"""Gradient least squares (Lucas & Kanade) in windows, dense, with robust weights.

The whole-pixel shift of least squared difference, refined until the later image, warped back, fits
the earlier one (Lucas & Kanade 1981; Baker & Matthews 2004, "Lucas-Kanade 20 years on"). Windows
are Gaussian, which costs the same at any size. A correlator of its own, and what the networks
choose from (`displacement.models.matching`). Its displacements have the component first,
`(2, B, H, W)`: a processor's vector units read whole rows of one.
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
from displacement.warp import (
    grid,
    quick_gradient,
    quick_values,
    sample_quickly,
    sample_quickly_with_gradient,
)

_SATURATION = 4.0  # a squared difference counts for no more: one changed roof does not rule
ROBUST = 0.4  # residual, in local standard deviations, at which a pixel counts for half
_DAMPING = 2e-3  # beside a squared gradient of about 0.3 per px: textureless ground stays put
_CONVERGED_PX = 1e-3  # no window moves by more
_ITERATIONS = 8  # of `lk`
_SEARCH_PX = 3  # either way, in whole pixels, of `lk`
_LEAST_QUALITY = 0.1  # unrelated ground at its best shift: half stays below at a window of 16 px
_LEAST_TEXTURE = 1e-3  # smaller eigenvalue of the gradients' moments; below, nothing is measured

# From a start `(2, B, H, W)`, sigma [px] of the window and iterations at most: the displacement,
# and the smaller eigenvalue of the gradients' moments `(B, H, W)`, a measure of texture.
Refine = Callable[[jax.Array, float, int], tuple[jax.Array, jax.Array]]


def squared_differences(pair: jax.Array, valid: jax.Array, *, radius: int) -> jax.Array:
    """Squared difference of the earlier image and the later one shifted by whole pixels.

    Args:
      pair: `(B, H, W, 2)` normalised; H and W even.
      valid: `(B, H, W, 2)` float.
      radius: largest shift in px along either axis.

    Returns:
      `((2 radius + 1)^2, B, H / 2, W / 2)`: q = (earlier(p) - later(p + d))^2 for d in row-major
      order, as q / (1 + q / 4), mean of 2 x 2 pixels; 2, twice what unrelated ground gives, where
      either is invalid.
    """
    height, width = pair.shape[1] // 2, pair.shape[2] // 2
    known = jnp.where(valid > 0, pair, jnp.nan)
    pad = ((0, 0), (radius, radius), (radius, radius))
    later = jnp.pad(known[..., 1], pad, constant_values=jnp.nan)
    # Every second pixel, from the first or the second: what is shifted then lies side by side.
    corners = [(row, col) for row in (0, 1) for col in (0, 1)]
    earlier = {(row, col): known[:, row::2, col::2, 0] for row, col in corners}
    later = {(row, col): later[:, row::2, col::2] for row, col in corners}

    def difference(corner, shift):
        (row, odd_row), (col, odd_col) = (
            divmod(c + s, 2) for c, s in zip(corner, shift, strict=True)
        )
        moved = later[odd_row, odd_col][:, row : row + height, col : col + width]
        squared = saturated((earlier[corner] - moved) ** 2)
        return jnp.where(jnp.isnan(squared), 2.0, squared)

    side = range(2 * radius + 1)
    shifts = [(row, col) for row in side for col in side]
    return jnp.stack(
        [0.25 * sum(difference(corner, shift) for corner in corners) for shift in shifts]
    )


def least_difference(cost: jax.Array, *, radius: int) -> jax.Array:
    """Shift `(2, B, H, W)` [px] of the least of `((2 radius + 1)^2, B, H, W)`, by parabola."""
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
    return jnp.stack(parts)


def saturated(squared: jax.Array) -> jax.Array:
    """A squared difference that counts for no more than `_SATURATION`."""
    return squared / (1.0 + squared / _SATURATION)


def residual_at(pair: jax.Array, valid: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Prepares to compare the dates under any motion, quickly.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid.
      valid: `(B, H, W, 2)` float.

    Returns:
      function of a displacement `(2, ..., B, H, W)` px that gives the earlier image less the later
      one there, `(..., B, H, W)`, NaN where either is unknown.
    """
    height, width = pair.shape[1:3]
    earlier = jnp.where(valid[..., 0] > 0, pair[..., 0], jnp.nan)
    values = quick_values(pair[..., 1], valid[..., 1])
    rows, cols = jnp.moveaxis(grid(height, width), -1, 0)

    def residual(displacement):
        found = sample_quickly(values, rows + displacement[0], cols + displacement[1])
        # Kept as it is: XLA would do it again for each of its uses.
        return earlier - jax.lax.optimization_barrier(found)

    return residual


def differences_at(pair: jax.Array, valid: jax.Array) -> Callable[..., jax.Array]:
    """Prepares to say how badly the dates agree under any motion; arguments as `residual_at`.

    Returns:
      function of a displacement `(2, ..., B, H, W)` px, and of what to give where either date is
      unknown, that gives the saturated squared differences `(..., B, H, W)`.
    """
    residual = residual_at(pair, valid)

    def difference(displacement, *, unknown):
        squared = saturated(residual(displacement) ** 2)
        return jnp.where(jnp.isnan(squared), unknown, squared)

    return difference


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
      for each window, `(2, B, H, W)` px.
    """
    cost = squared_differences(pair, valid, radius=radius)
    found = []
    for sigma in sigmas:
        shift = least_difference(gaussian_mean(cost, sigma=sigma / 2), radius=radius)
        found.append(shift.repeat(2, axis=2).repeat(2, axis=3))
    return found


class Linearisation(NamedTuple):
    """How the later image, warped back by a displacement, differs from the earlier one.

    Attributes:
      gradient: `(2, B, H, W)` per px, mean of both images'.
      own: `(2, B, H, W)` per px, that of the earlier image alone.
      residual: `(B, H, W)` earlier minus later warped back.
      weight: `(B, H, W)` low where they disagree, 0 where either is invalid.
    """

    gradient: jax.Array
    own: jax.Array
    residual: jax.Array
    weight: jax.Array


def linearised(
    earlier: jax.Array, slopes: jax.Array, later: jax.Array, rows: jax.Array, cols: jax.Array
) -> Linearisation:
    """Linearises the difference of two images about a motion.

    Args:
      earlier: `(..., B, H, W)`, NaN where unknown.
      slopes: `(2, ..., B, H, W)` its gradient per px, from `quick_gradient`.
      later: `(B, ., .)` the later images, from `quick_values`.
      rows: `(..., B, H, W)` px, where each pixel of the earlier image has moved to.
      cols: likewise.
    """
    found = sample_quickly_with_gradient(later, rows, cols)
    # Kept as it is: XLA would do it again for each of its uses.
    value, *later_slopes = jax.lax.optimization_barrier(found)
    residual = earlier - value
    known = jnp.isfinite(residual)
    residual = jnp.where(known, residual, 0.0)
    weight = known / (1.0 + (residual / ROBUST) ** 2)
    mean = jnp.where(known, 0.5 * (slopes + jnp.stack(later_slopes)), 0.0)
    return Linearisation(mean, jnp.where(known, slopes, 0.0), residual, weight)


def lineariser(pair: jax.Array, valid: jax.Array) -> Callable[[jax.Array], Linearisation]:
    """Prepares to linearise the difference of two images about a displacement `(2, B, H, W)`.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid.
      valid: `(B, H, W, 2)` float.
    """
    earlier = jnp.where(valid[..., 0] > 0, pair[..., 0], jnp.nan)
    slopes = jnp.stack(quick_gradient(pair[..., 0]))
    later = quick_values(pair[..., 1], valid[..., 1])
    rows, cols = jnp.moveaxis(grid(*pair.shape[1:3]), -1, 0)
    return lambda motion: linearised(earlier, slopes, later, rows + motion[0], cols + motion[1])


def moments(linear: Linearisation, about: jax.Array | float) -> jax.Array:
    """What every pixel adds to the normal equations of the windows that it lies in.

    Args:
      linear: the images' difference.
      about: `(2, B, H, W)` px, the displacement about which it was linearised: a window then has
        one displacement. Or 0: what the displacement lacks is one in each window, and a window may
        hold a step that the displacement already has.

    Returns:
      `(5, B, H, W)`: to be averaged over each window, and then given to `solved`.
    """
    # The slope of the robust loss is weight x residual, and its curvature nearly weight^2: steps
    # with that are nearly Newton's.
    gradient, own = linear.weight * linear.gradient, linear.weight * linear.own
    # What each pixel's own linearisation says, over the whole window. The residual meets the
    # earlier image's gradient alone: that of the later one goes with its noise, which is smoother
    # between the nodes of the interpolation, and would draw every motion there.
    beside = (gradient * about).sum(0)
    towards = own * linear.residual + gradient * beside
    (g_row, g_col), (t_row, t_col) = gradient, towards
    return jnp.stack([g_row * g_row, g_row * g_col, g_col * g_col, t_row, t_col])


def solved(means: jax.Array, about: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Solves for one motion in each window.

    Args:
      means: `(5, B, H, W)` of `moments` over the windows.
      about: that of the moments.

    Returns:
      `(2, B, H, W)` px, and the smaller eigenvalue of the gradients' moments `(B, H, W)`.
    """
    rr, rc, cc, br, bc = means
    about = jnp.broadcast_to(about, (2, *rr.shape))
    smaller = 0.5 * (rr + cc) - jnp.sqrt(0.25 * (rr - cc) ** 2 + rc**2)
    br, bc = br + _DAMPING * about[0], bc + _DAMPING * about[1]
    rr, cc = rr + _DAMPING, cc + _DAMPING
    motion = jnp.stack([cc * br - rc * bc, rr * bc - rc * br]) / (rr * cc - rc * rc)
    return about + jnp.clip(motion - about, -1.0, 1.0), smaller


def until_converged(
    once: Callable[[jax.Array], tuple[jax.Array, ...]],
    start: tuple[jax.Array, ...],
    iterations: int,
) -> tuple[jax.Array, ...]:
    """Repeats a step until no window moves any more.

    A loop whose end is not known beforehand keeps XLA from fusing one step into the next, which
    would compute it again for each of the samples that its result takes.

    Args:
      once: from a displacement `(2, ...)` px, a better one and what else there is to say.
      start: as `once` gives it, the displacement first.
      iterations: at most.
    """

    def going(carry):
        done, change, _ = carry
        return (done < iterations) & (change > _CONVERGED_PX)

    def step(carry):
        done, _, (before, *_) = carry
        found = once(before)
        return done + 1, jnp.abs(found[0] - before).max(), found

    return jax.lax.while_loop(going, step, (0, jnp.float32(jnp.inf), start))[2]


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
        def once(before):
            means = gaussian_mean(moments(linearise(before), before), sigma=sigma)
            return solved(means, before)

        start = displacement, jnp.zeros_like(displacement[0])
        return until_converged(once, start, iterations)

    return refine


@functools.partial(jax.jit, static_argnames=("window",))
def lk(pair: jax.Array, *, window: int = 32) -> tuple[jax.Array, jax.Array]:
    """Measures a pair by gradient least squares, dense.

    Args:
      pair: `(H, W, 2)` earlier and later image, NaN invalid; each of about zero mean and unit
        variance; H and W even.
      window: size in px, 4 or more: of a square window of as much spread as the Gaussian has.

    Returns:
      displacement `(H, W, 2)` px, (row, col), later minus earlier, NaN where there is no texture;
      and quality `(H, W)`: 1 less the robust mean square difference over the window in local
      variances; 1 is perfect, unrelated ground about 0. NaN too where this is under 0.1.
    """
    if window < 4:
        raise ValueError(f"lk needs a window of 4 px or more, got {window}.")
    sigma = window / math.sqrt(12.0)
    whole = jax.vmap(windows.without_specks, -1, -1)(pair)
    image, valid = normalise(whole[None], mean_px=DETAIL_PX)
    (start,) = search(image, valid, radius=_SEARCH_PX, sigmas=(max(sigma, 2.25),))
    displacement, smaller = refiner(image, valid)(start, sigma, _ITERATIONS)
    residual = residual_at(image, valid)(displacement)
    known = jnp.isfinite(residual)
    share = gaussian_mean(known.astype(jnp.float32), sigma=sigma)
    squared = jnp.where(known, saturated(residual**2), 0.0)
    misfit = gaussian_mean(squared, sigma=sigma)
    quality = 1.0 - misfit / jnp.maximum(share, 1e-6)
    measured = (smaller > _LEAST_TEXTURE) & (share >= windows.SMALLEST_SHARE)
    measured &= (jnp.abs(displacement) < _SEARCH_PX + 0.5).all(0) & (quality > _LEAST_QUALITY)
    displacement = jnp.where(measured, displacement, jnp.nan)
    return jnp.moveaxis(displacement[:, 0], 0, -1), jnp.where(measured, quality, jnp.nan)[0]
