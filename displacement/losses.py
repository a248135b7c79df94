"""Per-pixel losses, pure; the caller averages over what is valid."""

import math

import jax
import jax.numpy as jnp


def absolute(estimate: jax.Array, truth: jax.Array) -> jax.Array:
    """L1 of the displacement, `(..., 2)` to `(...)`, mean of the two components [px].

    Its minimum is the median, which stays on one side of a step where a mean would lie between.
    """
    return jnp.abs(estimate - truth).mean(-1)


def laplace(estimate: jax.Array, log_scale: jax.Array, truth: jax.Array) -> jax.Array:
    """Negative log-likelihood of the scale alone, `(..., 2)` to `(...)`.

    |e| / b + log b with b = exp(log_scale), at its least where b is the mean |e|. The displacement
    is held fixed: left free, the likelihood would forgive errors where it expects them, which is
    next to a fault.
    """
    error = jax.lax.stop_gradient(jnp.abs(estimate - truth))
    return (error * jnp.exp(-log_scale) + log_scale).mean(-1)


def laplace_sigma(log_scale: jax.Array) -> jax.Array:
    """Standard deviation of a Laplace distribution, sqrt(2) b, from log b."""
    return math.sqrt(2.0) * jnp.exp(log_scale)
