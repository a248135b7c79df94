"""Zero-normalised cross-correlation with a sub-pixel peak, dense.

The correlation coefficient of two windows at a shift is a quotient of window sums, and a window
sum over a whole image is one box filter whatever the window's size (Lewis 1995, "Fast normalized
cross-correlation"). From the whole-pixel peak, Gauss-Newton steps go on to least squares between
the normalised windows, with the gradient of the earlier one (Pan et al. 2013, Exp. Mech. 53,
"Fast, robust and accurate digital image correlation without redundant computations", after Baker &
Matthews 2004). The later image is interpolated by cubic B-spline. A peak fitted to the correlation
surface itself is drawn to half pixels, where interpolation has smoothed the noise.
"""

import functools

import jax
import jax.numpy as jnp

from displacement.correlators import windows
from displacement.normalise import normalise
from displacement.warp import bspline_coefficients, grid, sample, sample_with_gradient

_ITERATIONS = 10  # of Gauss-Newton; about 4 suffice where there is little noise


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


def _prepared(pair: jax.Array) -> jax.Array:
    """The pair as the networks see it too: local mean and contrast taken out; NaN stays.

    Without it, light that changed over tens of pixels rules a correlation of windows as wide; local
    normalisation (Wallis filter) before matching is common practice.
    """
    pair = jax.vmap(windows.without_specks, -1, -1)(pair)
    known = jnp.isfinite(pair)
    count = jnp.maximum(known.sum((0, 1)), 1)
    pair = pair - jnp.where(known, pair, 0.0).sum((0, 1)) / count
    spread = jnp.sqrt(jnp.where(known, pair**2, 0.0).sum((0, 1)) / count) + 1e-12
    normalised, _ = normalise((pair / spread)[None])
    return jnp.where(known, normalised[0], jnp.nan)


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
    pair = _prepared(pair)
    known = jnp.isfinite(pair)
    earlier, later = jnp.moveaxis(jnp.where(known, pair, 0.0), -1, 0)
    earlier_valid, later_valid = jnp.moveaxis(known.astype(jnp.float32), -1, 0)
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
    whole = jnp.where((jnp.abs(whole) < search).all(-1, keepdims=True), whole, jnp.nan)
    spline = bspline_coefficients(later)
    _, slopes = sample_with_gradient(bspline_coefficients(earlier), grid(*shape))
    images = (earlier, slopes, earlier_valid, spline, later_valid)
    at = functools.partial(_refine, images, whole, window)
    displacement, quality = windows.over_nodes(at, shape, step)
    displacement = windows.to_pixels(displacement, shape, step)
    return displacement, windows.to_pixels(quality[..., None], shape, step)[..., 0]


def _refine(images, whole, window, centres):
    """Displacement `(N, 2)` and quality `(N,)` of the windows about `centres` `(N, 2)`."""
    earlier, slopes, earlier_valid, spline, later_valid = images
    start = whole[centres[:, 0], centres[:, 1]]
    known = jnp.isfinite(start).all(-1)
    start = jnp.where(known[:, None], start, 0.0)
    cut = functools.partial(windows.extract, window=window)
    valid = cut(earlier_valid, centres) * cut(later_valid, centres + start.astype(jnp.int32)) > 0

    def normalised(values):
        values = windows.centred(values, valid)
        return values / jnp.sqrt((values**2).sum((1, 2), keepdims=True) + 1e-12)

    first = cut(earlier, centres)
    gradient = jnp.stack(
        [windows.centred(cut(slope, centres), valid) for slope in jnp.moveaxis(slopes, -1, 0)],
        axis=-1,
    )
    size = jnp.sqrt((windows.centred(first, valid) ** 2).sum((1, 2)) + 1e-12)
    gradient = gradient / size[:, None, None, None]
    first = normalised(first)
    moment = jnp.einsum("nhwc,nhwd->ncd", gradient, gradient) + 1e-6 * jnp.eye(2)
    patch = grid(window, window) - window // 2 + centres[:, None, None] + start[:, None, None]

    def fit(_, state):
        offset, _ = state
        second = normalised(sample(spline, patch + offset[:, None, None]))
        right = jnp.einsum("nhwc,nhw->nc", gradient, first - second)
        step = jnp.linalg.solve(moment, right[..., None])[..., 0]
        quality = (first * second).sum((1, 2))
        return jnp.clip(offset + jnp.clip(step, -0.5, 0.5), -1.0, 1.0), quality

    offset, quality = jax.lax.fori_loop(
        0, _ITERATIONS, fit, (jnp.zeros(start.shape), jnp.zeros(start.shape[0]))
    )
    shift = jnp.where(known[:, None], start + offset, jnp.nan)
    return shift, jnp.where(known, quality, jnp.nan)
