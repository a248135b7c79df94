"""Across the fault: how wide the step is smeared, and the slip that a profile would give."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from displacement.metrics.errors import Errors

REACH_PX = 32  # of the profile, either side
_BINS = 2 * REACH_PX  # 1 px each
_LEAST_PIXELS = 5  # of a fault in a bin
# Distances [px] between which lines are fitted on both sides: all there is, as one does who
# trusts the map, and from 8 px on, as one does who knows that it is smeared.
SPANS_PX = ((0.0, 32.0), (8.0, 40.0))
_LEAST_FITTED = 100  # pixels on either side
SMEARED = 0.1  # of the slip; where the bias is less the step is over


class Across(NamedTuple):
    """Sums over faults; add two to merge them.

    Attributes:
      bias: `(64,)` of the mean error along slip, as a share of slip, in each px of signed distance.
      faults: `(64,)` that counted.
      slip_error: `(2,)` of the error of the slip from fitted lines, as a share of slip, for each of
        `SPANS_PX`.
      slip_absolute: `(2,)` of its absolute value.
      fitted: `(2,)` faults that counted.
    """

    bias: jax.Array
    faults: jax.Array
    slip_error: jax.Array
    slip_absolute: jax.Array
    fitted: jax.Array


def _intercept(distance, share, weight):
    """Value at the trace `(B,)` of the line that fits `share`, and the number of pixels."""
    n = weight.sum((1, 2))
    mean_d = (weight * distance).sum((1, 2)) / jnp.maximum(n, 1.0)
    mean_y = (weight * share).sum((1, 2)) / jnp.maximum(n, 1.0)
    centred = weight * (distance - mean_d[:, None, None])
    slope = (centred * share).sum((1, 2)) / jnp.maximum((centred * distance).sum((1, 2)), 1e-6)
    return mean_y - slope * mean_d, n


def measure(e: Errors) -> Across:
    """Sums the errors of a batch across its faults."""
    counted = (e.known & e.slips).astype(jnp.float32)
    distance = jnp.where(e.slips, e.distance, 0.0)
    place = jnp.floor(distance).astype(jnp.int32) + REACH_PX  # one_hot leaves out what is beyond
    member = jax.nn.one_hot(place, _BINS) * counted[..., None]
    pixels = member.sum((1, 2))
    enough = pixels >= _LEAST_PIXELS
    mean = jnp.einsum("bhw,bhwn->bn", e.share, member) / jnp.maximum(pixels, 1.0)

    jumps, fitted = [], []
    for low, high in SPANS_PX:
        inside = counted * (jnp.abs(distance) >= low) * (jnp.abs(distance) < high)
        left, left_count = _intercept(distance, e.share, inside * (distance > 0))
        right, right_count = _intercept(distance, e.share, inside * (distance < 0))
        jumps.append(left - right)
        fitted.append((left_count >= _LEAST_FITTED) & (right_count >= _LEAST_FITTED))
    jump, fits = jnp.stack(jumps), jnp.stack(fitted)
    return Across(
        bias=jnp.where(enough, mean, 0.0).sum(0),
        faults=enough.sum(0).astype(jnp.float32),
        slip_error=jnp.where(fits, jump, 0.0).sum(1),
        slip_absolute=jnp.where(fits, jnp.abs(jump), 0.0).sum(1),
        fitted=fits.sum(1).astype(jnp.float32),
    )


def profile(m: Across) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance [px] and mean signed error along slip, as a share of slip; NaN where none."""
    bias = np.where(m.faults > 0, m.bias / np.maximum(m.faults, 1.0), np.nan)
    return np.arange(_BINS) - REACH_PX + 0.5, bias


def smear_px(m: Across) -> float:
    """Distance [px] beyond which the step's bias stays under 10 % of slip.

    NaN without faults, and where nothing is measured next to them: what is left out is not sharp.
    Both sides together, so that a shift of the whole map does not count. A step that is smeared
    linearly over a window of w has 0.4 w.
    """
    _, bias = profile(m)
    lacking = np.abs(bias[REACH_PX:] - bias[:REACH_PX][::-1]) / 2.0
    if not np.isfinite(lacking[0]):
        return float("nan")
    lacking = np.nan_to_num(lacking)
    smeared = np.flatnonzero(lacking >= SMEARED)
    if not smeared.size:
        return 0.0
    last = int(smeared[-1])
    if last == REACH_PX - 1:
        return float(REACH_PX)
    step = (lacking[last] - SMEARED) / (lacking[last] - lacking[last + 1])
    return float(last + 0.5 + step)


def summarise(m: Across) -> dict[str, float]:
    """Smear [px], and mean and mean absolute error of slip from profiles, as shares of slip."""
    found = {"smear_px": smear_px(m)}
    for i, (low, high) in enumerate(SPANS_PX):
        faults = float(m.fitted[i])
        span = f"{low:g}-{high:g}"
        found[f"slip_error_{span}"] = float(m.slip_error[i]) / faults if faults else float("nan")
        found[f"slip_mae_{span}"] = float(m.slip_absolute[i]) / faults if faults else float("nan")
    return found | {"faults": int(m.fitted[0])}
