"""What the correlators share: nodes, windows around them, and maps from nodes to pixels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from displacement.normalise import DETAIL_PX, normalise

SMALLEST_SHARE = 0.6  # of a window that must be valid in both images
_BATCH = 2048  # windows held at once; bounds memory, and fills a device well


def nodes(size: int, step: int) -> jax.Array:
    """Pixels `(n,)` at which windows are centred along an axis: every `step`-th from the first."""
    return jnp.arange(0, size, step)


def extract(image: jax.Array, centres: jax.Array, *, window: int) -> jax.Array:
    """Cuts windows that are centred at index `window // 2`.

    Args:
      image: `(H, W)`; beyond its edges there is NaN.
      centres: `(N, 2)` int, (row, col).
      window: height and width.

    Returns:
      `(N, window, window)`.
    """
    height, width = image.shape
    reach = jnp.arange(window) - window // 2
    rows = centres[:, 0, None] + reach
    cols = centres[:, 1, None] + reach
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((cols >= 0) & (cols < width))[:, None]
    rows, cols = jnp.clip(rows, 0, height - 1), jnp.clip(cols, 0, width - 1)
    return jnp.where(inside, image[rows[:, :, None], cols[:, None, :]], jnp.nan)


def without_specks(image: jax.Array) -> jax.Array:
    """`(H, W)` with single invalid pixels filled from their neighbours, so as to lose no window."""
    valid = jnp.isfinite(image)

    def around(values):
        return jax.lax.reduce_window(values, 0.0, jax.lax.add, (3, 3), (1, 1), "SAME")

    count = around(valid.astype(jnp.float32))
    mean = around(jnp.where(valid, image, 0.0)) / jnp.maximum(count, 1.0)
    return jnp.where(~valid & (count > 4.5), mean, image)


def prepared(pair: jax.Array) -> jax.Array:
    """A pair `(H, W, 2)` as the networks see it too: local mean and contrast out; NaN stays.

    Without it, light that changed over tens of pixels rules a correlation of windows as wide; local
    normalisation (Wallis filter) before matching is common practice.
    """
    pair = jax.vmap(without_specks, -1, -1)(pair)
    known = jnp.isfinite(pair)
    count = jnp.maximum(known.sum((0, 1)), 1)
    pair = pair - jnp.where(known, pair, 0.0).sum((0, 1)) / count
    spread = jnp.sqrt(jnp.where(known, pair**2, 0.0).sum((0, 1)) / count) + 1e-12
    normalised, _ = normalise((pair / spread)[None], mean_px=DETAIL_PX)
    return jnp.where(known, normalised[0], jnp.nan)


def centred(windows: jax.Array, valid: jax.Array) -> jax.Array:
    """Each window less its mean over `valid`, and 0 where not valid."""
    count = jnp.maximum(valid.sum((-2, -1), keepdims=True), 1)
    filled = jnp.where(valid, windows, 0.0)
    return jnp.where(valid, filled - filled.sum((-2, -1), keepdims=True) / count, 0.0)


def over_nodes(
    function: Callable[..., tuple[jax.Array, ...]],
    shape: tuple[int, int],
    step: int,
    *fields: jax.Array,
) -> tuple[jax.Array, ...]:
    """Applies `function` to batches of nodes.

    Args:
      function: `(N, 2)` int centres, and `(N, ...)` of each field, to any arrays `(N, ...)`.
      shape: (H, W) of the image.
      step: spacing of the nodes in pixels.
      *fields: `(h, w, ...)`, what is known at the nodes already.

    Returns:
      what the function returns, `(h, w, ...)` at the nodes.
    """
    rows, cols = nodes(shape[0], step), nodes(shape[1], step)
    centres = jnp.stack(jnp.meshgrid(rows, cols, indexing="ij"), axis=-1)
    count = len(rows) * len(cols)
    batch = min(_BATCH, count)

    def batches(field):
        flat = field.reshape(count, *field.shape[2:])
        padding = [(0, -count % batch)] + [(0, 0)] * (flat.ndim - 1)
        return jnp.pad(flat, padding).reshape(-1, batch, *flat.shape[1:])

    found = jax.lax.map(lambda x: function(*x), tuple(map(batches, (centres, *fields))))
    return tuple(
        x.reshape(-1, *x.shape[2:])[:count].reshape(len(rows), len(cols), *x.shape[2:])
        for x in found
    )


def to_pixels(field: jax.Array, shape: tuple[int, int], step: int) -> jax.Array:
    """Bilinear interpolation of a field known at the nodes to every pixel.

    Args:
      field: `(h, w, C)` at the nodes; NaN stays NaN around it.
      shape: (H, W).
      step: spacing of the nodes in pixels.

    Returns:
      `(H, W, C)`; beyond the last node its value is held.
    """
    if step == 1:
        return field
    for axis in (0, 1):
        position = jnp.minimum(jnp.arange(shape[axis]) / step, field.shape[axis] - 1)
        base = jnp.floor(position).astype(jnp.int32)
        after = jnp.minimum(base + 1, field.shape[axis] - 1)
        share = (position - base).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        left, right = jnp.take(field, base, axis), jnp.take(field, after, axis)
        # A node itself must not inherit NaN from a neighbour of zero weight.
        field = jnp.where(share > 0, left * (1 - share) + right * share, left)
    return field
