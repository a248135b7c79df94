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


def _fine_taps() -> np.ndarray:
    """Filter in steps of half a pixel, out to `_FINE_REACH`: windowed sinc, then spline inverse."""
    offset = np.arange(-2 * _SINC_REACH, 2 * _SINC_REACH + 1) / 2
    sinc = np.sinc(offset) * np.kaiser(len(offset), _KAISER)
    sinc[1::2] /= sinc[1::2].sum()  # a constant stays one
    inverse = np.sqrt(3.0) * _POLE ** np.abs(np.arange(-_REACH, _REACH + 1))
    whole = np.convolve(sinc, inverse)
    middle = len(whole) // 2
    return whole[middle - 2 * _FINE_REACH : middle + 2 * _FINE_REACH + 1]


def fine_coefficients(image: jax.Array) -> jax.Array:
    """Returns cubic B-spline coefficients at every half pixel, mirrored at the edges.

    Args:
      image: `(..., H, W)` finite, H and W of 11 or more.

    Returns:
      `(..., 2 H - 1, 2 W - 1)` coefficients of the image at twice the sampling; `sample` them with
      `nodes_per_px=FINE`.
    """
    if min(image.shape[-2:]) <= _FINE_REACH:
        raise ValueError(
            f"fine_coefficients needs at least {_FINE_REACH + 1} rows and columns, "
            f"got {image.shape[-2:]}; pad the image first."
        )
    taps = _fine_taps()
    for axis in (image.ndim - 2, image.ndim - 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (_FINE_REACH, _FINE_REACH)
        padded = jnp.pad(image, pad, mode="reflect")
        size = image.shape[axis]

        def filtered(own, first, padded=padded, size=size, axis=axis):
            return sum(
                np.float32(tap) * jax.lax.slice_in_dim(padded, k, k + size, axis=axis)
                for k, tap in enumerate(own, first)
            )

        # On a pixel and half a pixel after it: the even and the odd taps.
        both = jnp.stack([filtered(taps[::2], 0), filtered(taps[1::2], 1)], axis=axis + 1)
        shape = [*image.shape[:axis], 2 * size, *image.shape[axis + 1 :]]
        image = jax.lax.slice_in_dim(both.reshape(shape), 0, 2 * size - 1, axis=axis)
    return image


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


def warp(image: jax.Array, displacement: jax.Array) -> jax.Array:
    """Returns `image` moved by a displacement given in backward form, out(x) = image(x - u(x)).

    Args:
      image: `(H, W)` finite.
      displacement: `(H, W, 2)` or `(2,)`, pixels, (row, col), on the grid of the *result*.

    Returns:
      `(H, W)` moved image.
    """
    positions = grid(*image.shape) - displacement
    return sample(bspline_coefficients(image), positions)
