"""Errors by distance to the fault, against NumPy and closed forms."""

import functools
import itertools

import jax
import numpy as np
import pytest

from displacement.metrics import (
    BAND_EDGES,
    BANDS,
    characteristics,
    curves,
    measure,
    merge,
    sigma_factor,
    summary,
    zero,
)

SHAPE = (3, 40, 48)
NAMES = ["0-2", "2-4", "4-8", "8-16", "16-32", "32-inf"]
score = jax.jit(measure)


def _scene(rng):
    """Truth, signed distance and slip of a straight fault, with an estimate of known errors."""
    distance = np.broadcast_to(np.arange(48.0) - 7.5, SHAPE).astype(np.float32)
    truth = rng.normal(0.0, 0.5, (*SHAPE, 2)).astype(np.float32)
    error = rng.normal(0.05, 0.3, (*SHAPE, 2)).astype(np.float32)
    slip = np.broadcast_to(np.float32([0.6, -0.8]), truth.shape)
    valid = rng.random(SHAPE) < 0.9
    return truth + error, truth, distance, slip, valid


def test_figures_are_those_of_numpy_in_every_band(rng):
    estimate, truth, distance, slip, valid = _scene(rng)
    estimate[rng.random(SHAPE) < 0.1] = np.nan
    table = summary(score(estimate, truth, distance, slip, valid))
    bands = dict(zip(NAMES, itertools.pairwise(BAND_EDGES), strict=True))
    bands |= {"near": (0.0, 8.0), "far": (32.0, np.inf), "all": (0.0, np.inf)}
    assert set(table) == set(bands)
    for name, (low, high) in bands.items():
        inside = (np.abs(distance) >= low) & (np.abs(distance) < high) & valid
        known = inside & np.isfinite(estimate).all(-1)
        error = (estimate - truth)[known].astype(np.float64)
        median = np.median(error, axis=0)
        nmad = 1.4826 * np.median(np.abs(error - median), axis=0).mean()
        row = table[name]
        assert row["count"] == known.sum()
        assert row["missing"] == inside.sum() - known.sum() > 0
        assert row["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
        assert row["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
        assert row["nmad"] == pytest.approx(nmad, rel=0.02)
        assert row["median_row"] == pytest.approx(median[0], abs=3e-3)
        assert row["median_col"] == pytest.approx(median[1], abs=3e-3)
        assert row["outliers"] == pytest.approx((np.hypot(*error.T) > 1.0).mean(), abs=1e-6)


def test_batches_merge_to_the_whole(rng):
    scene = _scene(rng)
    whole = score(*scene)
    parts = [score(*(array[i : i + 1] for array in scene)) for i in range(SHAPE[0])]
    merged = functools.reduce(merge, parts, zero())
    for expected, found in zip(jax.tree.leaves(whole), jax.tree.leaves(merged), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert summary(merged)["all"] == pytest.approx(summary(whole)["all"], rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.2])
def test_slip_bias_is_the_share_of_the_step_that_is_missing(share):
    distance = np.broadcast_to(np.arange(48.0) - 23.5, SHAPE).astype(np.float32)
    slip = np.broadcast_to(np.float32([0.6, -0.8]), (*SHAPE, 2))
    truth = 0.5 * np.sign(distance)[..., None] * slip
    table = summary(score(share * truth, truth, distance, slip, np.ones(SHAPE, bool)))
    assert table["near"]["slip_bias"] == pytest.approx(0.5 * (share - 1.0), abs=1e-6)
    assert table["0-2"]["slip_bias"] == pytest.approx(0.5 * (share - 1.0), abs=1e-6)
    assert table["0-2"]["faults"] == SHAPE[0]


def test_slip_bias_does_not_see_a_common_shift():
    distance = np.broadcast_to(np.arange(48.0) - 23.5, SHAPE).astype(np.float32)
    slip = np.broadcast_to(np.float32([0.6, -0.8]), (*SHAPE, 2))
    truth = 0.5 * np.sign(distance)[..., None] * slip
    table = summary(score(truth + 0.3, truth, distance, slip, np.ones(SHAPE, bool)))
    assert table["near"]["slip_bias"] == pytest.approx(0.0, abs=1e-6)
    assert table["near"]["median_row"] == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_coverage_shows_an_over_confident_sigma(rng, factor):
    _, truth, distance, slip, valid = _scene(rng)
    sigma = rng.uniform(0.05, 0.5, truth.shape).astype(np.float32)
    estimate = truth + sigma * rng.standard_normal(truth.shape).astype(np.float32)
    sigma[:, 3:9] = np.nan  # maps of other programs may lack some
    rows = summary(score(estimate, truth, distance, slip, valid, sigma=factor * sigma))
    expected = {1.0: (0.6827, 0.95), 0.5: (0.3829, 0.6729)}[factor]
    found = rows["all"]["coverage_68"], rows["all"]["coverage_95"]
    assert found == pytest.approx(expected, abs=0.03)
    assert np.isnan(summary(score(estimate, truth, distance, slip, valid))["all"]["coverage_68"])


@pytest.mark.parametrize("nothing", [np.inf, np.nan])
def test_samples_without_a_fault_count_as_far(nothing):
    truth = np.zeros((*SHAPE, 2), np.float32)
    distance = np.full(SHAPE, nothing, np.float32)
    table = summary(score(truth + 0.1, truth, distance, truth, np.ones(SHAPE, bool)))
    assert table["far"]["count"] == table["all"]["count"] == np.prod(SHAPE)
    assert table["far"]["mae"] == pytest.approx(0.1, rel=1e-4)
    assert table["far"]["faults"] == 0
    assert np.isnan(table["far"]["slip_bias"])
    assert table["near"]["count"] == table["near"]["missing"] == table["near"]["faults"] == 0
    assert np.isnan(table["near"]["mae"])


def test_no_estimate_is_missing_and_harms_no_sum():
    truth = np.zeros((*SHAPE, 2), np.float32)
    estimate = truth + np.float32(0.25)
    estimate[0, ..., 1] = np.nan  # one component is not enough
    distance = np.full(SHAPE, 1.0, np.float32)
    valid = np.ones(SHAPE, bool)
    valid[1] = False
    truth[1] = np.nan
    row = summary(score(estimate, truth, distance, truth, valid))["0-2"]
    assert (row["count"], row["missing"]) == (40 * 48, 40 * 48)
    assert row["mae"] == pytest.approx(0.25)
    assert row["rmse"] == pytest.approx(0.25)


def test_gross_errors_stay_finite():
    truth = np.zeros((*SHAPE, 2), np.float32)
    distance = np.full(SHAPE, 1.0, np.float32)
    row = summary(score(truth + 500.0, truth, distance, truth, np.ones(SHAPE, bool)))["0-2"]
    assert row["outliers"] == 1.0
    assert row["mae"] == pytest.approx(500.0)
    assert row["median_row"] == pytest.approx(10.0, rel=0.02)  # the histogram's end


def test_nothing_at_all():
    row = summary(zero())["all"]
    assert row["count"] == row["faults"] == row["missing"] == 0
    assert np.isnan([row["mae"], row["nmad"], row["outliers"], row["slip_bias"]]).all()
    assert zero().bands.count.shape == (BANDS,)


def _smeared(window, size=96, slip=(0.6, -0.8)):
    """A sharp step, what a window of that size makes of it, and where that is."""
    shape = (2, size, size)
    distance = np.broadcast_to(np.arange(size) - size / 2 + 0.5, shape).astype(np.float32)
    slip = np.broadcast_to(np.float32(slip), (*shape, 2))
    truth = 0.5 * np.sign(distance)[..., None] * slip
    estimate = np.clip(distance / window, -0.5, 0.5)[..., None] * slip
    return estimate, truth, distance, slip, np.ones(shape, bool)


@pytest.mark.parametrize("window", [8.0, 16.0, 32.0])
def test_the_width_of_a_linear_smear_is_its_closed_form(window):
    scored = score(*_smeared(window))
    # 1/2 - d / w falls under 10 % of slip at d = 0.4 w, seen in bins of 1 px.
    assert characteristics(scored)["fault"]["smear_px"] == pytest.approx(0.4 * window, abs=0.05)
    x, bias = curves(scored)["profile"]
    expected = np.sign(x) * -np.clip(0.5 - np.abs(x) / window, 0.0, None)
    np.testing.assert_allclose(bias, expected, atol=1e-5)
    hidden = list(_smeared(window))
    beside = np.abs(hidden[2]) < 3
    hidden[0] = np.where(beside[..., None], np.nan, hidden[0])  # what is left out is not sharp
    assert np.isnan(characteristics(score(*hidden))["fault"]["smear_px"])
    shifted = list(_smeared(window))
    shifted[0] = shifted[0] + np.float32(0.5)  # a shift of the whole map is no smear
    moved = characteristics(score(*shifted))["fault"]["smear_px"]
    assert moved == pytest.approx(0.4 * window, abs=0.05)


def test_slip_from_profiles_is_that_of_lines_fitted_by_numpy():
    window = 20.0
    found = characteristics(score(*_smeared(window)))["fault"]
    for low, high in ((0, 32), (8, 40)):
        d = np.arange(0.5, 48)
        d = d[(d >= low) & (d < high)]
        lacking = np.polynomial.Polynomial.fit(d, -np.clip(0.5 - d / window, 0, None), 1)(0.0)
        # Both sides lack as much.
        assert found[f"slip_error_{low}-{high}"] == pytest.approx(2 * lacking, abs=1e-4)
        assert found[f"slip_mae_{low}-{high}"] == pytest.approx(abs(2 * lacking), abs=1e-4)
    assert found["faults"] == 2
    sharp = characteristics(score(*_smeared(1e-3)))["fault"]
    assert sharp["smear_px"] == 0.0
    assert sharp["slip_error_0-32"] == pytest.approx(0.0, abs=1e-5)


def test_a_known_locking_curve_comes_back(rng):
    truth = rng.uniform(-2.0, 2.0, (2, 128, 128, 2)).astype(np.float32)
    distance = np.full(truth.shape[:3], np.inf, np.float32)
    locked = truth - 0.05 * np.sin(2 * np.pi * truth) + 0.3  # a shift of all is no locking
    scored = score(locked, truth, distance, 0 * truth, np.ones(truth.shape[:3], bool))
    phase, error = curves(scored)["locking"]
    mean_of_bin = np.sinc(1 / 10)  # of a sine over a tenth of its period
    np.testing.assert_allclose(error, -0.05 * mean_of_bin * np.sin(2 * np.pi * phase), atol=1e-3)
    largest = 0.05 * mean_of_bin * np.sin(2 * np.pi * 0.25)
    assert characteristics(scored)["locking"]["locking_px"] == pytest.approx(largest, rel=0.06)


@pytest.mark.parametrize("factor", [1.0, 0.2])
def test_a_false_step_is_found_and_held_against_its_sigma(factor):
    shape = (1, 64, 64)
    truth = np.zeros((*shape, 2), np.float32)
    estimate = truth.copy()
    estimate[:, :, 32:, 1] = 0.3  # at the edge of two blocks
    sigma = np.full_like(truth, 0.3 * factor)
    sigma[:, 3, 3] = np.nan
    calm = characteristics(
        score(estimate, truth, np.full(shape, np.inf), truth, np.ones(shape, bool), sigma=sigma)
    )["calm"]
    assert calm["pairs"] == 1
    assert calm["false_step_px"] == pytest.approx(0.3, rel=1e-5)
    assert calm["false_step_sigmas"] == pytest.approx(1.0 / (factor * np.sqrt(2)), rel=1e-4)
    assert calm["scatter_px"] == pytest.approx(0.3 / 2.0, rel=1e-5)
    with_fault = characteristics(score(*_smeared(8.0)))["calm"]
    assert with_fault["pairs"] == 0 and np.isnan(with_fault["false_step_px"])


def test_calibration_follows_what_sigma_promises(rng):
    _, truth, distance, slip, valid = _scene(rng)
    sigma = np.full_like(truth, 0.2)
    estimate = truth + sigma * rng.standard_normal(truth.shape).astype(np.float32)
    scored = score(estimate, truth, distance, slip, valid, sigma=sigma)
    for level, share in characteristics(scored)["calibration"].items():
        assert share == pytest.approx(float(level), abs=0.03)
    assert sigma_factor(scored) == pytest.approx(1.0, abs=0.05)
    for factor in (2.0, 10.0):
        smaller = score(estimate, truth, distance, slip, valid, sigma=sigma / factor)
        assert sigma_factor(smaller) == pytest.approx(factor, rel=0.05)
    assert sigma_factor(zero()) == 1.0
