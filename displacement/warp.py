"""Cubic B-spline interpolation: the one place where images are resampled.

An image is turned into B-spline coefficients once (`bspline_coefficients`), and these are sampled
at any position (`sample`). Linear interpolation would smooth by an amount that depends on the
sub-pixel phase and teach a network that bias; the cubic spline is a hundred times closer to a
band-limited shift (Unser 1999, "Splines: a perfect fit for signal and image processing").

Where a displacement is measured to hundredths of a pixel, even the cubic spline is not enough: what
it does to detail of two to three pixels draws every estimate towards half a pixel, by 0.01 px on
real scenes. `fine_coefficients` therefore doubles the sampling first, by a windowed sinc; at twice
the sampling that detail is coarse, and a look-up costs the same.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Pole of the cubic B-spline's inverse filter; its powers fall under float32 resolution at 12 taps.
_POLE = np.sqrt(3.0) - 2.0
_REACH = 12
# The windowed sinc that doubles the sampling: its reach [px] and the Kaiser window's shape. Up to
# 0.8 of the Nyquist frequency it is off by less than 2 %, where the cubic spline is off by 25 %.
_SINC_REACH = 8
_KAISER = 4.5
_FINE_REACH = 10  # px, of the sinc and the inverse of the spline together
FINE = 2  # nodes per pixel of `fine_coefficients`
QUICK = 4  # nodes per pixel of `quick_values`
_END = 1e-2  # of a node


def bspline_coefficients(image: jax.Array) -> jax.Array:
    """Returns the cubic B-spline coefficients that interpolate `image`, mirrored at its edges.

    Args:
      image: `(..., H, W)` finite, H and W of 13 or more.

    Returns:
      `(..., H, W)` coefficients; `scipy.ndimage.spline_filter(order=3, mode="mirror")`.
    """
    if min(image.shape[-2:]) <= _REACH:
        raise ValueError(
            f"bspline_coefficients needs at least {_REACH + 1} rows and columns, "
            f"got {image.shape[-2:]}; pad the image first."
        )
    # Inverse of [1 4 1] / 6: h[k] = sqrt(3) * pole^|k|, applied along each axis.
    taps = np.sqrt(3.0) * _POLE ** np.abs(np.arange(-_REACH, _REACH + 1))
    for axis in (-2, -1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (_REACH, _REACH)
        padded = jnp.pad(image, pad, mode="reflect")
        size = image.shape[axis]
        image = sum(
            np.float32(tap) * jax.lax.slice_in_dim(padded, k, k + size, axis=axis % image.ndim)
            for k, tap in enumerate(taps)
        )
    return image


def _sinc_taps(nodes_per_px: int) -> np.ndarray:
    """Windowed sinc in steps of `1 / nodes_per_px`, out to `_SINC_REACH` px."""
    count = nodes_per_px * _SINC_REACH
    taps = np.sinc(np.arange(-count, count + 1) / nodes_per_px)
    taps *= np.kaiser(len(taps), _KAISER)
    taps[np.abs(taps) < 1e-12] = 0.0  # on the pixels: a filter of 0 need not be computed
    for phase in range(1, nodes_per_px):
        taps[phase::nodes_per_px] /= taps[phase::nodes_per_px].sum()  # a constant stays one
    return taps


def _resampled(image: jax.Array, taps: np.ndarray, *, nodes_per_px: int, name: str) -> jax.Array:
    """Filters `(..., H, W)`, mirrored at its edges, to `nodes_per_px` nodes for every pixel.

    Args:
      image: `(..., H, W)` finite.
      taps: of a symmetric filter, in steps of `1 / nodes_per_px`.
      nodes_per_px: N.
      name: of the caller, for the error.

    Returns:
      `(..., N (H - 1) + 1, N (W - 1) + 1)`.
    """
    reach = len(taps) // 2 // nodes_per_px
    if min(image.shape[-2:]) <= reach:
        raise ValueError(
            f"{name} needs at least {reach + 1} rows and columns, got {image.shape[-2:]}; "
            "pad the image first."
        )
    # On a pixel, and 1, 2, ... nodes after it.
    phases = [taps[::nodes_per_px]]
    phases += [taps[nodes_per_px - phase :: nodes_per_px] for phase in range(1, nodes_per_px)]
    for axis in (image.ndim - 2, image.ndim - 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (reach, reach)
        padded = jnp.pad(image, pad, mode="reflect")
        size = image.shape[axis]

        def filtered(own, first, padded=padded, size=size, axis=axis):
            return sum(
                np.float32(tap) * jax.lax.slice_in_dim(padded, k, k + size, axis=axis)
                for k, tap in enumerate(own, first)
                if tap
            )

        layers = [filtered(own, int(phase > 0)) for phase, own in enumerate(phases)]
        shape = [*image.shape[:axis], nodes_per_px * size, *image.shape[axis + 1 :]]
        image = jnp.stack(layers, axis=axis + 1).reshape(shape)
        image = jax.lax.slice_in_dim(image, 0, nodes_per_px * (size - 1) + 1, axis=axis)
    return image


def fine_coefficients(image: jax.Array) -> jax.Array:
    """Returns cubic B-spline coefficients at every half pixel, mirrored at the edges.

    Args:
      image: `(..., H, W)` finite, H and W of 11 or more.

    Returns:
      `(..., 2 H - 1, 2 W - 1)` coefficients of the image at twice the sampling; `sample` them with
      `nodes_per_px=FINE`.
    """
    # Windowed sinc, then the spline's inverse, in steps of half a pixel.
    inverse = np.sqrt(3.0) * _POLE ** np.abs(np.arange(-_REACH, _REACH + 1))
    taps = np.convolve(_sinc_taps(FINE), inverse)
    middle = len(taps) // 2
    taps = taps[middle - FINE * _FINE_REACH : middle + FINE * _FINE_REACH + 1]
    return _resampled(image, taps, nodes_per_px=FINE, name="fine_coefficients")


def quick_values(image: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Returns the image at every quarter of a pixel, for `sample_quickly`, mirrored at the edges.

    Args:
      image: `(..., H, W)` finite, H and W of 9 or more.
      valid: `(..., H, W)` float; without, all of it is.

    Returns:
      `(..., 4 H - 3, 4 W - 3)`, NaN where the nearest pixel is not valid.
    """
    values = _resampled(image, _sinc_taps(QUICK), nodes_per_px=QUICK, name="quick_values")
    if valid is None:
        return values
    for axis in (values.ndim - 2, values.ndim - 1):
        valid = valid.repeat(QUICK, axis=axis)
        first = QUICK // 2
        valid = jax.lax.slice_in_dim(valid, first, first + values.shape[axis], axis=axis)
    return jnp.where(valid > 0, values, jnp.nan)


def quick_gradient(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the derivatives of `(..., H, W)` by row and by col, same shape, per px.

    As `sample_quickly_with_gradient` has them on average: differences between values a quarter of a
    pixel before and after, mirrored at the edges.
    """
    taps = _sinc_taps(QUICK)
    # Of the pixel k before or after: its part in the value after, less that in the value before.
    taps = 0.5 * QUICK * (taps[QUICK - 1 :: QUICK][:-1] - taps[1::QUICK][1:])
    reach = len(taps) // 2
    found = []
    for axis in (image.ndim - 2, image.ndim - 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (reach, reach)
        padded = jnp.pad(image, pad, mode="reflect")
        size = image.shape[axis]
        found.append(
            sum(
                np.float32(tap) * jax.lax.slice_in_dim(padded, k, k + size, axis=axis)
                for k, tap in enumerate(taps)
            )
        )
    return tuple(found)


def sample_quickly(values: jax.Array, rows: jax.Array, cols: jax.Array) -> jax.Array:
    """Returns bilinear interpolation between quarters of a pixel.

    A quarter of the reads of `sample`, for where images are compared and not measured: detail of
    three pixels comes out up to 3 % too small.

    Args:
      values: `(B, 4 H - 3, 4 W - 3)` from `quick_values`; NaN where unknown.
      rows: `(..., B, h, w)` px, positions in each image.
      cols: likewise.

    Returns:
      `(..., B, h, w)` values, NaN beside what is unknown and more than half a pixel outside.
    """
    return sample_quickly_with_gradient(values, rows, cols)[0]


def sample_quickly_with_gradient(
    values: jax.Array, rows: jax.Array, cols: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns `sample_quickly` and its derivatives by row and by col [per px], of the same shape.

    The derivatives are differences over a quarter of a pixel, NaN beside what is unknown; further
    outside than the value is known they are those at the edge.
    """
    batch, height, width = values.shape
    half = QUICK / 2
    row, col = QUICK * rows, QUICK * cols
    inside = (
        (row >= -half) & (row <= height - 1 + half) & (col >= -half) & (col <= width - 1 + half)
    )
    # Cut off, not floor: nothing is below 0. The last cell ends a little before the last node.
    row, col = jnp.clip(row, 0.0, height - 1.0 - _END), jnp.clip(col, 0.0, width - 1.0 - _END)
    whole_row, whole_col = row.astype(jnp.int32), col.astype(jnp.int32)
    row, col = row - whole_row.astype(row.dtype), col - whole_col.astype(col.dtype)
    # One flat array for the whole batch: XLA's CPU code is slow where each image has its own.
    image = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    first = (image * height + whole_row) * width + whole_col
    flat = jnp.ravel(values)
    # Each read once, by name: written out twice, XLA's CPU code reads and indexes twice.
    corners = (0, 1, width, width + 1)
    one, two, three, four = (flat.at[first + k].get(mode="promise_in_bounds") for k in corners)
    above = one + col * (two - one)
    below = three + col * (four - three)
    by_row = QUICK * (below - above)
    by_col = QUICK * ((two - one) + row * (four - three - (two - one)))
    value = jnp.where(inside, above + row * (below - above), jnp.nan)
    return value, by_row, by_col


def _weights(fraction: jax.Array) -> list[jax.Array]:
    """The four cubic B-spline weights of nodes -1, 0, 1, 2 at `fraction` in [0, 1)."""
    t, s = fraction, 1.0 - fraction
    return [
        s**3 / 6.0,
        (4.0 - 6.0 * t**2 + 3.0 * t**3) / 6.0,
        (4.0 - 6.0 * s**2 + 3.0 * s**3) / 6.0,
        t**3 / 6.0,
    ]


def _slopes(fraction: jax.Array) -> list[jax.Array]:
    """Derivatives of the four weights by `fraction`."""
    t, s = fraction, 1.0 - fraction
    return [-0.5 * s**2, -2.0 * t + 1.5 * t**2, 2.0 * s - 1.5 * s**2, 0.5 * t**2]


def _neighbourhood(coefficients: jax.Array, positions: jax.Array):
    """Fraction `(..., 2)` within the cell, and a function that gathers coefficient (i, j) of 16."""
    height, width = coefficients.shape
    base = jnp.floor(positions)
    fraction = positions - base
    base = base.astype(jnp.int32)

    def mirrored(index, size):
        index = jnp.abs(index) % (2 * size - 2)
        return jnp.minimum(index, 2 * size - 2 - index)

    rows = [mirrored(base[..., 0] + k, height) * width for k in (-1, 0, 1, 2)]
    cols = [mirrored(base[..., 1] + k, width) for k in (-1, 0, 1, 2)]
    flat = coefficients.reshape(-1)
    return fraction, lambda i, j: flat.at[rows[i] + cols[j]].get(mode="promise_in_bounds")


def sample(coefficients: jax.Array, positions: jax.Array, *, nodes_per_px: int = 1) -> jax.Array:
    """Returns the spline's values at `positions`.

    Args:
      coefficients: `(H, W)` from `bspline_coefficients`, or from `fine_coefficients`.
      positions: `(..., 2)` (row, col) in pixels, centres at integers; beyond the edges the image
        is mirrored about its outermost pixels.
      nodes_per_px: `FINE` for those of `fine_coefficients`.

    Returns:
      `(...)` interpolated values.
    """
    fraction, at = _neighbourhood(coefficients, nodes_per_px * positions)
    row_weights, col_weights = _weights(fraction[..., 0]), _weights(fraction[..., 1])
    return sum(row_weights[i] * sum(col_weights[j] * at(i, j) for j in range(4)) for i in range(4))


def sample_with_gradient(
    coefficients: jax.Array, positions: jax.Array, *, nodes_per_px: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Returns the spline's values `(...)` at `positions` and its gradient `(..., 2)` per pixel.

    Arguments as for `sample`.
    """
    fraction, at = _neighbourhood(coefficients, nodes_per_px * positions)
    row_weights, col_weights = _weights(fraction[..., 0]), _weights(fraction[..., 1])
    row_slopes, col_slopes = _slopes(fraction[..., 0]), _slopes(fraction[..., 1])
    value = by_row = by_col = 0.0
    for i in range(4):
        taps = [at(i, j) for j in range(4)]
        line = sum(w * tap for w, tap in zip(col_weights, taps, strict=True))
        slope = sum(w * tap for w, tap in zip(col_slopes, taps, strict=True))
        value = value + row_weights[i] * line
        by_row = by_row + row_slopes[i] * line
        by_col = by_col + row_weights[i] * slope
    return value, nodes_per_px * jnp.stack([by_row, by_col], axis=-1)


def grid(height: int, width: int) -> jax.Array:
    """Returns the pixel positions `(height, width, 2)`, (row, col), float32."""
    rows, cols = jnp.meshgrid(
        jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32), indexing="ij"
    )
    return jnp.stack([rows, cols], axis=-1)
