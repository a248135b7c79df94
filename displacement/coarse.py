"""Coarse to fine: what moved by more than an estimator reaches is measured in layers.

One whole-pixel shift for a scene is not enough for a glacier, or for a rupture of many pixels. In
each tile the whole-pixel shifts that its ground really shows are found, in windows; the estimator
measures the tile once for each, with that shift taken out. Ground on which the dates agree under
none of them (a landslide, the margin of a glacier) is looked at again, for itself. Every pixel then
takes the layer under whose motion the two dates agree there and about it. A fault between two
layers stays as sharp as that choice, and where it could be either, sigma says so.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from displacement.agreement import UNRELATED, misfits
from displacement.normalise import gaussian_mean, normalise
from displacement.prealign import shift_of_part, take_out, whole_pixel_shift
from displacement.tiling import padded_window

REACH_PX = 2  # of a layer about its shift; `cnn` itself reaches a pixel further
LARGEST_PX = 24  # shift of a layer
# px, and px from one to the next, in which shifts are looked for: where ground changed it takes
# many pixels to find one, and beside a fault there may be few that moved alike.
_WINDOWS = ((96, 64), (48, 48))
_MOST_LAYERS = 12
# Ground is left over where the dates agree worse than so many times the median of the tile, but not
# where they agree well. It is looked at in blocks of which so much is left over [px, px, share].
_USUAL, _WELL = 2.5, 0.1
_BLOCK_PX, _BLOCK_STEP_PX, _LEFT_OVER = 32, 16, 0.4
# Among many blocks, as where ground changed, some show one shift by chance.
_LEAST_VOTES = 0.15  # of the blocks
_MOST_TAKEN = 0.5  # of a block, by ground that a layer explains
_ALIKE_PX = 2  # apart: one shift
_MOST_BLOCKS = 200  # of more, as in clouds, some are left out ...
_MARGIN_BLOCKS = 24  # ... and fewer are ground that was covered or laid bare, not a margin
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


Places = dict[tuple[int, int], tuple[int, int]]  # the shift at each node of a grid


def _in_windows(tile: np.ndarray, window: int, step: int) -> Places:
    """The shifts that windows show."""
    rows, cols = (_starts(size, window, step) for size in tile.shape[:2])
    found = {}
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            part = tile[row : row + window, col : col + window]
            if np.isfinite(part).all(-1).mean() > 0.5:
                found[i, j] = whole_pixel_shift(part, largest_px=LARGEST_PX)
    return found


def _confirmed(found: Places) -> list[tuple[int, int]]:
    """The shifts, but those that none beside is nearly: one alone may be a chance likeness."""

    def confirmed(place):
        beside = [(place[0] + i, place[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        near = [found[b] for b in beside if b in found and b != place]
        return any(_apart(found[place], other) <= _ALIKE_PX for other in near)

    return [shift for place, shift in found.items() if confirmed(place)]


def _apart(one: tuple[int, int], other: tuple[int, int]) -> int:
    return int(np.abs(np.subtract(one, other)).max())


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
        found += _confirmed(_in_windows(tile, window, step))
    return _covering(found, reach)


def _covering(shifts: list[tuple[int, int]], reach: int) -> list[tuple[int, int]]:
    """Few shifts that have all of `shifts` within reach, those of most first."""
    left, chosen = np.array(shifts), []
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
      function: measures a tile: `(T, S, 2)` pair to `(T, S, C)`, displacement first, and last how
        badly the dates agree under it (`agreement.disagreement`).
      tile: `(T, S, 2)`, NaN invalid.
      reach: of the estimator, px.

    Returns:
      `(T, S, C)`.
    """
    layers = {}
    new = shifts_in(tile, reach=reach)
    while new:
        for shift in new:
            layers[shift] = _layer(function, tile, shift)
        new = _further_shifts(tile, layers, reach)
    found = list(layers.values())
    return found[0] if len(found) == 1 else _chosen(tile, np.stack(found))


def _layer(function: Callable, tile: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """What is measured with a shift taken out of the later image."""
    if shift == (0, 0):
        return np.asarray(function(tile))
    found = np.array(function(np.stack([tile[..., 0], take_out(tile[..., 1], shift)], -1)))
    found[..., :2] += np.asarray(shift, np.float32)
    return found


def _further_shifts(
    tile: np.ndarray, layers: dict[tuple[int, int], np.ndarray], reach: int
) -> list[tuple[int, int]]:
    """Shifts of what no layer explains: those that it shows, or else those between the layers.

    Between, because where motion changes by many pixels over a short distance no window shows one.
    """
    known = np.isfinite(tile).all(-1)
    misfit = np.min([found[..., -1] for found in layers.values()], axis=0)
    if not known.any():
        return []
    usual = float(np.median(misfit[known]))
    most = float(np.clip(_USUAL * usual, _WELL, UNRELATED))
    left_over = known & (misfit > most)
    blocks = _blocks(left_over)
    if not blocks:
        return []
    taken = _taken(layers, known, most)

    def new(shifts):
        return [s for s in shifts if min(_apart(s, layer) for layer in layers) > reach]

    shown = new(_confirmed(_in_blocks(tile, left_over, taken, blocks)))
    found = [
        shift
        for shift in _covering(shown, reach)
        if sum(_apart(shift, s) <= _ALIKE_PX for s in shown) >= _LEAST_VOTES * len(blocks)
    ]
    if not found and len(blocks) >= _MARGIN_BLOCKS:
        found = new(_between(list(layers), reach))
    return found[: _MOST_LAYERS - len(layers)]


def _taken(layers: dict[tuple[int, int], np.ndarray], known: np.ndarray, most: float) -> np.ndarray:
    """`(T, S)`, 1 where in the later image lies ground of which a layer tells where it was."""
    taken = np.zeros(known.shape, np.float32)
    for (row, col), found in layers.items():
        here = (known & (found[..., -1] <= most)).astype(np.float32)
        taken = np.fmax(taken, take_out(here, (-row, -col)))
    return taken


def _blocks(left_over: np.ndarray) -> dict[tuple[int, int], tuple[int, int]]:
    """First pixels of the blocks of which much is left over, by their place in a grid."""
    step = _BLOCK_STEP_PX
    while True:
        rows, cols = (range(0, max(size - _BLOCK_PX, 0) + 1, step) for size in left_over.shape)
        blocks = {
            (i, j): (row, col)
            for i, row in enumerate(rows)
            for j, col in enumerate(cols)
            if left_over[row : row + _BLOCK_PX, col : col + _BLOCK_PX].mean() > _LEFT_OVER
        }
        if len(blocks) <= _MOST_BLOCKS:
            return blocks
        step *= 2


def _in_blocks(
    tile: np.ndarray,
    left_over: np.ndarray,
    taken: np.ndarray,
    blocks: dict[tuple[int, int], tuple[int, int]],
) -> Places:
    """The shifts of what is left over in blocks, which is looked for all about them.

    But not those to where other ground is: that is a likeness of fields.
    """
    white, valid = (np.asarray(part[0]) for part in normalise(jnp.asarray(tile[None])))
    earlier, later = np.moveaxis(np.where(valid > 0, white, np.nan), -1, 0)
    earlier = np.where(left_over, earlier, np.nan)
    size = _BLOCK_PX + 2 * LARGEST_PX
    found = {}
    for place, (row, col) in blocks.items():
        part = padded_window(earlier, row, col, _BLOCK_PX, _BLOCK_PX)
        around = padded_window(later, row - LARGEST_PX, col - LARGEST_PX, size, size)
        shift = shift_of_part(part, around)
        if shift is None:
            continue
        there = padded_window(taken, row + shift[0], col + shift[1], *part.shape)
        if there[np.isfinite(part)].mean() <= _MOST_TAKEN:  # NaN, outside, fails too
            found[place] = shift
    return found


def _between(layers: list[tuple[int, int]], reach: int) -> list[tuple[int, int]]:
    """Shifts between each layer and the nearest of those before it, so that no gap is left."""
    shifts = []
    for number, layer in enumerate(layers[1:], start=1):
        nearest = min(layers[:number], key=lambda other: _apart(layer, other))
        count = -(-_apart(layer, nearest) // (2 * reach + 1))
        steps = np.arange(1, count)[:, None] / count
        line = np.rint(nearest + steps * np.subtract(layer, nearest)).astype(int)
        shifts += [tuple(shift) for shift in line.tolist()]
    return list(dict.fromkeys(shifts))


def _chosen(tile: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """The likeliest layer at each pixel, `(T, S, C)`; its sigma tells how far off the others are.

    Args:
      tile: `(T, S, 2)`.
      layers: `(L, T, S, C)`, displacement, maybe its sigma, and how badly the dates agree.
    """
    related = layers[..., -1:] <= UNRELATED
    motions = np.where(related, layers[..., :2], np.nan)
    misfit = [misfits(tile, motion, pool=_POOL_PX, unknown=_MOST) for motion in motions]
    likely = np.asarray(_probabilities(jnp.asarray(np.stack(misfit))))
    best = likely.argmax(0)[None, ..., None]
    found = np.take_along_axis(layers, best, 0)[0]
    if found.shape[-1] > 3:
        apart = np.nan_to_num(motions - found[..., :2])
        variance = (likely[..., None] * apart**2).sum(0)
        found[..., 2:4] = np.sqrt(found[..., 2:4] ** 2 + variance)
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
