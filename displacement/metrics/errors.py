"""What every metric starts from: the errors of a batch, and where they count."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_LEAST_SLIP_PX = 0.1  # a share of less slip says nothing


class Errors(NamedTuple):
    """Errors of a batch of estimates. Lengths in pixels.

    Attributes:
      error: `(B, H, W, 2)` estimate minus truth, (row, col); 0 where not known.
      truth: `(B, H, W, 2)`.
      sigma: `(B, H, W, 2)` of the estimate, or None.
      known: `(B, H, W)` bool, has a truth and an estimate.
      valid: `(B, H, W)` bool, has a truth.
      distance: `(B, H, W)` signed, to the fault; inf or NaN without one.
      slips: `(B, H, W)` bool, beside a fault that slips by 0.1 px or more.
      share: `(B, H, W)` error along slip as a share of it, 0 where nothing slips.
    """

    error: jax.Array
    truth: jax.Array
    sigma: jax.Array | None
    known: jax.Array
    valid: jax.Array
    distance: jax.Array
    slips: jax.Array
    share: jax.Array


def errors(estimate, truth, distance, slip, valid, *, sigma) -> Errors:
    """Arguments as for `displacement.metrics.measure`."""
    known = jnp.isfinite(estimate).all(-1) & valid
    error = jnp.where(known[..., None], estimate - truth, 0.0)
    size = jnp.linalg.norm(slip, axis=-1)
    slips = (size > _LEAST_SLIP_PX) & jnp.isfinite(distance)
    share = (error * slip).sum(-1) / jnp.where(slips, size, 1.0) ** 2
    share = jnp.where(slips, share, 0.0)
    return Errors(error, truth, sigma, known, valid, distance, slips, share)
