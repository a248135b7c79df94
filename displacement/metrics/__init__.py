"""Errors of estimates: sums that merge over batches and devices, and the figures they become."""

from typing import NamedTuple

import jax
import numpy as np

from displacement.metrics import across, bands, locking, steps
from displacement.metrics.bands import BAND_EDGES, BANDS, FAR, NEAR
from displacement.metrics.errors import errors

__all__ = ["BANDS", "BAND_EDGES", "FAR", "NEAR", "Metrics", "characteristics", "curves", "interval"]
__all__ += ["measure", "merge", "sigma_factor", "summary", "zero"]


class Metrics(NamedTuple):
    """Sums; add two to merge them."""

    bands: bands.Bands
    across: across.Across
    locking: locking.Locking
    steps: steps.Steps


def measure(
    estimate: jax.Array,
    truth: jax.Array,
    distance: jax.Array,
    slip: jax.Array,
    valid: jax.Array,
    *,
    sigma: jax.Array | None = None,
) -> Metrics:
    """Scores a batch.

    Args:
      estimate: `(B, H, W, 2)` px, (row, col), NaN where there is none.
      truth: `(B, H, W, 2)` px.
      distance: `(B, H, W)` px, signed, inf without a fault.
      slip: `(B, H, W, 2)` px, positive minus negative side, beside the pixel.
      valid: `(B, H, W)` bool, where the truth holds.
      sigma: `(B, H, W, 2)` px, of the estimate, if it has one.

    Returns:
      Sums over the batch.
    """
    e = errors(estimate, truth, distance, slip, valid, sigma=sigma)
    return Metrics(bands.measure(e), across.measure(e), locking.measure(e), steps.measure(e))


def merge(a: Metrics, b: Metrics) -> Metrics:
    """Sums of two disjoint sets of samples."""
    return jax.tree.map(lambda x, y: x + y, a, b)


def zero() -> Metrics:
    """The metrics of nothing."""
    field, map_ = np.zeros((1, 16, 16, 2), np.float32), np.zeros((1, 16, 16), np.float32)
    shapes = jax.eval_shape(measure, field, field, map_, field, map_ > 0)
    return jax.tree.map(lambda x: np.zeros(x.shape), shapes)


def _exact(metrics: Metrics) -> Metrics:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), metrics)


def summary(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Figures by distance to the fault.

    Args:
      metrics: merged sums.

    Returns:
      for each band ("0-2", ..., "32-inf"), and for "near" (within 8 px), "far" (beyond 32 px) and
      "all": count, missing, faults, mae, rmse, nmad, median_row, median_col [px], outliers (share
      beyond 1 px), slip_bias (share of slip; negative is underestimated), coverage_68 and
      coverage_95 (share of errors under 1 and 1.96 sigma; NaN without a sigma).
    """
    return bands.rows(_exact(metrics).bands)


def characteristics(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Figures that are not by distance: of the fault, of locking, of calm ground, of sigma.

    Returns:
      "fault": smear_px, slip_error_... and slip_mae_... (slip from lines fitted on both sides
      over a span of distances, as shares of slip), faults; "locking": locking_px, components;
      "calm": scatter_px, false_step_px, false_step_sigmas, pairs; "calibration": for each level
      that sigma promises, the share of errors inside.
    """
    m = _exact(metrics)
    return {
        "fault": across.summarise(m.across),
        "locking": locking.summarise(m.locking),
        "calm": steps.summarise(m.steps),
        "calibration": bands.calibration(m.bands),
    }


def sigma_factor(metrics: Metrics) -> float:
    """By how much sigma has to be multiplied to hold 68 % of the errors, near as well as far."""
    return bands.sigma_factor(_exact(metrics).bands)


def curves(metrics: Metrics) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What one draws, each as x and y.

    Returns:
      "profile": signed distance [px] and mean error along slip, as a share of slip; "locking":
      sub-pixel phase of the true motion and mean error [px].
    """
    m = _exact(metrics)
    return {"profile": across.profile(m.across), "locking": locking.curve(m.locking)}


def interval(
    samples: list[Metrics], *, band: slice, name: str, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """95 % confidence interval of a figure, by bootstrap over samples: faults, not pixels.

    The pixels of one fault share its slip, ground and noise, and are far from independent.

    Args:
      samples: the sums of each sample.
      band: `NEAR`, `FAR` or another slice of the bands.
      name: a figure of `summary`, such as "mae".
      draws: of the bootstrap.
      seed: of the draws.

    Returns:
      2.5th and 97.5th percentile of the figure; NaN where no draw has one.
    """
    rng = np.random.default_rng(seed)
    stacked = jax.tree.map(lambda *fields: np.stack(fields), *(_exact(m).bands for m in samples))
    figures = []
    for _ in range(draws):
        often = rng.multinomial(len(samples), np.full(len(samples), 1.0 / len(samples)))
        drawn = jax.tree.map(lambda field, n=often: np.tensordot(n, field, 1), stacked)
        figures.append(bands.summarise(drawn, band)[name])
    if not np.isfinite(figures).any():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(figures, [2.5, 97.5])
    return float(low), float(high)
