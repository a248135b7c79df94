"""estimate() on arrays: its contract, whole pixels, and what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import displacement
from displacement import checkpoint, estimator, methods, types
from displacement.estimator import create_instrument
from displacement.models import create_model

CORRELATORS = {
    "phase": {"method": "phase", "window": 16, "step": 8},
    "ncc": {"method": "ncc", "window": 15, "step": 8},
    "lk": {"method": "lk", "window": 16},
}
every = pytest.mark.parametrize("options", CORRELATORS.values(), ids=CORRELATORS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders of small random weights, one for each network."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("weights")
    networks = {
        "cnn": {"name": "unet", "options": {"widths": [4, 4], "radius": 2}},
        "quick": {"name": "cells", "options": {"widths": [4, 4], "radius": 2}},
        "patch": {"name": "patch", "options": {"patch": 8, "width": 4}},
    }
    for method, described in networks.items():
        model = create_model(described["name"], **described["options"])
        shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 16, 16, 2)))["params"]
        params = jax.tree.map(lambda leaf: 0.01 * rng.standard_normal(leaf.shape), shapes)
        checkpoint.export(folder / method, params, described, {"step": 5})
    return folder


def _check(found, shape, method, sigma):
    assert found.displacement.shape == (*shape, 2)
    assert found.displacement.dtype == np.float32
    assert found.valid.shape == shape
    assert found.valid.dtype == bool
    assert (np.isfinite(found.displacement).all(-1) == found.valid).all()
    assert np.isnan(found.displacement[~found.valid]).all()
    assert (found.sigma is not None) == sigma
    if sigma:
        assert found.sigma.shape == (*shape, 2)
        assert (np.isfinite(found.sigma).all(-1) == found.valid).all()
        assert (found.sigma[found.valid] > 0).all()
    assert found.method == method
    assert (found.quality is not None) == (method in CORRELATORS)
    if found.quality is not None:
        assert np.nanmax(found.quality) <= 1.0 + 1e-5
        assert (np.isfinite(found.quality) == found.valid).all()
    json.dumps(found.details)


@every
def test_correlators_keep_the_contract(texture, options):
    earlier, later = np.moveaxis(texture.pair((0.4, -0.3))[:64, :64], -1, 0)
    earlier = earlier.copy()
    earlier[20:24, 30:50] = np.nan
    before = earlier.copy(), later.copy()
    found = displacement.estimate(earlier, later, **options)
    _check(found, (64, 64), options["method"], sigma=False)
    assert not found.valid[20:24, 30:50].any()
    assert found.valid[32:56, 8:56].all()
    assert np.abs(np.median(found.displacement[found.valid], axis=0) - [0.4, -0.3]).max() < 0.02
    assert found.details["window"] == options["window"]
    assert found.details["prealign_px"] == [0, 0]
    np.testing.assert_array_equal(earlier, before[0])  # what is handed in stays as it is
    np.testing.assert_array_equal(later, before[1])


@pytest.mark.parametrize("method", ["cnn", "quick", "patch"])
def test_networks_keep_the_contract_at_any_size(texture, weights, method):
    for shape in [(33, 47)] if method != "patch" else [(32, 32), (33, 47)]:
        earlier, later = np.moveaxis(texture.pair((0.4, -0.3))[: shape[0], : shape[1]], -1, 0)
        later = later.copy()
        later[:5] = np.nan
        found = displacement.estimate(
            earlier, later, method=method, weights=weights / method, prealign=False
        )
        _check(found, shape, method, sigma=method != "patch")
        np.testing.assert_array_equal(found.valid, np.isfinite(later))
        assert found.details["weights"] == str(weights / method)
        assert found.details["step"] == 5


def test_a_network_that_measured_nothing_still_has_its_sigma():
    nothing = np.full((40, 40, len(types.CHANNELS)), np.nan, np.float32)
    assert np.isnan(estimator.as_estimate(nothing, "cnn", {}).sigma).all()
    assert estimator.as_estimate(nothing, "lk", {}).sigma is None


@pytest.mark.parametrize("shape", [(32, 32), (33, 47)])
def test_small_and_odd_sizes_are_measured(texture, shape):
    pair = texture.pair((0.4, -0.3))[: shape[0], : shape[1]]
    found = displacement.estimate(*np.moveaxis(pair, -1, 0), **CORRELATORS["ncc"])
    _check(found, shape, "ncc", sigma=False)
    assert found.valid[8:24, 8:24].all()
    assert np.abs(found.displacement[8:24, 8:24] - [0.4, -0.3]).max() < 0.05


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64, np.float16])
def test_any_real_type_is_measured(texture, dtype):
    pair = texture.pair((0.4, -0.3))[:64, :64].astype(np.float64)
    gain = 30.0 if np.dtype(dtype).itemsize < 4 else 30000.0
    earlier, later = np.moveaxis(np.round(pair * gain + 4.2 * gain), -1, 0).astype(dtype)
    found = displacement.estimate(earlier, later, **CORRELATORS["ncc"])
    assert np.abs(np.median(found.displacement[found.valid], axis=0) - [0.4, -0.3]).max() < 0.02


def test_bool_and_masked_images_are_taken(texture):
    earlier, later = np.moveaxis(texture.pair((2, -1))[:64, :64], -1, 0)
    found = displacement.estimate(earlier > 0, later > 0, **CORRELATORS["ncc"])
    assert np.abs(np.nanmedian(found.displacement, axis=(0, 1)) - [2, -1]).max() < 0.1
    mask = np.zeros(later.shape, bool)
    mask[40:, :] = True
    masked = np.ma.array(np.where(mask, -9999.0, later), mask=mask)
    found = displacement.estimate(earlier, masked, **CORRELATORS["ncc"])
    assert found.valid[10:30, 10:54].all()
    assert not found.valid[42:].any()
    assert np.abs(np.nanmedian(found.displacement, axis=(0, 1)) - [2, -1]).max() < 0.02


@every
def test_whole_pixels_are_taken_out_and_counted_in(texture, options):
    shift = np.array([9.4, -6.7])  # beyond the reach of the windows
    pair = texture.pair(tuple(shift))[:96, :96]
    found = displacement.estimate(*np.moveaxis(pair, -1, 0), **options)
    assert found.details["prealign_px"] == [9, -7]
    assert np.abs(np.nanmedian(found.displacement, axis=(0, 1)) - shift).max() < 0.02
    assert not found.valid[-9:].any()  # its ground has left the later image
    assert not found.valid[:, :7].any()
    back = displacement.estimate(*np.moveaxis(pair, -1, 0)[::-1], **options)
    assert np.abs(np.nanmedian(back.displacement, axis=(0, 1)) + shift).max() < 0.02
    plain = displacement.estimate(*np.moveaxis(pair, -1, 0), prealign=False, **options)
    assert plain.details["prealign_px"] == [0, 0]


def test_tiled_correlator_is_seamless(texture, monkeypatch):
    pair = np.tile(texture.pair((0.4, -0.3)), (1, 3, 1))[:32, :353]
    options = {"method": "ncc", "window": 9, "step": 5, "search": 1, "prealign": False}
    tiled = displacement.estimate(*np.moveaxis(pair, -1, 0), **options)
    one = dataclasses.replace(methods.METHODS["ncc"], tiles=lambda _: {"tile": 1024, "margin": 16})
    monkeypatch.setitem(methods.METHODS, "ncc", one)
    whole = displacement.estimate(*np.moveaxis(pair, -1, 0), **options)
    np.testing.assert_array_equal(tiled.valid, whole.valid)
    assert whole.valid[5:26, 5:346].mean() > 0.9  # small windows err now and then
    np.testing.assert_allclose(
        tiled.displacement[tiled.valid], whole.displacement[whole.valid], atol=1e-3
    )


GOOD = np.random.default_rng(0).standard_normal((40, 40))


@pytest.mark.parametrize(
    ("earlier", "later", "options", "message"),
    [
        (GOOD, GOOD[:, :39], {}, r"differ in shape, \(40, 40\) and \(40, 39\)"),
        (GOOD + 1j, GOOD, {}, "earlier image is of type complex128"),
        (GOOD.astype(str), GOOD, {}, "earlier image is of type <U"),
        (np.ones((40, 40)), GOOD, {}, "earlier image is 1 everywhere"),
        (GOOD, np.full((40, 40), np.nan), {}, "later image holds no valid pixel"),
        (GOOD, np.full((40, 40), np.inf), {}, "later image holds no valid pixel"),
        (GOOD[:31], GOOD[:31], {}, "31 x 40 px; at least 32 x 32"),
        (GOOD[None], GOOD, {}, r"earlier image has shape \(1, 40, 40\)"),
        (GOOD, GOOD, {"method": "cosi"}, "Unknown method 'cosi'.*cnn.*ncc.*patch.*phase"),
        (GOOD, GOOD, {"method": "phase", "search": 3}, "no option.*search.*window"),
        (GOOD, GOOD, {"method": "ncc", "size": 3}, "no option.*size.*search"),
        (GOOD, GOOD, {"method": "ncc", "weights": "small"}, "takes no weights"),
        (GOOD, GOOD, {"method": "ncc", "step": 0}, "step=0 must be from 1 px to the window"),
        (GOOD, GOOD, {"method": "ncc", "window": 16}, "odd window"),
        (GOOD, GOOD, {"method": "phase", "window": 15}, "even window"),
        (GOOD, GOOD, {"method": "cnn", "weights": "nowhere"}, "No weights at 'nowhere'"),
    ],
)
def test_what_cannot_be_measured_is_refused(earlier, later, options, message):
    with pytest.raises(ValueError, match=message):
        displacement.estimate(earlier, later, **({"method": "phase"} | options))


def test_network_takes_no_window(weights):
    with pytest.raises(ValueError, match=r"Method 'cnn' has no option.*window"):
        displacement.estimate(GOOD, GOOD, method="cnn", weights=weights / "cnn", window=16)


@pytest.mark.parametrize("method", ["ncc", "lk"])
def test_fill_of_one_value_is_not_measured(texture, method):
    """Zeros that no tag tells, in both dates at the same place, would say that nothing moved."""
    earlier, later = (image.copy() for image in np.moveaxis(texture.pair((0.4, -0.3)), -1, 0))
    for image in (earlier, later):
        image[:40] = 0.0
    earlier[60:70, 60:70] = 7.0  # too small to be fill: measured with what lies about it
    options = CORRELATORS[method]
    found = displacement.estimate(earlier, later, **options)
    assert not found.valid[:40].any()
    assert found.valid[60:120, 10:118].mean() > 0.9
    for image in (earlier, later):
        image[:40] = np.nan
    told = displacement.estimate(earlier, later, **options)
    np.testing.assert_array_equal(found.displacement, told.displacement)


def test_what_is_strange_about_a_pair_is_said(texture):
    earlier, later = np.moveaxis(texture.pair((0.2, 0.1))[:64, :64], -1, 0)
    with pytest.warns(UserWarning, match="few grey levels"):
        displacement.estimate(earlier > 0, later > 0, **CORRELATORS["lk"])
    stripes = np.where(np.arange(64) % 16 < 6, -9999.0, earlier)  # as Landsat-7's, untagged
    with pytest.warns(UserWarning) as told:
        displacement.estimate(stripes, later, **CORRELATORS["ncc"])
    assert "the earlier image are exactly -9999, far from all" in str(told[0].message)
    with pytest.warns(UserWarning, match="No whole-pixel shift"):
        displacement.estimate(earlier, later[::-1], **CORRELATORS["ncc"])
    left = np.where(np.arange(64) < 30, earlier, np.nan)
    right = np.where(np.arange(64) < 34, np.nan, later)
    with pytest.warns(UserWarning, match="No pixel is valid in both"):
        found = displacement.estimate(left, right, **CORRELATORS["lk"])
    assert not found.valid.any()


def test_a_window_that_does_not_fit_is_refused(texture):
    pair = np.moveaxis(texture.pair((0.2, 0.1))[:64, :96], -1, 0)
    for method in ("phase", "ncc"):
        with pytest.raises(ValueError, match=r"window=\d+ px is larger than the images, 64 x 96"):
            displacement.estimate(*pair, method=method, window=65 if method == "ncc" else 80)
    with pytest.raises(ValueError, match="coarse=96 px is larger than the images, 64 x 96"):
        displacement.estimate(*pair, method="phase", window=32, coarse=96)


def test_the_method_is_that_of_the_weights(texture):
    assert create_instrument("cnn", weights="patch").method == "patch"
    assert create_instrument("patch", weights="cnn").method == "cnn"
    assert create_instrument("cnn", weights="quick").method == "quick"
    assert create_instrument("cnn").details["network"] == "iterative"
