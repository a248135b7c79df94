"""Per-pixel losses, pure; the caller averages over what is valid."""

import math

import jax
import jax.numpy as jnp

_PROMISES = ((0.6827, 1.0), (0.95, 1.96))  # share of the errors, under so many sigmas
_SIGMA_PER_SCALE = math.sqrt(2.0)  # of a Laplace distribution
_LEAST_PX = 1e-4  # smaller errors are as good as none


def absolute(estimate: jax.Array, truth: jax.Array) -> jax.Array:
    """L1 of the displacement, `(..., 2)` to `(...)`, mean of the two components [px].

    Its minimum is the median, which stays on one side of a step where a mean would lie between.
    """
    return jnp.abs(estimate - truth).mean(-1)


def coverage(estimate: jax.Array, log_scale: jax.Array, truth: jax.Array) -> jax.Array:
    """How far sigma is from what it promises, `(..., 2)` to `(...)`.

    That 68 % of the errors are under one sigma and 95 % under 1.96: quantile regression (Koenker
    and Bassett 1978) of log |e| at both levels. Errors next to a fault have heavier tails than
    others, and no one distribution would hold its promise in both places. The displacement is held
    fixed: left free, it would be forgiven errors where they are expected, next to a fault.
    """
    log_error = jnp.log(jax.lax.stop_gradient(jnp.abs(estimate - truth)) + _LEAST_PX)
    loss = 0.0
    for level, sigmas in _PROMISES:
        above = log_error - log_scale - math.log(sigmas * _SIGMA_PER_SCALE)
        loss = loss + jnp.maximum(level * above, (level - 1.0) * above)
    return loss.mean(-1)


def sigma(log_scale: jax.Array) -> jax.Array:
    """Standard error [px] of each component, sqrt(2) exp(log_scale)."""
    return _SIGMA_PER_SCALE * jnp.exp(log_scale)
