"""The comparison: its bound, its intervals, and a report that exposes a smearing estimator."""

import dataclasses
import sys
import types

import jax
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from data_gen.generator import Sample
from displacement import metrics
from displacement.types import Estimate
from experiments import compare, report, scoring
from experiments.logs import RunLog

SIZE, SLIP = 96, 1.2


def _sample(rng):
    """A sharp vertical fault through the middle; ground of known gradient."""
    cols = np.arange(SIZE, dtype=np.float32)
    distance = np.broadcast_to(cols - SIZE / 2 + 0.5, (SIZE, SIZE))
    displacement = np.stack([0.5 * SLIP * np.sign(distance), np.zeros((SIZE, SIZE))], -1)
    image = rng.standard_normal((SIZE, SIZE))
    return Sample(
        pair=np.stack([image, image], -1).astype(np.float32),
        displacement=displacement.astype(np.float32),
        distance=distance.astype(np.float32),
        slip=np.broadcast_to(np.float32([SLIP, 0.0]), (SIZE, SIZE, 2)),
        valid=np.ones((SIZE, SIZE), bool),
    )


def _estimate(sample, window, rng, noise):
    """What a window of this size makes of the step, with noise beside."""
    profile = np.clip(sample.distance / window, -0.5, 0.5)[..., None]
    found = profile * sample.slip + noise * rng.standard_normal(sample.displacement.shape)
    return Estimate(found.astype(np.float32), None, sample.valid, "made up", {})


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(2)
    samples = [_sample(rng) for _ in range(6)]
    made = {"sharp": (0.5, 0.02), "smear 16": (16.0, 0.02), "smear 32": (32.0, 0.01)}
    parts = {
        name: [scoring.score_one(_estimate(s, w, rng, n), s) for s in samples]
        for name, (w, n) in made.items()
    }
    return samples, parts


def test_a_smearing_estimator_is_exposed(scored):
    samples, parts = scored
    scores = compare.compared(parts, samples, dict.fromkeys(parts, 1.0)).scores
    assert scores["sharp"]["near"]["mae"] < 0.03
    # Closed form: slip (1/2 - |x| / 16) on one component of two, over |x| < 8.
    nothing = scores | {"blind": {"near": {"mae": float("nan")}}}
    assert report._least(nothing, ["blind", "smear 16", "sharp"]) == "sharp"
    assert scores["smear 16"]["near"]["mae"] == pytest.approx(SLIP * 0.25 / 2, abs=0.02)
    # 1/2 - |x| / 32 in the middle of the bands to 2, 4 and 8 px, which count alike.
    expected = -np.mean([0.5 - x / 32 for x in (1, 3, 6)])
    assert scores["smear 32"]["near"]["slip_bias"] == pytest.approx(expected, abs=0.01)
    assert scores["smear 32"]["far"]["nmad"] == pytest.approx(0.01, rel=0.05)


def test_intervals_hold_the_figure_and_are_narrow_where_faults_are_alike(scored):
    for found in scored[1].values():
        low, high = metrics.interval(found, band=metrics.NEAR, name="mae", draws=40)
        assert low <= metrics.summary(scoring.together(found))["near"]["mae"] <= high
        assert high - low < 0.01
    nothing = [jax.tree.map(np.zeros_like, found) for found in scored[1]["sharp"]]
    assert np.isnan(metrics.interval(nothing, band=metrics.FAR, name="mae", draws=4)).all()


def test_the_bound_is_the_formula(scored):
    samples, _ = scored
    windows = np.array([16.0, 32.0])
    # White ground seen through a Gaussian of 1 px: its slope is 1 / sqrt(2) of its scatter per px.
    seen = [s._replace(pair=gaussian_filter(s.pair, 1.0, axes=(0, 1))) for s in samples]
    near, far = compare.bound(seen, windows, noise_fraction=0.1)
    np.testing.assert_allclose(far, np.sqrt(2) / (np.sqrt(0.5) / 0.1 * windows), rtol=0.03)
    assert near[0] == pytest.approx(SLIP * 2 / np.pi * 0.25, rel=0.02)
    assert near[1] > near[0]
    # A pair that shows nothing has no say; without any other there is no bound.
    empty = seen[0]._replace(valid=np.zeros_like(seen[0].valid))
    again = compare.bound([empty, *seen], windows, noise_fraction=0.1)
    np.testing.assert_allclose(again, (near, far))
    assert np.isnan(compare.bound([empty], windows, noise_fraction=0.1)).all()


def test_the_report_is_one_page_with_everything(scored):
    samples, parts = scored
    found = compare.compared(parts, samples, dict.fromkeys(parts, 1.0))
    page = report.page(found, {"Trade-off": b"picture"}, {"command": "<made & up>"})
    assert "<b>sharp</b>" in page and "&lt;made &amp; up&gt;" in page
    assert page.count("<table>") == 2 and "http" not in page
    assert len(found.strata) == 12  # thirds by slip, agreement, texture and relief
    figure = report.trade_off_figure(
        found, compare.bound(samples, np.array([8.0, 16.0]), noise_fraction=0.1)
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "sharp" in labels and "smear" in labels
    for name in list(parts):  # a name may be a number, and nothing be far from the fault
        found.scores["2024"] = found.scores.pop(name)
        found.intervals["2024"] = found.intervals[name]
        found.scores["2024"]["far"]["nmad"] = np.nan
    assert report.trade_off_figure(found, (np.ones(2), np.ones(2))).axes
    found = compare.compared(parts, samples, dict.fromkeys(parts, 1.0))
    lines = report.markdown(found).splitlines()
    assert len(lines) == 2 + len(parts) and len({line.count("|") for line in lines}) == 1


def test_an_over_confident_estimator_is_exposed(scored):
    samples, _ = scored
    rng = np.random.default_rng(3)
    parts = {}
    for name, stated in (("honest", 0.05), ("boastful", 0.02)):
        parts[name] = [
            scoring.score_one(
                dataclasses.replace(
                    _estimate(s, 0.5, rng, 0.05), sigma=np.full((SIZE, SIZE, 2), stated)
                ),
                s,
            )
            for s in samples
        ]
    found = compare.compared(parts, samples, dict.fromkeys(parts, 1.0))
    assert found.characteristics["honest"]["calibration"]["0.95"] == pytest.approx(0.95, abs=0.01)
    assert found.characteristics["boastful"]["calibration"]["0.95"] < 0.6
    figure = report.details_figure(found)
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[2].get_lines()}
    assert drawn["honest"][3] > drawn["boastful"][3]


def test_the_dates_agreement_is_their_correlation_under_the_true_motion(rng):
    sample = _sample(rng)
    still = sample._replace(displacement=np.zeros_like(sample.displacement))
    alike, fine = compare._agreement(still.pair, still.displacement, still.valid)
    assert alike == pytest.approx(1.0, abs=1e-4)
    assert fine == pytest.approx(2.0, rel=0.1)  # of white ground: two differences of variance 2
    later = still.pair[..., 1] + rng.standard_normal((SIZE, SIZE)).astype(np.float32)
    noisy = np.stack([still.pair[..., 0], later], -1)
    alike, _ = compare._agreement(noisy, still.displacement, still.valid)
    assert alike == pytest.approx(np.sqrt(0.5), abs=0.05)


def test_relief_is_the_share_that_is_coarse(rng):
    fine = _sample(rng)
    rows = np.arange(SIZE, dtype=np.float32)[:, None] * np.ones(SIZE, np.float32)
    hills = np.sin(2 * np.pi * rows / 96.0)
    assert compare._relief(fine) < 0.02
    assert compare._relief(fine._replace(pair=np.stack([hills, hills], -1))) > 0.6
    mixed = hills * np.sqrt(2.0) + fine.pair[..., 0]
    assert 0.2 < compare._relief(fine._replace(pair=np.stack([mixed, mixed], -1))) < 0.5


def test_wandb_gets_every_figure_as_tables(scored, tmp_path, monkeypatch):
    samples, parts = scored
    found = compare.compared(parts, samples, dict.fromkeys(parts, 1.0))
    logged = {}
    run = types.SimpleNamespace(log=logged.update, finish=lambda: None)
    stand_in = types.SimpleNamespace(
        init=lambda **_: run,
        Settings=lambda **_: None,
        Table=lambda columns, data: (columns, data),
    )
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    with RunLog(tmp_path, wandb_mode="offline", config={}, job="compare") as log:
        log.tabulate({"by_band": compare._by_band(found), "by_stratum": compare._by_stratum(found)})
    columns, rows = logged["by_band"]
    near = next(row for row in rows if row[:2] == ["sharp", "near"])
    assert near[columns.index("mae")] == found.scores["sharp"]["near"]["mae"]
    assert {row[1] for row in logged["by_stratum"][1]} == set(parts)
    assert all(len(row) == len(columns) for row in rows)


def test_all_can_be_scored_where_one_of_them_measured(scored, rng):
    samples, _ = scored

    def picky(_, sample):
        found = _estimate(sample, 0.5, rng, 0.02)
        found.displacement[:, :40] = np.nan
        return found

    kept = scoring.where_measured(samples, picky)
    assert all(not s.valid[:, :40].any() and s.valid[:, 40:].all() for s in kept)
    assert all(s.valid.all() for s in samples)
