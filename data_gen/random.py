"""Draws from the ranges of GeneratorConfig."""

import jax
import jax.numpy as jnp
import numpy as np

from data_gen.config import Range


class Draws:
    """Scalars and small vectors from one key, all drawn in one call.

    XLA then compiles one random number generator and not one for each of fifty numbers.
    """

    def __init__(self, key: jax.Array, count: int):
        """Draws `count` numbers to be handed out."""
        self._left = iter(jax.random.uniform(key, (count,)))

    def _unit(self, shape):
        numbers = [next(self._left) for _ in range(int(np.prod(shape)))]
        return jnp.stack(numbers).reshape(shape) if shape else numbers[0]

    def uniform(self, bounds: Range, shape: tuple[int, ...] = ()) -> jax.Array:
        """Uniform between two bounds, `shape`."""
        return bounds[0] + (bounds[1] - bounds[0]) * self._unit(shape)

    def log_uniform(self, bounds: Range) -> jax.Array:
        """Uniform in the logarithm between two positive bounds, scalar."""
        low, high = jnp.log(bounds[0]), jnp.log(bounds[1])
        return jnp.exp(self.uniform((low, high)))

    def normal(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """Standard normal, `shape`."""
        unit = jnp.clip(self._unit(shape), 1e-6, 1.0 - 1e-6)
        return jnp.sqrt(2.0) * jax.lax.erf_inv(2.0 * unit - 1.0)

    def chance(self, probability: float, shape: tuple[int, ...] = ()) -> jax.Array:
        """True with a probability, `shape`."""
        return self._unit(shape) < probability

    def angle(self) -> jax.Array:
        """Any angle [rad]."""
        return self.uniform((0.0, 2.0 * jnp.pi))
