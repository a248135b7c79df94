"""Coarse to fine: what moved by more than an estimator reaches is measured in layers.

One whole-pixel shift for a scene is not enough for a glacier, or for a rupture of many pixels. In
each tile the whole-pixel shifts that its ground really shows are found, in windows; the estimator
measures the tile once for each, with that shift taken out; and every pixel takes the layer under
whose motion the two dates agree there. A fault between two layers stays as sharp as that choice.
"""

from collections.abc import Callable

import numpy as np

from displacement.agreement import misfits
from displacement.prealign import take_out, whole_pixel_shift

REACH_PX = 2  # of a layer about its shift; `cnn` itself reaches a pixel further
LARGEST_PX = 24  # shift of a layer
_WINDOW = 96  # px, in which shifts are looked for
_STEP = 64
_MOST_LAYERS = 12
_POOL_PX = 2.0  # over which the dates' agreement is compared
_ADVANTAGE = 0.9  # a further layer's misfit must be under this share of the best one's before


def _starts(size: int) -> list[int]:
    """First pixels of the windows along an axis; the last one ends with the tile."""
    last = max(size - _WINDOW, 0)
    # In a small image they overlap by more: it takes two to confirm a shift.
    return [*range(0, last, min(max(last, 1), _STEP)), last]


def shifts_in(tile: np.ndarray, *, reach: int = REACH_PX) -> list[tuple[int, int]]:
    """Whole-pixel shifts that between them bring all of a tile within reach.

    Args:
      tile: `(T, S, 2)` earlier and later image, NaN invalid.
      reach: of a layer about its shift, px.

    Returns:
      (row, col) px, those of most ground first.
    """
    rows, cols = (_starts(size) for size in tile.shape[:2])
    found = {}
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            window = tile[row : row + _WINDOW, col : col + _WINDOW]
            if np.isfinite(window).all(-1).mean() > 0.5:
                found[i, j] = whole_pixel_shift(window, largest_px=LARGEST_PX)

    def confirmed(place):
        """Whether a window beside shows nearly the same: one alone may be a chance likeness."""
        beside = [(place[0] + i, place[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        near = [found[b] for b in beside if b in found and b != place]
        return any(max(np.abs(np.subtract(found[place], other))) <= 2 for other in near)

    # Where nothing is clear the shift is none, and beyond the scene's own there may be no more.
    left = np.array([(0, 0)] + [shift for place, shift in found.items() if confirmed(place)])
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
    best, least = None, None
    for shift in shifts:
        moved = np.stack([tile[..., 0], take_out(tile[..., 1], shift)], -1)
        found = np.array(function(moved))
        found[..., :2] += np.asarray(shift, np.float32)
        misfit = misfits(tile, found, pool=_POOL_PX, unknown=2.0)
        if best is None:
            best, least = found, misfit
            continue
        better = misfit < _ADVANTAGE * least
        best[better], least[better] = found[better], misfit[better]
    return best
