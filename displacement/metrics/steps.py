"""Steps that are not there: the largest one that the map of a pair without a fault shows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from displacement.metrics.errors import Errors

BLOCK_PX = 8  # a step is the difference of the means of two neighbouring blocks
_LEAST_SHARE = 0.75  # of a block that is measured


class Steps(NamedTuple):
    """Sums over the pairs without a fault; add two to merge them.

    Attributes:
      pairs: how many.
      scatter: of the rms error of a component, px.
      largest: of the largest step in the error, px.
      in_sigmas: of the largest step in units of the sigma that the map states for it.
      stated: pairs that have a sigma.
    """

    pairs: jax.Array
    scatter: jax.Array
    largest: jax.Array
    in_sigmas: jax.Array
    stated: jax.Array


def _blocks(values: jax.Array) -> jax.Array:
    """Means `(B, H', W', C)` of blocks of `(B, H, W, C)`; what is left over is cut off."""
    batch, height, width, channels = values.shape
    rows, cols = height // BLOCK_PX, width // BLOCK_PX
    cut = values[:, : rows * BLOCK_PX, : cols * BLOCK_PX]
    return cut.reshape(batch, rows, BLOCK_PX, cols, BLOCK_PX, channels).mean((2, 4))


def _largest(block: jax.Array, sigma: jax.Array, ok: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Largest step `(B,)` between neighbours, and the largest in units of its sigma."""
    steps, ratios = [], []
    for axis in (1, 2):
        size = block.shape[axis]

        def pair(values, axis=axis, size=size):
            return (
                jax.lax.slice_in_dim(values, 1, size, axis=axis),
                jax.lax.slice_in_dim(values, 0, size - 1, axis=axis),
            )

        (one, other), (s, t), (here, there) = pair(block), pair(sigma), pair(ok)
        step = jnp.where(here & there, jnp.abs(one - other), 0.0)
        steps.append(step.max((1, 2, 3)))
        ratio = step / jnp.sqrt(s**2 + t**2 + 1e-12)
        ratios.append(jnp.nan_to_num(ratio).max((1, 2, 3)))  # a sigma may be missing
    return jnp.maximum(*steps), jnp.maximum(*ratios)


def measure(e: Errors) -> Steps:
    """Sums over the pairs of a batch that have no fault."""
    calm = ~jnp.isfinite(e.distance).any((1, 2)) & e.known.any((1, 2))
    known = e.known[..., None].astype(jnp.float32)
    share = _blocks(known)
    block = _blocks(e.error * known) / jnp.maximum(share, 1e-6)
    stated = e.sigma is not None
    sigma = jnp.where(known > 0, e.sigma, 0.0) if stated else jnp.zeros_like(e.error)
    # A block's mean may be as wrong as its pixels: their errors are not independent.
    sigma = _blocks(sigma) / jnp.maximum(share, 1e-6)
    largest, ratio = _largest(block, sigma, share > _LEAST_SHARE)
    scatter = jnp.sqrt((e.error**2).sum((1, 2, 3)) / jnp.maximum(2.0 * known.sum((1, 2, 3)), 1.0))
    weight = calm.astype(jnp.float32)
    return Steps(
        pairs=weight.sum(),
        scatter=(weight * scatter).sum(),
        largest=(weight * largest).sum(),
        in_sigmas=(weight * ratio).sum() * stated,
        stated=weight.sum() * stated,
    )


def summarise(m: Steps) -> dict[str, float]:
    """Means over pairs: rms error [px], largest false step [px], the same in its stated sigmas."""
    nan = float("nan")
    pairs, stated = float(m.pairs), float(m.stated)
    return {
        "scatter_px": float(m.scatter) / pairs if pairs else nan,
        "false_step_px": float(m.largest) / pairs if pairs else nan,
        "false_step_sigmas": float(m.in_sigmas) / stated if stated else nan,
        "pairs": int(pairs),
    }
