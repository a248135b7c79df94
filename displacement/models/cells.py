"""A pair cut into cells of 2 x 2 pixels, and what windows about the cells measure.

What moved is smooth but for a line here and there, so a motion for every cell is nearly enough; the
images are still compared at their pixels. All that `displacement.models.matching` does at every
pixel costs a quarter so, or a half.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from displacement.correlators.lk import (
    Linearisation,
    least_difference,
    linearised,
    moments,
    saturated,
    solved,
    squared_differences,
    until_converged,
)
from displacement.models.candidates import about, log_misfit, pooled
from displacement.models.layers import doubled
from displacement.normalise import gaussian_mean
from displacement.warp import quick_gradient, quick_values, sample_quickly

CELL_PX = 2
_CORNERS = tuple((row, col) for row in range(CELL_PX) for col in range(CELL_PX))
SIGMAS_PX = (1.0, 2.25, 4.5, 9.0, 9.0)  # of the windows
SCALES = len(SIGMAS_PX)
WIDEST = 3  # of those on whitened images
_SMOOTH = (4,)
_PLAN = ((1, None, 2), (0, 1, 1), (2, 1, 2), (3, 2, 1), (4, 3, 1))  # scale, origin, steps
_SEARCH_PX = 3.0  # sigma of the window of the whole-pixel search
# Between the windows of one size that a cell may choose from [cells], for each of `SIGMAS_PX`.
_REACH = (0, 2, 4, 8, 0)
COUNT = sum(9 if reach else 1 for reach in _REACH)
_POOL = (1 / 4, 2 / 4, 1 / 4)  # how sharply the fit of a cell is seen: sigma 1.4 px
_DIAGONAL = (0, 3)  # of the corners: where candidates are compared, half of the pixels


class Matches(NamedTuple):
    """What each window says, of S window sizes.

    Attributes:
      displacement: `(S, 2, B, H, W)` px, (row, col), later minus earlier.
      residual: `(S, B, H, W)` earlier minus later warped back, in local standard deviations.
      misfit: `(S, B, H, W)` its robust mean square over the window.
      texture: `(S, B, H, W)` log of the smaller eigenvalue of the gradients' moments.
    """

    displacement: jax.Array
    residual: jax.Array
    misfit: jax.Array
    texture: jax.Array


class Cells(NamedTuple):
    """A pair, cut into h x w cells of four pixels each.

    Attributes:
      earlier: `(4, B, h, w)` the corners' values, NaN where invalid.
      slopes: `(2, 4, B, h, w)` their gradient (row, col) per px.
      later: `(B, 4 H - 3, 4 W - 3)` for `sample_quickly`.
    """

    earlier: jax.Array
    slopes: jax.Array
    later: jax.Array

    def positions(self, motion: jax.Array, corners: Sequence[int]) -> list[jax.Array]:
        """Rows and cols `(K, B, h, w)` px of K corners, moved by `(2, B, h, w)` px.

        Or by `(2, K, B, h, w)`: each corner by its own.
        """
        height, width = motion.shape[-2:]
        rows = CELL_PX * jnp.arange(height, dtype=jnp.float32)[:, None] + motion[0]
        cols = CELL_PX * jnp.arange(width, dtype=jnp.float32) + motion[1]
        offsets = np.array([_CORNERS[corner] for corner in corners], np.float32)
        return [line + offsets[:, axis, None, None, None] for axis, line in enumerate((rows, cols))]


def corners(image: jax.Array) -> jax.Array:
    """`(..., B, H, W)` to `(..., 4, B, H / 2, W / 2)`."""
    parts = [image[..., row::CELL_PX, col::CELL_PX] for row, col in _CORNERS]
    return jnp.stack(parts, axis=image.ndim - 3)


def cut(pair: jax.Array, valid: jax.Array) -> Cells:
    """Cuts a pair into cells.

    Args:
      pair: `(B, H, W, 2)` normalised, 0 where invalid; H and W even.
      valid: `(B, H, W, 2)` float.
    """
    later = quick_values(pair[..., 1], valid[..., 1])
    known = jnp.where(valid[..., 0] > 0, pair[..., 0], jnp.nan)
    slopes = jnp.stack([corners(slope) for slope in quick_gradient(pair[..., 0])])
    return Cells(*jax.lax.optimization_barrier((corners(known), slopes, later)))


def linearise(cells: Cells, motion: jax.Array) -> Linearisation:
    """Linearises the difference of the dates about a motion of the cells, or of their corners.

    Args:
      cells: the pair.
      motion: `(2, B, h, w)` px, or `(2, 4, B, h, w)`.

    Returns:
      With the corners after the component: gradient `(2, 4, B, h, w)`.
    """
    positions = cells.positions(motion, range(4))
    return linearised(cells.earlier, cells.slopes, cells.later, *positions)


def at_pixels(maps: jax.Array) -> jax.Array:
    """`(..., B, h, w)` of the cells at every pixel, `(..., B, 2 h, 2 w)`, bilinear."""
    *before, batch, height, width = maps.shape
    channels = jnp.moveaxis(maps.reshape(-1, batch, height, width), 0, -1)
    found = jnp.moveaxis(doubled(channels), -1, 0)
    return found.reshape(*before, batch, CELL_PX * height, CELL_PX * width)


def at_cells(maps: jax.Array) -> jax.Array:
    """`(..., B, H, W)` of the pixels, averaged over each cell, `(..., B, H / 2, W / 2)`."""
    return corner_mean(corners(maps))


def corner_mean(values: jax.Array) -> jax.Array:
    """Mean over the corners, the axis before `(B, h, w)`, as a sum of planes."""
    one, two, three, four = (values[..., k, :, :, :] for k in range(4))
    return 0.25 * ((one + two) + (three + four))


def lacking(linear: Linearisation, own: jax.Array, sigmas: Sequence[float]) -> list[jax.Array]:
    """What windows say that a field lacks, len(sigmas) + 2 of `(2, B, h, w)` px for cells.

    Args:
      linear: about the field, at the corners of the cells.
      own: `(B, h, w)` the side of a step on which a cell lies, 0 to 1.
      sigmas: of the windows [px], the widest last.

    Returns:
      one for each window; then the widest again, ended at the step: on side 1, and on side 0.
    """
    parts = jax.lax.stop_gradient(corner_mean(moments(linear, 0.0)))
    wholes = [gaussian_mean(parts, sigma=sigma / CELL_PX) for sigma in sigmas]
    one = gaussian_mean(own * parts, sigma=sigmas[-1] / CELL_PX)
    return [solved(part, 0.0)[0] for part in (*wholes, one, wholes[-1] - one)]


def misfits(cells: Cells, motions: Sequence[jax.Array]) -> jax.Array:
    """How badly the dates agree at a cell under each motion.

    Args:
      cells: the pair.
      motions: K of `(2, B, h, w)` px.

    Returns:
      `(K, B, h, w)` log of the robust mean square difference over about 1.5 px.
    """
    earlier = jnp.stack([cells.earlier[k] for k in _DIAGONAL])

    def one(motion):
        later = sample_quickly(cells.later, *cells.positions(motion, _DIAGONAL))
        squared = saturated((earlier - jax.lax.optimization_barrier(later)) ** 2)
        squared = jnp.where(jnp.isnan(squared), 1.0, squared)
        return log_misfit(pooled(0.5 * (squared[0] + squared[1]), _POOL))

    return jax.lax.stop_gradient(jnp.stack([one(motion) for motion in motions]))


def search(pair: jax.Array, valid: jax.Array, *, radius: int) -> jax.Array:
    """Whole-pixel motions of least difference `(2, B, h, w)` px, from every second cell."""
    cost = squared_differences(pair, valid, radius=radius)
    cost = gaussian_mean(cost, sigma=_SEARCH_PX / CELL_PX)[..., ::2, ::2]
    shift = least_difference(cost, radius=radius)
    return shift.repeat(2, axis=2).repeat(2, axis=3)


def measure(
    cells: Cells, motion: jax.Array, *, sigma: float, iterations: int
) -> tuple[jax.Array, ...]:
    """Gradient least squares in windows about the cells.

    Args:
      cells: the pair.
      motion: `(2, B, h, w)` px from which to start.
      sigma: of the window [px].
      iterations: at most; fewer, where no window moves by more than a thousandth of a pixel.

    Returns:
      motion `(2, B, h, w)` px; residual, misfit and texture of that from which the last step began,
      see `match`.
    """

    def once(motion):
        linear = linearise(cells, motion)
        squared = jnp.where(linear.weight > 0, saturated(linear.residual**2), 1.0)
        parts = jnp.concatenate([moments(linear, motion[:, None]), squared[None]])
        parts = gaussian_mean(corner_mean(parts), sigma=sigma / CELL_PX)
        motion, smaller = solved(parts[:5], motion)
        texture = jnp.log(jnp.maximum(smaller, 0.0) + 1e-3)
        return motion, corner_mean(linear.residual), parts[5], texture

    unknown = jnp.zeros_like(motion[0])
    return until_converged(once, (motion, unknown, unknown, unknown), iterations)


def match(white: Cells, smooth: Cells, start: jax.Array, *, radius: int) -> Matches:
    """Matches a pair in windows of several sizes.

    Args:
      white: the whitened pair.
      smooth: the pair less its finest detail.
      start: `(2, B, h, w)` px.
      radius: no motion may be more than half a pixel above it.

    Returns:
      For cells, in the order of `SIGMAS_PX`. The residual is the mean over the cell; it, misfit and
      texture are of the motion from which the last step began.
    """
    found = {None: start}
    matches = {}
    for scale, origin, iterations in _PLAN:
        cells, sigma = smooth if scale in _SMOOTH else white, SIGMAS_PX[scale]
        motion, *rest = measure(cells, found[origin], sigma=sigma, iterations=iterations)
        found[scale] = jnp.clip(motion, -radius - 0.5, radius + 0.5)
        matches[scale] = (found[scale], *rest)
    columns = zip(*(matches[scale] for scale in range(SCALES)), strict=True)
    return jax.lax.stop_gradient(Matches(*(jnp.stack(column) for column in columns)))


def beside(maps: jax.Array) -> list[jax.Array]:
    """For every candidate, what its window says: `COUNT` of `(..., h, w)`, see `candidates.beside`.

    Args:
      maps: `(SCALES, ..., h, w)`.
    """
    layers = []
    for field, reach in zip(maps, _REACH, strict=True):
        layers += about(field, reach)
    return layers
