"""Semi-global aggregation: displacements that fit their windows and change little between nodes.

Of all fields on a grid of nodes, the one of least cost: what the windows say against each node's
displacement, and a penalty on the steps between neighbours. On a line this is solved exactly by
dynamic programming; on a grid, lines in several directions are summed (Hirschmueller 2008, IEEE
TPAMI 30(2), "Stereo processing by semiglobal matching and mutual information"), as MicMac's
regularised correlation does (Pierrot-Deseilligny & Paparoditis 2006; Rosu et al. 2015, ISPRS J.
100, for displacements). The penalty is linear in the step, up to a largest one, so that a fault
costs no more for having slipped far.
"""

import functools

import jax
import jax.numpy as jnp

_DIRECTIONS = 8


def _nearest(path: jax.Array, steps: jax.Array, penalty: float, axis: int) -> jax.Array:
    """min_j path_j + penalty |step_ij| along axis 1 or 2 of path `(W, K, K)`; steps `(W, K, K)`."""
    steps = penalty * jnp.abs(steps)
    if axis == 1:
        return (path[:, None] + steps[..., None]).min(2)
    return (path[:, :, None] + steps[:, None]).min(3)


def _along(cost, base, offsets, *, penalty, largest, slant):
    """Costs of the best paths that come down the rows, `slant` columns to the right with each."""
    width = cost.shape[1]
    column = jnp.arange(width) - slant
    inside = ((column >= 0) & (column < width))[:, None, None]
    between = offsets[:, None] - offsets

    def advance(before, now):
        path, base_before = (jnp.roll(values, slant, axis=0) for values in before)
        cost, base = now
        jump = (base - base_before)[..., None, None] + between  # (W, 2, K, K)
        least = path.min((1, 2), keepdims=True)
        through = _nearest(path, jump[:, 0], penalty, 1)
        through = _nearest(through, jump[:, 1], penalty, 2)
        through = jnp.minimum(through - least, penalty * largest)
        path = cost + jnp.where(inside, through, 0.0)
        return (path, base), path

    _, paths = jax.lax.scan(advance, (cost[0], base[0]), (cost[1:], base[1:]))
    return jnp.concatenate([cost[:1], paths])


def aggregate(
    cost: jax.Array, base: jax.Array, offsets: jax.Array, *, penalty: float, largest: float
) -> jax.Array:
    """Sums the costs of the best paths that reach each node from eight directions.

    Args:
      cost: `(H, W, K, K)` of the displacement base + (offsets[i], offsets[j]) at each node.
      base: `(H, W, 2)` px.
      offsets: `(K,)` px.
      penalty: cost of a step of 1 px between neighbours, along rows and columns alike.
      largest: step [px] beyond which it costs no more.

    Returns:
      `(H, W, K, K)`; the least is the node's choice.
    """
    along = functools.partial(_along, penalty=penalty, largest=largest)
    total = -(_DIRECTIONS - 1) * cost  # each path counts the node's own cost
    for transpose in (False, True):
        slants = (0,) if transpose else (-1, 0, 1)
        turned = [x.swapaxes(0, 1) if transpose else x for x in (cost, base)]
        for backwards in (False, True):
            lines = [x[::-1] if backwards else x for x in turned]
            for slant in slants:
                paths = along(*lines, offsets, slant=slant)
                paths = paths[::-1] if backwards else paths
                total = total + (paths.swapaxes(0, 1) if transpose else paths)
    return total


def choose(
    cost: jax.Array,
    base: jax.Array,
    offsets: jax.Array,
    *,
    penalty: float,
    largest: float,
    between: bool = False,
) -> jax.Array:
    """Displacement `(H, W, 2)` [px] of least aggregated cost.

    Args:
      cost, base, offsets, penalty, largest: as for `aggregate`.
      between: whether to go on between the offsets, by a parabola along each axis; they must be
        evenly spaced, and the outermost are not chosen.
    """
    total = aggregate(cost, base, offsets, penalty=penalty, largest=largest)
    height, width, count = total.shape[:3]
    rim = int(between)  # a parabola needs both neighbours
    inner = total[:, :, rim : count - rim, rim : count - rim]
    best = inner.reshape(height, width, -1).argmin(-1)
    place = jnp.stack([best // inner.shape[2], best % inner.shape[2]], axis=-1) + rim
    chosen = base + offsets[place]
    if not between:
        return chosen
    rows, cols = jnp.arange(height)[:, None], jnp.arange(width)

    def at(offset):
        return total[rows, cols, place[..., 0] + offset[0], place[..., 1] + offset[1]]

    parts = []
    for before, after in (((-1, 0), (1, 0)), ((0, -1), (0, 1))):
        below, above = at(before), at(after)
        curvature = jnp.maximum(below - 2.0 * at((0, 0)) + above, 1e-9)
        parts.append(jnp.clip(0.5 * (below - above) / curvature, -0.5, 0.5))
    return chosen + (offsets[1] - offsets[0]) * jnp.stack(parts, axis=-1)
