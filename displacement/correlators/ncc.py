"""Zero-normalised cross-correlation with a sub-pixel peak, dense or regularised.

The correlation coefficient of two windows at a shift is a quotient of window sums, and a window
sum over a whole image is one box filter whatever the window's size (Lewis 1995, "Fast normalized
cross-correlation"). From the whole-pixel peak, Gauss-Newton steps go on to least squares between
the normalised windows, with the gradient of the earlier one (Pan et al. 2013, Exp. Mech. 53,
"Fast, robust and accurate digital image correlation without redundant computations", after Baker &
Matthews 2004). The later image is interpolated at twice its sampling (`fine_coefficients`). A peak
fitted to the correlation surface itself is drawn to half pixels, where interpolation has smoothed
the noise.

Regularised, windows of 5 to 9 px suffice, as in MicMac's practice: whole pixels and then ever finer
parts of them are chosen by semi-global aggregation (`displacement.correlators.aggregation`). What a
window with correlation r says is weighed by its likelihood: under noise, minus the logarithm of it
is log(1 - r^2) / 2 per pixel, but for a constant (the variance left by a linear regression).
"""

import functools
import math

import jax
import jax.numpy as jnp

from displacement.correlators import aggregation, windows
from displacement.warp import FINE, fine_coefficients, grid, sample, sample_with_gradient

_ITERATIONS = 10  # of Gauss-Newton; about 4 suffice where there is little noise

# Of the regularised field: (spacing of the displacements to choose from [px], how many either way).
_FINER = ((1 / 4, 4), (1 / 16, 3), (1 / 64, 3))
_LARGEST_WHOLE_PX, _LARGEST_PX = 2.0, 0.5  # a larger step between neighbours costs no more
_FLOOR = 0.003  # of 1 - r^2: interpolation alone costs as much, however good the images
_LEAST_CORRELATION = 0.3  # below, a regularised displacement is its neighbours' word alone


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


def _shift_rows_cols(image: jax.Array, shift: jax.Array) -> jax.Array:
    """image(p + shift) for a whole-pixel shift `(2,)`, 0 beyond the edges."""
    height, width = image.shape
    rows = jnp.arange(height)[:, None] + shift[0]
    cols = jnp.arange(width)[None, :] + shift[1]
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    return jnp.where(
        inside, image[jnp.clip(rows, 0, height - 1), jnp.clip(cols, 0, width - 1)], 0.0
    )


@functools.partial(jax.jit, static_argnames=("window", "step", "search", "regularisation"))
def ncc(
    pair: jax.Array,
    *,
    window: int = 31,
    step: int = 4,
    search: int = 4,
    regularisation: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Measures a pair by zero-normalised cross-correlation.

    Args:
      pair: `(H, W, 2)` earlier and later image, NaN invalid.
      window: odd height and width of the windows in px, 3 or more.
      step: spacing of the windows in px; 1 is dense.
      search: largest whole-pixel shift looked at along either axis; what lies nearest to it counts
        as not found, so the reach is half a pixel less.
      regularisation: cost of a displacement that changes by 1 px from one pixel to the next, in
        units of the log-likelihood of one pixel; 0 is none, 4 suits windows of 5 to 9 px.

    Returns:
      displacement `(H, W, 2)` px, (row, col), later minus earlier, NaN where too little is valid
      or the best shift lies on the border of the search, and quality `(H, W)`, the correlation
      coefficient at that displacement. Regularised, NaN also where this is under 0.3.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"ncc needs an odd window of 3 px or more, got {window}.")
    if search < 1:
        raise ValueError(f"ncc needs a search of 1 px or more, got {search}.")
    if not 0 <= regularisation < math.inf:
        raise ValueError(
            f"ncc needs a regularisation of 0 (none) or more, got {regularisation}; try 4."
        )
    pair = windows.prepared(pair)
    known = jnp.isfinite(pair)
    earlier, later = jnp.moveaxis(jnp.where(known, pair, 0.0), -1, 0)
    earlier_valid, later_valid = jnp.moveaxis(known.astype(jnp.float32), -1, 0)
    side = 2 * search + 1

    def score(index):
        shift = jnp.stack([index // side, index % side]) - search
        moved = (_shift_rows_cols(image, shift) for image in (later, later_valid))
        found = _coefficient(earlier, earlier_valid, *moved, window)[::step, ::step]
        return shift.astype(jnp.float32), found

    shape = earlier.shape
    spline, still = fine_coefficients(later), fine_coefficients(earlier)
    _, slopes = sample_with_gradient(still, grid(*shape), nodes_per_px=FINE)
    images = (earlier, slopes, earlier_valid, spline, later_valid)
    refine = functools.partial(_refine, images, window)
    correlate = functools.partial(_correlate, images, window)
    if regularisation:
        penalty = regularisation / step  # as much work on a coarse grid of nodes as on a fine one
        whole, seen = _regularised_whole(score, side, penalty)
        start = jnp.where(seen[..., None], whole, jnp.nan)
        peak = windows.over_nodes(refine, shape, step, start)
        displacement = _regularised(whole, *peak, penalty)
        (quality,) = windows.over_nodes(correlate, shape, step, displacement)
        told = quality >= _LEAST_CORRELATION
        displacement = jnp.where(told[..., None], displacement, jnp.nan)
        quality = jnp.where(told, quality, jnp.nan)
    else:
        start = _best_whole(score, side)
        displacement, quality, _ = windows.over_nodes(refine, shape, step, start)
    displacement = windows.to_pixels(displacement, shape, step)
    return displacement, windows.to_pixels(quality[..., None], shape, step)[..., 0]


def _within(whole: jax.Array, side: int) -> jax.Array:
    """Where the whole-pixel shifts `(h, w, 2)` do not lie on the border of the search."""
    return (jnp.abs(whole) < side // 2).all(-1)


def _best_whole(score, side: int) -> jax.Array:
    """Shift `(h, w, 2)` [px] of greatest correlation at the nodes, NaN where there is none."""

    def scan(best, index):
        shift, found = score(index)
        better = found > best[0]
        shift = jnp.where(better[..., None], shift, best[1])
        return (jnp.where(better, found, best[0]), shift), None

    shape = jax.eval_shape(score, 0)[1].shape
    start = jnp.full(shape, -1.0), jnp.full((*shape, 2), jnp.nan)
    (_, whole), _ = jax.lax.scan(scan, start, jnp.arange(side * side))
    return jnp.where(_within(whole, side)[..., None], whole, jnp.nan)


def _unlikeliness(correlation: jax.Array) -> jax.Array:
    """Minus the log-likelihood per pixel, but for a constant; what is turned over tells nothing."""
    return 0.5 * jnp.log(1.0 + _FLOOR - jnp.clip(correlation, 0.0, 1.0) ** 2)


def _regularised_whole(score, side: int, penalty: float) -> tuple[jax.Array, jax.Array]:
    """Whole-pixel shift `(h, w, 2)` at the nodes, and where `(h, w)` its windows say anything."""
    _, scores = jax.lax.map(score, jnp.arange(side * side))
    height, width = scores.shape[1:]
    volume = jnp.moveaxis(scores, 0, -1).reshape(height, width, side, side)
    whole = aggregation.choose(
        _unlikeliness(volume),
        jnp.zeros((height, width, 2)),
        jnp.arange(-(side // 2), side // 2 + 1.0),
        penalty=penalty,
        largest=_LARGEST_WHOLE_PX,
    )
    place = whole.astype(jnp.int32) + side // 2
    index = place[..., 0] * side + place[..., 1]
    chosen = jnp.take_along_axis(scores, index[None], axis=0)[0]
    return whole, (chosen > -1.0) & _within(whole, side)


def _regularised(whole, peak, quality, moment, penalty):
    """Displacement `(h, w, 2)` px, NaN where no peak is known.

    Args:
      whole: `(h, w, 2)` regularised whole-pixel shifts.
      peak: `(h, w, 2)` px, the windows' own displacements, NaN where there is none.
      quality: `(h, w)` correlation at the peaks.
      moment: `(h, w, 2, 2)` per square px; off the peak by d, the correlation falls to
        quality (1 - d^T moment d / 2).
      penalty: cost of a step of 1 px between nodes.
    """
    known = jnp.isfinite(peak).all(-1)
    peak = jnp.where(known[..., None], peak, whole)
    found = whole
    for spacing, reach in _FINER:
        offsets = spacing * jnp.arange(-reach, reach + 1)
        rows, cols = ((found - peak)[..., axis, None] + offsets for axis in (0, 1))
        rows, cols = rows[..., :, None], cols[..., None, :]
        rr, rc, cc = (moment[..., i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
        fall = 0.5 * (rr * rows**2 + 2.0 * rc * rows * cols + cc * cols**2)
        cost = _unlikeliness(quality[..., None, None] * (1.0 - fall))
        found = aggregation.choose(
            jnp.where(known[..., None, None], cost, 0.0),
            found,
            offsets,
            penalty=penalty,
            largest=_LARGEST_PX,
            between=spacing == _FINER[-1][0],
        )
    return jnp.where(known[..., None], found, jnp.nan)


def _matched(images, window, centres, start):
    """Prepares to hold windows `(N, w, w)` about `centres` `(N, 2)` against the later image.

    Args:
      images: earlier image, its slopes and validity, the later one's spline and validity.
      window: size in px.
      centres: `(N, 2)` int.
      start: `(N, 2)` px, near the displacement; what is valid is decided there.

    Returns:
      the earlier windows, centred and of norm 1; their gradient `(N, w, w, 2)` likewise; and a
      function of displacements `(N, 2)` px that gives the later windows.
    """
    earlier, slopes, earlier_valid, spline, later_valid = images
    cut = functools.partial(windows.extract, window=window)
    near = centres + jnp.round(start).astype(jnp.int32)
    valid = cut(earlier_valid, centres) * cut(later_valid, near) > 0

    def normalised(values):
        values = windows.centred(values, valid)
        return values / jnp.sqrt((values**2).sum((1, 2), keepdims=True) + 1e-12)

    first = windows.centred(cut(earlier, centres), valid)
    size = jnp.sqrt((first**2).sum((1, 2)) + 1e-12)
    gradient = jnp.stack(
        [windows.centred(cut(slope, centres), valid) for slope in jnp.moveaxis(slopes, -1, 0)],
        axis=-1,
    )
    patch = grid(window, window) - window // 2 + centres[:, None, None]

    def later(displacement):
        return normalised(sample(spline, patch + displacement[:, None, None], nodes_per_px=FINE))

    return normalised(first), gradient / size[:, None, None, None], later


def _refine(images, window, centres, start):
    """Sub-pixel peaks near whole-pixel shifts.

    Args:
      images, window, centres: as for `_matched`.
      start: `(N, 2)` px, NaN where none is known.

    Returns:
      displacement `(N, 2)`, correlation `(N,)` and the moment `(N, 2, 2)` of the gradients of the
      earlier windows of norm 1, per square px.
    """
    known = jnp.isfinite(start).all(-1)
    start = jnp.where(known[:, None], start, 0.0)
    first, gradient, later = _matched(images, window, centres, start)
    moment = jnp.einsum("nhwc,nhwd->ncd", gradient, gradient) + 1e-6 * jnp.eye(2)

    def fit(_, state):
        offset, _ = state
        second = later(start + offset)
        right = jnp.einsum("nhwc,nhw->nc", gradient, first - second)
        step = jnp.linalg.solve(moment, right[..., None])[..., 0]
        quality = (first * second).sum((1, 2))
        return jnp.clip(offset + jnp.clip(step, -0.5, 0.5), -1.0, 1.0), quality

    offset, quality = jax.lax.fori_loop(
        0, _ITERATIONS, fit, (jnp.zeros(start.shape), jnp.zeros(start.shape[0]))
    )
    shift = jnp.where(known[:, None], start + offset, jnp.nan)
    return shift, jnp.where(known, quality, jnp.nan), moment


def _correlate(images, window, centres, displacement):
    """Correlation `(N,)` of windows at displacements `(N, 2)` px, NaN where there is none."""
    known = jnp.isfinite(displacement).all(-1)
    displacement = jnp.where(known[:, None], displacement, 0.0)
    first, _, later = _matched(images, window, centres, displacement)
    return (jnp.where(known, (first * later(displacement)).sum((1, 2)), jnp.nan),)
