"""Coarse to fine: what moved by more than an estimator reaches is measured in layers.

One whole-pixel shift for a scene is not enough for a glacier, or for a rupture of many pixels. In
each tile the whole-pixel shifts that its ground really shows are found, in windows; the estimator
measures the tile once for each, with that shift taken out; and every pixel takes the layer under
whose motion the two dates agree there and about it. A fault between two layers stays as sharp as
that choice, and where it could be either, sigma says so.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from displacement.agreement import misfits
from displacement.normalise import gaussian_mean
from displacement.prealign import take_out, whole_pixel_shift

REACH_PX = 2  # of a layer about its shift; `cnn` itself reaches a pixel further
LARGEST_PX = 24  # shift of a layer
# px, and px from one to the next, in which shifts are looked for: where ground changed it takes
# many pixels to find one, and beside a fault there may be few that moved alike.
_WINDOWS = ((96, 64), (48, 48))
_MOST_LAYERS = 12
# A layer's probability at a pixel is its misfit there to the power of -2, times the exponential of
# 16 times the share of the ground about that is of this layer: one speck alone cannot be right.
_POOL_PX = 1.0  # over which the dates' agreement is compared
_POWER = 2.0
_ABOUT_PX = 3.0
_ALIKE = 16.0
_LEAST, _MOST = 0.02, 2.0  # misfits below and above these say no more
_ROUNDS = 20


def _starts(size: int, window: int, step: int) -> list[int]:
    """First pixels of the windows along an axis; the last one ends with the tile."""
    last = max(size - window, 0)
    # In a small image they overlap by more: it takes two to confirm a shift.
    return [*range(0, last, min(max(last, 1), step)), last]


def _confirmed(tile: np.ndarray, window: int, step: int) -> list[tuple[int, int]]:
    """The shifts that windows show, but those that none beside one shows nearly as well."""
    rows, cols = (_starts(size, window, step) for size in tile.shape[:2])
    found = {}
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            part = tile[row : row + window, col : col + window]
            if np.isfinite(part).all(-1).mean() > 0.5:
                found[i, j] = whole_pixel_shift(part, largest_px=LARGEST_PX)

    def confirmed(place):
        """One alone may be a chance likeness."""
        beside = [(place[0] + i, place[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        near = [found[b] for b in beside if b in found and b != place]
        return any(max(np.abs(np.subtract(found[place], other))) <= 2 for other in near)

    return [shift for place, shift in found.items() if confirmed(place)]


def shifts_in(tile: np.ndarray, *, reach: int = REACH_PX) -> list[tuple[int, int]]:
    """Whole-pixel shifts that between them bring all of a tile within reach.

    Args:
      tile: `(T, S, 2)` earlier and later image, NaN invalid.
      reach: of a layer about its shift, px.

    Returns:
      (row, col) px, those of most ground first.
    """
    # Where nothing is clear the shift is none, and beyond the scene's own there may be no more.
    found = [(0, 0)]
    for window, step in _WINDOWS:
        found += _confirmed(tile, window, step)
    left = np.array(found)
    chosen = []
    while left.size and len(chosen) < _MOST_LAYERS:
        chosen.append(_middle(left, reach))
        left = left[np.abs(left - chosen[-1]).max(1) > reach]
    return chosen


def _middle(shifts: np.ndarray, reach: int) -> tuple[int, int]:
    """The shift about which most of `(N, 2)` lie within reach, and of such that nearest to them.

    No shift at all, if that will do: a tile without a fault is measured like those about it.
    """
    lines = (
        np.arange(first, last + 1) for first, last in zip(shifts.min(0), shifts.max(0), strict=True)
    )
    middles = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 2)
    middles = np.concatenate([[(0, 0)], middles])
    apart = np.abs(shifts - middles[:, None])
    within = apart.max(-1) <= reach
    most = within.sum(1).max()
    far = np.where(within, apart.sum(-1), 0).sum(1)
    best = 0 if within[0].sum() == most else np.lexsort((far, -within.sum(1)))[0]
    return tuple(int(n) for n in middles[best])


def in_layers(
    function: Callable[[np.ndarray], np.ndarray], tile: np.ndarray, *, reach: int = REACH_PX
) -> np.ndarray:
    """Measures a tile of which parts moved by more than the estimator reaches.

    Args:
      function: measures a tile: `(T, S, 2)` pair to `(T, S, C)`, displacement first.
      tile: `(T, S, 2)`, NaN invalid.
      reach: of the estimator, px.

    Returns:
      `(T, S, C)`.
    """
    shifts = shifts_in(tile, reach=reach)
    if shifts == [(0, 0)]:
        return np.asarray(function(tile))
    layers = []
    for shift in shifts:
        moved = np.stack([tile[..., 0], take_out(tile[..., 1], shift)], -1)
        layers.append(np.array(function(moved)))
        layers[-1][..., :2] += np.asarray(shift, np.float32)
    if len(layers) == 1:
        return layers[0]
    return _chosen(
        np.stack(layers),
        np.stack([misfits(tile, found, pool=_POOL_PX, unknown=_MOST) for found in layers]),
    )


def _chosen(layers: np.ndarray, misfit: np.ndarray) -> np.ndarray:
    """The likeliest layer at each pixel, `(T, S, C)`; its sigma tells how far off the others are.

    Args:
      layers: `(L, T, S, C)`, displacement and, of four channels, its sigma.
      misfit: `(L, T, S)` of each, inf where it found nothing.
    """
    likely = np.asarray(_probabilities(jnp.asarray(misfit)))
    best = likely.argmax(0)[None, ..., None]
    found = np.take_along_axis(layers, best, 0)[0]
    apart = np.nan_to_num(layers[..., :2] - found[..., :2])
    variance = (likely[..., None] * apart**2).sum(0)
    found[..., 2:4] = np.sqrt(found[..., 2:4] ** 2 + variance[..., : found.shape[-1] - 2])
    return found


@jax.jit
def _probabilities(misfit: jax.Array) -> jax.Array:
    """Of each layer at each pixel, `(L, T, S)`.

    By mean field, of a Potts model with a Gaussian neighbourhood (Kraehenbuehl and Koltun 2011).
    """
    fit = -_POWER * jnp.log(jnp.clip(misfit, _LEAST, _MOST))

    def once(_, likely):
        return jax.nn.softmax(fit + _ALIKE * gaussian_mean(likely, sigma=_ABOUT_PX), axis=0)

    return jax.lax.fori_loop(0, _ROUNDS, once, jax.nn.softmax(fit, axis=0))
