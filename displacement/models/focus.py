"""Looks at a field again only where it has steps: far from any there is nothing to be gained.

The looks of `displacement.models.refinement` cost as much as all before them, and what they gain
lies within some pixels of a fault. So a large field is cut into blocks, and only those near a step
are looked at, each with a rim about it. What is found is faded out away from the steps, not at the
blocks' edges: where the blocks lie does not show.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from displacement.models.layers import doubled
from displacement.models.refinement import CLEAR_PX, Field, Refinement, above, look_again
from displacement.normalise import Normalised, gaussian_mean

_SIGMAS = 1.5  # a step is clear by so many of the sigmas about it ...
_ABOUT_PX = 12.0  # ... averaged over so much
_CELL_PX = 8  # of the map that says where to look; it falls to 0 over some three of them
_BLOCK_PX = 64
_RIM_PX = 16
_WINDOW_PX = _BLOCK_PX + 2 * _RIM_PX
LEAST_PX = 256  # of a field's sides; of smaller ones the blocks near a fault cost more than all


def near_steps(displacement: jax.Array, log_scale: jax.Array) -> jax.Array:
    """`(B, H, W)` from 1 at the steps of a field to 0 some 24 px off.

    Args:
      displacement: `(2, B, H, W)` px; H and W multiples of 8.
      log_scale: `(B, H, W, 2)` of its error.
    """
    steps = jnp.abs(above(displacement))
    sigma = jnp.exp(gaussian_mean(jnp.moveaxis(log_scale, -1, 0), sigma=_ABOUT_PX))
    step = (steps > CLEAR_PX + _SIGMAS * sigma).any(0).astype(jnp.float32)
    cell = nn.max_pool(step[..., None], (_CELL_PX, _CELL_PX), (_CELL_PX, _CELL_PX))
    near = nn.max_pool(cell, (3, 3), padding="SAME")
    near = nn.avg_pool(near, (3, 3), padding="SAME", count_include_pad=False)
    return doubled(doubled(doubled(near)))[..., 0]


def look_near_steps(
    refine: Refinement,
    images: Normalised,
    x: jax.Array,
    field: Field,
    *,
    looks: int,
) -> Field:
    """What `look_again` finds near the steps of a field, and the field elsewhere.

    Args are those of `look_again`; H and W are multiples of 8.
    """
    height, width = x.shape[1:3]
    near = near_steps(*field)

    def better(refine, images, x, near, field):
        (found, scale), _ = look_again(refine, images, x, field, looks=looks)
        return field[0] + near * (found - field[0]), field[1] + near[..., None] * (scale - field[1])

    if min(height, width) < LEAST_PX:
        return better(refine, images, x, near, field)

    rows, cols = -(-height // _BLOCK_PX), -(-width // _BLOCK_PX)
    padded = jnp.pad(near, ((0, 0), (0, rows * _BLOCK_PX - height), (0, cols * _BLOCK_PX - width)))
    blocks = padded.reshape(-1, rows, _BLOCK_PX, cols, _BLOCK_PX).max((0, 2, 4)).ravel() > 0
    (todo,) = jnp.nonzero(blocks, size=blocks.size)
    count = blocks.sum()
    last = jnp.array([height - _WINDOW_PX, width - _WINDOW_PX])

    def cut(array, first, size, axis):
        array = jax.lax.dynamic_slice_in_dim(array, first[0], size, axis)
        return jax.lax.dynamic_slice_in_dim(array, first[1], size, axis + 1)

    def going(_, carry):
        return carry[0] < count

    def once(refine, carry):
        done, displacement, scale = carry
        block = todo[done]
        begin = _BLOCK_PX * jnp.stack([block // cols, block % cols])
        first = jnp.clip(begin - _RIM_PX, 0, last)
        *seen, before_scale = jax.tree.map(
            lambda array: cut(array, first, _WINDOW_PX, 1), (images, x, near, field[1])
        )
        before = cut(field[0], first, _WINDOW_PX, 2), before_scale
        found, found_scale = better(refine, *seen, before)
        # At the far edges the block is less than whole; what it shares with the one before is the
        # same but for the rim.
        begin = jnp.minimum(begin, jnp.array([height - _BLOCK_PX, width - _BLOCK_PX]))
        found = cut(found, begin - first, _BLOCK_PX, 2)
        found_scale = cut(found_scale, begin - first, _BLOCK_PX, 1)
        return (
            done + 1,
            jax.lax.dynamic_update_slice(displacement, found, (0, 0, *begin)),
            jax.lax.dynamic_update_slice(scale, found_scale, (0, *begin, 0)),
        )

    _, *found = nn.while_loop(going, once, refine, (0, *field), broadcast_variables="params")
    return tuple(found)
