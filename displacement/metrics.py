"""Errors by distance to the fault: sums and histograms that merge over batches and devices."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Bands of distance to the fault [px]; what has no fault belongs to the last.
BAND_EDGES = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0, np.inf)
BANDS = len(BAND_EDGES) - 1
NEAR = slice(0, 3)  # within 8 px
FAR = slice(5, 6)  # beyond 32 px

# Histogram of signed errors, fine about zero (0.0002 px) and coarse at its ends (10 px).
_BINS = 800
_FINEST_PX, _LARGEST_PX = 0.01, 10.0
_REACH = np.arcsinh(_LARGEST_PX / _FINEST_PX)
_OUTLIER_PX = 1.0
_LEAST_SLIP_PX = 0.1  # a share of less slip says nothing


class Metrics(NamedTuple):
    """Sums by distance band; add two to merge them. Lengths in pixels.

    Attributes:
      count: `(BANDS,)` pixels that have a truth and an estimate.
      missing: `(BANDS,)` pixels that have a truth and no estimate.
      absolute: `(BANDS,)` sum of |error|, mean of the two components.
      squared: `(BANDS,)` likewise of error squared.
      outliers: `(BANDS,)` pixels in error by more than 1 px.
      histogram: `(BANDS, 2, bins)` signed error of each component.
      bias: `(BANDS,)` sum over samples of the mean signed error along slip, as a share of slip;
        negative is slip underestimated; -0.5 is a step that is not seen at all.
      faults: `(BANDS,)` samples that counted towards `bias`.
      sigmas: `(BANDS,)` pixels that have a sigma.
      within: `(BANDS, 2)` of these, the share of components in error by less than 1 and 1.96 sigma.
    """

    count: jax.Array
    missing: jax.Array
    absolute: jax.Array
    squared: jax.Array
    outliers: jax.Array
    histogram: jax.Array
    bias: jax.Array
    faults: jax.Array
    sigmas: jax.Array
    within: jax.Array


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
    known = jnp.isfinite(estimate).all(-1) & valid
    error = jnp.where(known[..., None], estimate - truth, 0.0)
    band = jnp.digitize(jnp.abs(distance), jnp.asarray(BAND_EDGES[1:-1]))
    member = jax.nn.one_hot(band, BANDS) * known[..., None]  # (B, H, W, BANDS)

    def per_band(values):
        return jnp.einsum("bhw,bhwn->n", values, member)

    place = (jnp.arcsinh(error / _FINEST_PX) / _REACH + 1.0) * (_BINS / 2)
    place = jnp.clip(place, 0, _BINS - 1).astype(jnp.int32)
    index = (band[..., None] * 2 + jnp.arange(2)) * _BINS + place
    weight = jnp.broadcast_to(known[..., None], index.shape).astype(jnp.float32)
    histogram = jnp.zeros(BANDS * 2 * _BINS).at[index.ravel()].add(weight.ravel())

    if sigma is None:
        sigmas, within = jnp.zeros(BANDS), jnp.zeros((BANDS, 2))
    else:
        sigmas = member.sum((0, 1, 2))
        bounds = sigma[..., None] * jnp.array([1.0, 1.96])
        inside = (jnp.abs(error)[..., None] < bounds).astype(jnp.float32).mean(-2)
        within = jnp.einsum("bhwk,bhwn->nk", inside, member)

    size = jnp.linalg.norm(slip, axis=-1)
    slips = (size > _LEAST_SLIP_PX) & jnp.isfinite(distance)
    share = jnp.sign(distance) * (error * slip).sum(-1) / jnp.where(slips, size, 1.0) ** 2
    counted = member * slips[..., None]
    total = jnp.einsum("bhw,bhwn->bn", jnp.where(slips, share, 0.0), counted)
    pixels = counted.sum((1, 2))
    enough = pixels >= 20
    return Metrics(
        count=member.sum((0, 1, 2)),
        missing=(jax.nn.one_hot(band, BANDS) * (valid & ~known)[..., None]).sum((0, 1, 2)),
        absolute=per_band(jnp.abs(error).mean(-1)),
        squared=per_band((error**2).mean(-1)),
        outliers=per_band((jnp.linalg.norm(error, axis=-1) > _OUTLIER_PX).astype(jnp.float32)),
        histogram=histogram.reshape(BANDS, 2, _BINS),
        bias=jnp.where(enough, total / jnp.maximum(pixels, 1), 0.0).sum(0),
        faults=enough.sum(0).astype(jnp.float32),
        sigmas=sigmas,
        within=within,
    )


def merge(a: Metrics, b: Metrics) -> Metrics:
    """Sums of two disjoint sets of samples."""
    return jax.tree.map(lambda x, y: x + y, a, b)


def _quantile(histogram: np.ndarray, share: float) -> float:
    """Quantile [px] of a histogram over the signed-error bins, linear within a bin."""
    edges = _FINEST_PX * np.sinh(np.linspace(-_REACH, _REACH, _BINS + 1))
    cumulative = np.concatenate([[0.0], np.cumsum(histogram)])
    return float(np.interp(share * cumulative[-1], cumulative, edges))


def _nmad(histogram: np.ndarray) -> tuple[float, float]:
    """Median and 1.4826 x median absolute deviation [px] of one component."""
    median = _quantile(histogram, 0.5)
    edges = _FINEST_PX * np.sinh(np.linspace(-_REACH, _REACH, _BINS + 1))
    cumulative = np.concatenate([[0.0], np.cumsum(histogram)])

    def within(radius):
        low, high = np.interp([median - radius, median + radius], edges, cumulative)
        return high - low - 0.5 * cumulative[-1]

    low, high = 0.0, 2 * _LARGEST_PX
    for _ in range(60):  # bisection: `within` rises with the radius
        middle = 0.5 * (low + high)
        low, high = (middle, high) if within(middle) < 0 else (low, middle)
    return median, 1.4826 * high


def _summarise(m: Metrics, bands: slice) -> dict[str, float]:
    count = float(m.count[bands].sum())
    faults = float(m.faults[bands].sum())
    if not count:
        nothing = dict.fromkeys(("mae", "rmse", "nmad", "median_row", "median_col"), np.nan)
        nothing |= dict.fromkeys(("outliers", "slip_bias", "coverage_68", "coverage_95"), np.nan)
        nothing |= {"count": 0, "faults": 0}
        return nothing | {"missing": int(m.missing[bands].sum())}
    sigmas = float(m.sigmas[bands].sum())
    coverage = m.within[bands].sum(0) / sigmas if sigmas else (np.nan, np.nan)
    components = [_nmad(np.asarray(m.histogram[bands, i].sum(0), np.float64)) for i in (0, 1)]
    return {
        "count": int(count),
        "missing": int(m.missing[bands].sum()),
        "faults": int(faults / max(bands.stop - bands.start, 1)),
        "mae": float(m.absolute[bands].sum()) / count,
        "rmse": float(np.sqrt(m.squared[bands].sum() / count)),
        "nmad": float(np.mean([nmad for _, nmad in components])),
        "median_row": components[0][0],
        "median_col": components[1][0],
        "outliers": float(m.outliers[bands].sum()) / count,
        "slip_bias": float(m.bias[bands].sum()) / faults if faults else float("nan"),
        "coverage_68": float(coverage[0]),
        "coverage_95": float(coverage[1]),
    }


def summary(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Turns sums into figures.

    Args:
      metrics: merged sums.

    Returns:
      for each band ("0-2", ..., "32-inf"), and for "near" (within 8 px), "far" (beyond 32 px) and
      "all": count, missing, faults, mae, rmse, nmad, median_row, median_col [px], outliers (share
      beyond 1 px), slip_bias (share of slip; negative is underestimated), coverage_68 and
      coverage_95 (share of errors under 1 and 1.96 sigma; NaN without a sigma).
    """
    metrics = Metrics(*(np.asarray(x, np.float64) for x in metrics))
    rows = {
        f"{low:g}-{high:g}": _summarise(metrics, slice(i, i + 1))
        for i, (low, high) in enumerate(itertools.pairwise(BAND_EDGES))
    }
    rows["near"] = _summarise(metrics, NEAR)
    rows["far"] = _summarise(metrics, FAR)
    rows["all"] = _summarise(metrics, slice(0, BANDS))
    return rows


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
    stacked = Metrics(
        *(np.stack([np.asarray(m[i]) for m in samples]) for i in range(len(Metrics._fields)))
    )
    figures = []
    for _ in range(draws):
        often = rng.multinomial(len(samples), np.full(len(samples), 1.0 / len(samples)))
        drawn = Metrics(*(np.tensordot(often.astype(np.float64), field, 1) for field in stacked))
        figures.append(_summarise(drawn, band)[name])
    if not np.isfinite(figures).any():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(figures, [2.5, 97.5])
    return float(low), float(high)


def zero() -> Metrics:
    """The metrics of nothing."""
    flat = [np.zeros(BANDS) for _ in Metrics._fields]
    return Metrics(*flat)._replace(
        histogram=np.zeros((BANDS, 2, _BINS)), within=np.zeros((BANDS, 2))
    )
