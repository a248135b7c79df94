"""Errors by distance to the fault, and how often sigma holds them."""

import itertools
import math
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from displacement.metrics.errors import Errors

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

# What share of the errors a sigma says is inside; of a normal distribution, in sigmas.
LEVELS = (0.2, 0.4, 0.6, 0.6827, 0.8, 0.9, 0.95, 0.99)
_ONE_SIGMA = 0.6827
# Of some of the bands together, in this order, after the counts.
_FIGURES = ("mae", "rmse", "nmad", "median_row", "median_col", "outliers", "slip_bias")
_FIGURES += ("coverage_68", "coverage_95")
_SIGMAS = tuple(NormalDist().inv_cdf(0.5 + 0.5 * level) for level in LEVELS)
_SIGMAS += (3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0)  # of a sigma that is far too small


class Bands(NamedTuple):
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
      within: `(BANDS, len(_SIGMAS))` of these, the share of components in error by less than each
        multiple of sigma; those that belong to `LEVELS` first.
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


def measure(e: Errors) -> Bands:
    """Sums the errors of a batch by band."""
    error, known = e.error, e.known
    band = jnp.digitize(jnp.abs(e.distance), jnp.asarray(BAND_EDGES[1:-1]))
    member = jax.nn.one_hot(band, BANDS) * known[..., None]  # (B, H, W, BANDS)

    def per_band(values):
        return jnp.einsum("bhw,bhwn->n", values, member)

    place = (jnp.arcsinh(error / _FINEST_PX) / _REACH + 1.0) * (_BINS / 2)
    place = jnp.clip(place, 0, _BINS - 1).astype(jnp.int32)
    index = (band[..., None] * 2 + jnp.arange(2)) * _BINS + place
    weight = jnp.broadcast_to(known[..., None], index.shape).astype(jnp.float32)
    histogram = jnp.zeros(BANDS * 2 * _BINS).at[index.ravel()].add(weight.ravel())

    if e.sigma is None:
        sigmas, within = jnp.zeros(BANDS), jnp.zeros((BANDS, len(_SIGMAS)))
    else:
        stated = jnp.isfinite(e.sigma).all(-1)[..., None]
        sigmas = (member * stated).sum((0, 1, 2))
        bounds = e.sigma[..., None] * jnp.array(_SIGMAS)
        inside = (jnp.abs(error)[..., None] < bounds).astype(jnp.float32).mean(-2)
        within = jnp.einsum("bhwk,bhwn->nk", inside, member * stated)

    counted = member * e.slips[..., None]
    total = jnp.einsum("bhw,bhwn->bn", jnp.sign(e.distance) * e.share, counted)
    pixels = counted.sum((1, 2))
    enough = pixels >= 20
    return Bands(
        count=member.sum((0, 1, 2)),
        missing=(jax.nn.one_hot(band, BANDS) * (e.valid & ~known)[..., None]).sum((0, 1, 2)),
        absolute=per_band(jnp.abs(error).mean(-1)),
        squared=per_band((error**2).mean(-1)),
        outliers=per_band((jnp.linalg.norm(error, axis=-1) > _OUTLIER_PX).astype(jnp.float32)),
        histogram=histogram.reshape(BANDS, 2, _BINS),
        bias=jnp.where(enough, total / jnp.maximum(pixels, 1), 0.0).sum(0),
        faults=enough.sum(0).astype(jnp.float32),
        sigmas=sigmas,
        within=within,
    )


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


def summarise(m: Bands, bands: slice) -> dict[str, float]:
    """The figures of some of the bands together."""
    count = float(m.count[bands].sum())
    faults = float(m.faults[bands].sum())
    counts = {
        "count": int(count),
        "missing": int(m.missing[bands].sum()),
        "faults": math.ceil(faults / max(bands.stop - bands.start, 1)),
    }
    if not count:
        return counts | dict.fromkeys(_FIGURES, np.nan)
    coverage = _shares(m, bands)
    components = [_nmad(np.asarray(m.histogram[bands, i].sum(0), np.float64)) for i in (0, 1)]
    return counts | {
        "mae": float(m.absolute[bands].sum()) / count,
        "rmse": float(np.sqrt(m.squared[bands].sum() / count)),
        "nmad": float(np.mean([nmad for _, nmad in components])),
        "median_row": components[0][0],
        "median_col": components[1][0],
        "outliers": float(m.outliers[bands].sum()) / count,
        "slip_bias": float(m.bias[bands].sum()) / faults if faults else float("nan"),
        "coverage_68": float(coverage[LEVELS.index(_ONE_SIGMA)]),
        "coverage_95": float(coverage[LEVELS.index(0.95)]),
    }


def rows(m: Bands) -> dict[str, dict[str, float]]:
    """`summarise` for each band, and for near, far and all of them."""
    named = {
        f"{low:g}-{high:g}": slice(i, i + 1)
        for i, (low, high) in enumerate(itertools.pairwise(BAND_EDGES))
    }
    named |= {"near": NEAR, "far": FAR, "all": slice(0, BANDS)}
    return {name: summarise(m, bands) for name, bands in named.items()}


def _shares(m: Bands, bands: slice) -> np.ndarray:
    """For each of `_SIGMAS` the share of errors inside; NaN without a sigma."""
    sigmas = m.sigmas[bands].sum()
    return m.within[bands].sum(0) / sigmas if sigmas else np.full(len(_SIGMAS), np.nan)


def calibration(m: Bands) -> dict[str, float]:
    """For each level that sigma promises, the share of all errors that is inside."""
    shares = _shares(m, slice(0, BANDS))[: len(LEVELS)]
    return {f"{level:g}": float(share) for level, share in zip(LEVELS, shares, strict=True)}


def sigma_factor(m: Bands) -> float:
    """By how much sigma has to be multiplied to hold 68 % of the errors; 1 without a sigma.

    Near the fault and far from it count alike, however many pixels are far.
    """
    shares = np.array([_shares(m, bands) for bands in (NEAR, FAR)])
    shares = shares[np.isfinite(shares).all(1)]
    if not len(shares):
        return 1.0
    held = np.append(0.0, shares.mean(0))
    return float(np.interp(_ONE_SIGMA, held, np.append(0.0, _SIGMAS)))
