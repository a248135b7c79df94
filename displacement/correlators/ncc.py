"""Zero-normalised cross-correlation with a sub-pixel peak, dense.

The correlation coefficient of two windows at a shift is a quotient of window sums, and a window
sum over a whole image is one box filter whatever the window's size (Lewis 1995, "Fast normalized
cross-correlation"). The later image is shifted by cubic B-spline at quarter pixels about the
whole-pixel peak, as spatial-domain practice interpolates the image rather than the peak (Rosu et
al. 2015, ISPRS J. 100, MicMac); a parabola is then fitted over steps so short that it adds no bias.
"""

import functools

import jax
import jax.numpy as jnp

from displacement.correlators import windows
from displacement.warp import bspline_coefficients, grid, sample

_FINE_PX = 0.25


def _box_sum(image: jax.Array, window: int) -> jax.Array:
    """Sum over `window` x `window` pixels centred on each, zeros beyond the edges."""
    half = window // 2
    for axis in (0, 1):
        image = jax.lax.reduce_window(
            image,
            0.0,
            jax.lax.add,
            window_dimensions=(window, 1) if axis == 0 else (1, window),
            window_strides=(1, 1),
            padding=((half, half), (0, 0)) if axis == 0 else ((0, 0), (half, half)),
        )
    return image


def _coefficient(earlier, earlier_valid, later, later_valid, window):
    """Correlation coefficient `(H, W)` of the windows about each pixel; -1 where too little."""
    both = earlier_valid * later_valid
    count = jnp.maximum(_box_sum(both, window), 1.0)
    a, b = earlier * both, later * both
    mean_a, mean_b = _box_sum(a, window) / count, _box_sum(b, window) / count
    cross = _box_sum(a * b, window) / count - mean_a * mean_b
    power_a = _box_sum(a * a, window) / count - mean_a**2
    power_b = _box_sum(b * b, window) / count - mean_b**2
    score = cross / jnp.sqrt(jnp.maximum(power_a * power_b, 1e-12))
    return jnp.where(count >= windows.SMALLEST_SHARE * window**2, jnp.clip(score, -1.0, 1.0), -1.0)


def _standardised(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The image in units of its scatter, 0 where invalid, and its validity."""
    valid = jnp.isfinite(image)
    count = jnp.maximum(valid.sum(), 1)
    filled = jnp.where(valid, image, 0.0)
    centred = jnp.where(valid, filled - filled.sum() / count, 0.0)
    spread = jnp.sqrt((centred**2).sum() / count) + 1e-12
    return centred / spread, valid.astype(jnp.float32)


def _shift_rows_cols(image: jax.Array, shift: jax.Array) -> jax.Array:
    """image(p + shift) for a whole-pixel shift `(2,)`, 0 beyond the edges."""
    height, width = image.shape
    rows = jnp.arange(height)[:, None] + shift[0]
    cols = jnp.arange(width)[None, :] + shift[1]
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    return jnp.where(
        inside, image[jnp.clip(rows, 0, height - 1), jnp.clip(cols, 0, width - 1)], 0.0
    )


@functools.partial(jax.jit, static_argnames=("window", "step", "search"))
def ncc(
    pair: jax.Array, *, window: int = 31, step: int = 4, search: int = 4
) -> tuple[jax.Array, jax.Array]:
    """Measures a pair by zero-normalised cross-correlation.

    Args:
      pair: `(H, W, 2)` earlier and later image, NaN invalid.
      window: odd height and width of the windows in px, 3 or more.
      step: spacing of the windows in px; 1 is dense.
      search: largest whole-pixel shift searched for along either axis.

    Returns:
      displacement `(H, W, 2)` px, (row, col), later minus earlier, NaN where too little is valid
      or the best shift lies on the border of the search, and quality `(H, W)`, the correlation
      coefficient at the peak.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"ncc needs an odd window of 3 px or more, got {window}.")
    if search < 1:
        raise ValueError(f"ncc needs a search of 1 px or more, got {search}.")
    earlier, earlier_valid = _standardised(pair[..., 0])
    later, later_valid = _standardised(pair[..., 1])
    side = 2 * search + 1

    def scan(best, index):
        shift = jnp.stack([index // side, index % side]) - search
        score = _coefficient(
            earlier,
            earlier_valid,
            _shift_rows_cols(later, shift),
            _shift_rows_cols(later_valid, shift),
            window,
        )
        better = score > best[0]
        shift = jnp.where(better[..., None], shift.astype(jnp.float32), best[1])
        return (jnp.where(better, score, best[0]), shift), None

    shape = earlier.shape
    start = jnp.full(shape, -1.0), jnp.full((*shape, 2), jnp.nan)
    (_, whole), _ = jax.lax.scan(scan, start, jnp.arange(side * side))
    return _refine(earlier, earlier_valid, later, later_valid, whole, window, step, search)


def _refine(earlier, earlier_valid, later, later_valid, whole, window, step, search):
    """Sub-pixel peak around the whole-pixel one, at the nodes, then on every pixel."""
    shape = earlier.shape
    coefficients = bspline_coefficients(later)
    half = window // 2
    weights = jnp.arange(-3, 4) * _FINE_PX  # +- 0.75 px in quarters

    def at(centres):
        start = whole[centres[:, 0], centres[:, 1]]
        known = jnp.isfinite(start).all(-1) & (jnp.abs(start) < search).all(-1)
        start = jnp.where(known[:, None], start, 0.0)
        a = windows.extract(earlier, centres, window=window)
        a_valid = windows.extract(earlier_valid, centres, window=window) > 0
        patch = grid(window, window) - half + centres[:, None, None].astype(jnp.float32)

        def score(offset):  # (N, 2) offset from the whole-pixel peak
            moved = patch + (start + offset)[:, None, None]
            b = sample(coefficients, moved)
            near = jnp.round(moved).astype(jnp.int32)
            inside = (near >= 0).all(-1) & (near < jnp.array(shape)).all(-1)
            near = jnp.clip(near, 0, jnp.array(shape) - 1)
            valid = a_valid & inside & (later_valid[near[..., 0], near[..., 1]] > 0)
            x, y = windows.centred(a, valid), windows.centred(b, valid)
            power = (x * x).sum((1, 2)) * (y * y).sum((1, 2))
            return (x * y).sum((1, 2)) / jnp.sqrt(jnp.maximum(power, 1e-12))

        # Along each axis in turn, twice: the peak of a correlation surface is nearly separable.
        offset = jnp.zeros(start.shape)
        for axis in (0, 1, 0, 1):
            unit = jnp.eye(2)[axis]
            line = jax.lax.map(lambda w, u=unit, o=offset: score(o * (1 - u) + w * u), weights)
            top = jnp.clip(line.argmax(0), 1, len(weights) - 2)
            left, centre, right = (
                jnp.take_along_axis(line, (top + k)[None], axis=0)[0] for k in (-1, 0, 1)
            )
            bend = jnp.minimum(left - 2 * centre + right, -1e-9)
            peak = weights[top] + _FINE_PX * jnp.clip(0.5 * (left - right) / bend, -1.0, 1.0)
            offset = offset * (1 - unit) + peak[:, None] * unit
        shift = jnp.where(known[:, None], start + offset, jnp.nan)
        return shift, jnp.where(known, score(offset), jnp.nan)

    displacement, quality = windows.over_nodes(at, shape, step)
    displacement = windows.to_pixels(displacement, shape, step)
    return displacement, windows.to_pixels(quality[..., None], shape, step)[..., 0]
