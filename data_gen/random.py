"""Draws from the ranges of GeneratorConfig."""

import jax
import jax.numpy as jnp
import numpy as np

from data_gen.config import Range


def uniform(key: jax.Array, bounds: Range, shape: tuple[int, ...] = ()) -> jax.Array:
    """Uniform between two bounds, `shape`."""
    return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])


def log_uniform(key: jax.Array, bounds: Range, shape: tuple[int, ...] = ()) -> jax.Array:
    """Uniform in the logarithm between two positive bounds, `shape`."""
    bounds = jnp.log(bounds) if isinstance(bounds, jax.Array) else np.log(np.asarray(bounds))
    return jnp.exp(uniform(key, bounds, shape))
