"""How well two dates agree under a displacement: whether they show one ground there at all.

Where they do not (a burn, a flood, other crops) nothing can be measured, however sure a network is
of what it carries over from beside.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from displacement.correlators.lk import differences_at
from displacement.normalise import gaussian_mean, normalise

_POOL_PX = 5.0
# Misfit of ground that is not the same: of unrelated ground it is 0.95, at a correlation of 0.4
# about this; of real pairs years apart 98 % of the pixels are under 0.5.
UNRELATED = 0.7
_CONTRAST_PX = 12.0
_CONTRAST = 1.5  # 1 on ordinary ground, and more where it is uneven
_LEAST_CONTRAST = 1e-4
_LEAST_SHARE = 0.05  # of a window that is known; a few pixels alone say too little


def misfits(tile: np.ndarray, found: np.ndarray, *, pool: float, unknown: float) -> np.ndarray:
    """How badly the dates of a tile agree under what was found, inf where nothing was found.

    Args:
      tile: `(T, S, 2)` earlier and later image, NaN invalid.
      found: `(T, S, 2 or more)` px, displacement first.
      pool: sigma of the window over which squared differences are averaged [px].
      unknown: what counts where a date has no data.

    Returns:
      `(T, S)` mean saturated square difference, in local variances.
    """
    displacement = found[..., :2]
    misfit = _misfit(jnp.asarray(tile), jnp.asarray(np.nan_to_num(displacement)), pool, unknown)
    return np.where(np.isfinite(displacement).all(-1), misfit, np.inf)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _misfit(tile: jax.Array, displacement: jax.Array, pool: float, unknown: float) -> jax.Array:
    _, difference = _differences(tile, displacement, unknown)
    return gaussian_mean(difference, sigma=pool)[0]


def _differences(
    tile: jax.Array, displacement: jax.Array, unknown: float
) -> tuple[jax.Array, jax.Array]:
    """The normalised pair `(1, T, S, 2)` and its saturated square differences `(1, T, S)`."""
    pair, valid = normalise(tile[None])
    motion = jnp.moveaxis(displacement, -1, 0)[:, None]
    return pair, differences_at(pair, valid)(motion, unknown=unknown)


@jax.jit
def disagreement(tile: jax.Array, displacement: jax.Array) -> jax.Array:
    """How badly the dates agree about a pixel, where they are known, for the contrast there.

    Args:
      tile: `(T, S, 2)` earlier and later image, NaN invalid.
      displacement: `(T, S, 2 or more)` px.

    Returns:
      `(T, S)` mean saturated square difference, in local variances; above `UNRELATED` the dates do
      not show one ground there. The images are normalised about a wider mean than `cnn` and `quick`
      see them.
    """
    pair, found = _differences(tile, jnp.nan_to_num(displacement[..., :2]), jnp.nan)
    known = jnp.isfinite(found)
    total = gaussian_mean(jnp.where(known, found, 0.0), sigma=_POOL_PX)
    share = gaussian_mean(known.astype(jnp.float32), sigma=_POOL_PX)
    # Of ground fainter than `normalise` brings to unit contrast (water) differences are small too.
    contrast = _CONTRAST * gaussian_mean((pair**2).mean(-1), sigma=_CONTRAST_PX)
    per_variance = jnp.maximum(share, _LEAST_SHARE) * jnp.clip(contrast, _LEAST_CONTRAST, 1.0)
    return (total / per_variance)[0]
