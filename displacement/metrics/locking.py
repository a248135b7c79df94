"""Sub-pixel locking: an error that depends on the fraction of a pixel by which the ground moved."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from displacement.metrics.errors import Errors

PHASES = 20  # bins of the true displacement's fraction, from -1/2 to 1/2 px
_BEYOND_PX = 16.0  # of a fault, where its smear is no part of it
_LEAST = 1000  # pixels in a bin


class Locking(NamedTuple):
    """Sums by sub-pixel phase, both components alike; add two to merge them.

    Attributes:
      error: `(PHASES,)` signed, px.
      count: `(PHASES,)` of components.
    """

    error: jax.Array
    count: jax.Array


def measure(e: Errors) -> Locking:
    """Sums the errors of a batch by sub-pixel phase."""
    away = e.known & ~(jnp.abs(e.distance) < _BEYOND_PX)  # NaN is away from any fault
    truth = jnp.where(away[..., None], e.truth, 0.0)
    place = jnp.floor((truth - jnp.round(truth) + 0.5) * PHASES).astype(jnp.int32)
    member = jax.nn.one_hot(jnp.clip(place, 0, PHASES - 1), PHASES) * away[..., None, None]
    return Locking(
        error=jnp.einsum("bhwc,bhwcn->n", e.error, member), count=member.sum((0, 1, 2, 3))
    )


def curve(m: Locking) -> tuple[np.ndarray, np.ndarray]:
    """Phase [px] and mean signed error [px] about that of all phases; NaN where too few."""
    total = m.error.sum() / max(float(m.count.sum()), 1.0)
    mean = m.error / np.maximum(m.count, 1.0) - total
    return (np.arange(PHASES) + 0.5) / PHASES - 0.5, np.where(m.count >= _LEAST, mean, np.nan)


def summarise(m: Locking) -> dict[str, float]:
    """Largest departure [px] of the curve from zero."""
    _, mean = curve(m)
    known = np.isfinite(mean)
    largest = float(np.abs(mean[known]).max()) if known.sum() > 1 else float("nan")
    return {"locking_px": largest, "components": int(m.count.sum())}
