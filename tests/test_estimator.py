"""estimate() on arrays: its contract, tiles, whole pixels, and what it refuses."""

import itertools
import json
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import displacement
from displacement import checkpoint, estimator, scene, tiling
from displacement.estimator import create_instrument
from displacement.models import create_model
from displacement.prealign import take_out, whole_pixel_shift
from displacement.scene import ArrayImages, shared_shift, survey
from displacement.tiling import measured_tiles, padded_window, plan_tiles

CORRELATORS = {
    "phase": {"method": "phase", "window": 16, "step": 8},
    "ncc": {"method": "ncc", "window": 15, "step": 8},
    "lk": {"method": "lk", "window": 16},
}
every = pytest.mark.parametrize("options", CORRELATORS.values(), ids=CORRELATORS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders of freshly initialised weights, one for each network."""
    folder = tmp_path_factory.mktemp("weights")
    networks = {
        "cnn": {"name": "unet", "options": {"widths": [4, 4], "radius": 2}},
        "patch": {"name": "patch", "options": {"patch": 8, "width": 4}},
    }
    for method, described in networks.items():
        model = create_model(described["name"], **described["options"])
        params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 2)))["params"]
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


@pytest.mark.parametrize("method", ["cnn", "patch"])
def test_networks_keep_the_contract_at_any_size(texture, weights, method):
    for shape in [(33, 47)] if method == "cnn" else [(32, 32), (33, 47)]:
        earlier, later = np.moveaxis(texture.pair((0.4, -0.3))[: shape[0], : shape[1]], -1, 0)
        later = later.copy()
        later[:5] = np.nan
        found = displacement.estimate(
            earlier, later, method=method, weights=weights / method, prealign=False
        )
        _check(found, shape, method, sigma=method == "cnn")
        np.testing.assert_array_equal(found.valid, np.isfinite(later))
        assert found.details["weights"] == str(weights / method)
        assert found.details["step"] == 5


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


def test_whole_pixel_shift_has_the_sign_of_the_displacement(texture, rng):
    pair = texture.pair((5.3, -3.2)) + 0.2 * rng.standard_normal((128, 128, 2))
    assert whole_pixel_shift(pair) == (5, -3)
    assert whole_pixel_shift(pair[:50, :70]) == (5, -3)
    pair[:, :40, 1] = np.nan
    assert whole_pixel_shift(pair) == (5, -3)
    assert whole_pixel_shift(rng.standard_normal((64, 64, 2))) == (0, 0)  # nothing is shared


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-2, 7), (20, 0)])
def test_take_out_brings_the_ground_back(rng, shift):
    earlier = rng.standard_normal((12, 15)).astype(np.float32)
    later = np.roll(earlier, shift, axis=(0, 1))
    back = take_out(later, shift)
    rows, cols = np.indices(back.shape)
    inside = (rows + shift[0] >= 0) & (rows + shift[0] < 12)
    inside &= (cols + shift[1] >= 0) & (cols + shift[1] < 15)
    np.testing.assert_array_equal(back[inside], earlier[inside])
    assert np.isnan(back[~inside]).all()


def map_tiles(function, pair, **sizes):
    """What tiles give, put together; each pixel must come from exactly one."""

    def read(*window):
        return padded_window(pair, *window)

    whole, count = None, np.zeros(pair.shape[:2], int)
    for tile, values in measured_tiles(function, read, plan_tiles(pair.shape[:2], **sizes)):
        assert values.shape[:2] == tile.kept
        if whole is None:
            whole = np.empty((*pair.shape[:2], values.shape[-1]), values.dtype)
        place = tuple(slice(a, a + n) for a, n in zip(tile.first, tile.kept, strict=True))
        whole[place] = values
        count[place] += 1
    assert (count == 1).all()
    return whole


@pytest.mark.parametrize("shape", [(64, 64), (65, 200), (150, 97), (33, 64), (31, 95)])
def test_tiles_give_what_the_whole_gives(rng, shape):
    pair = rng.standard_normal((*shape, 2)).astype(np.float32)
    reach = np.arange(-16, 17)

    def local(pair):  # depends on 16 px around, and on rows and cols by their place alone
        padded = np.pad(pair, ((16, 16), (16, 16), (0, 0)), constant_values=np.nan)
        size = pair.shape
        rows = sum(np.nan_to_num(padded[16 + k : 16 + k + size[0], 16:-16]) for k in reach)
        cols = sum(np.nan_to_num(padded[16:-16, 16 + k : 16 + k + size[1]]) for k in reach)
        return np.concatenate([rows, cols], axis=-1)

    found = map_tiles(local, pair, tile=64, margin=16)
    assert found.shape == (*shape, 4)
    np.testing.assert_allclose(found, local(pair), atol=1e-4)


def test_every_tile_has_the_same_shape(rng):
    shapes = set()

    def function(pair):
        shapes.add(pair.shape)
        return pair[..., :1]

    map_tiles(function, rng.standard_normal((100, 130, 2)), tile=48, margin=16)
    assert shapes == {(48, 48, 2)}
    with pytest.raises(ValueError, match="multiples of 16"):
        map_tiles(function, np.zeros((64, 64, 2)), tile=60, margin=16)
    with pytest.raises(ValueError, match="more than two margins"):
        map_tiles(function, np.zeros((64, 64, 2)), tile=64, margin=32)


def test_tiles_are_spread_over_the_devices_and_come_in_order(rng, monkeypatch):
    count = jax.local_device_count()  # 8, by conftest.py
    monkeypatch.setattr(tiling, "measuring_devices", jax.local_devices)
    pair = rng.standard_normal((64, 32 * (2 * count + 1), 2)).astype(np.float32)
    together = threading.Barrier(count, timeout=60)  # passed only by as many tiles at once
    calls, used = itertools.count(), set()

    def function(tile):
        used.update(jnp.asarray(tile).devices())
        if next(calls) < count:
            together.wait()
        return tile

    found = map_tiles(function, pair, tile=64, margin=16)
    np.testing.assert_array_equal(found, pair)
    assert len(used) == count > 1


def test_of_cpu_devices_one_measures_and_a_chosen_device_is_kept_to():
    assert tiling.measuring_devices() == jax.local_devices()[:1]
    with jax.default_device(jax.local_devices()[3]):
        assert tiling.measuring_devices() == jax.local_devices()[3:4]


def test_what_is_in_work_when_it_is_interrupted_is_finished():
    main, calls, finished = threading.main_thread().ident, [], []

    def function(tile):
        calls.append(tile)
        if len(calls) == 3:
            time.sleep(0.2)  # until the main thread waits for this tile
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.2)
        return tile

    def read(*window):
        return np.zeros((64, 64, 2))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    try:
        with pytest.raises(KeyboardInterrupt):
            tiles = plan_tiles((64, 640), tile=64, margin=16)
            for tile, _ in measured_tiles(function, read, tiles):
                finished.append(tile)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(finished) == 3


def test_an_error_in_a_tile_ends_the_rest():
    read, measured = [], []

    def function(tile):
        measured.append(tile)
        raise ValueError("this one")

    def reader(*window):
        read.append(window)
        return np.zeros((64, 64, 2))

    tiles = plan_tiles((64, 64 * 40), tile=64, margin=16)
    with pytest.raises(ValueError, match="this one"):
        list(measured_tiles(function, reader, tiles))
    assert len(measured) <= len(read) <= 2


def test_windows_reach_outside(rng):
    image = rng.standard_normal((20, 30))
    whole = np.pad(image, 50, constant_values=np.nan)
    for row, col, height, width in [
        (-5, 3, 10, 10),
        (15, 25, 12, 9),
        (-50, -50, 120, 130),
        (4, 5, 3, 2),
    ]:
        np.testing.assert_array_equal(
            padded_window(image, row, col, height, width),
            whole[50 + row :, 50 + col :][:height, :width],
        )
    for row, col in [(-40, 0), (21, 0), (0, 31), (0, -12)]:
        assert np.isnan(padded_window(image, row, col, 10, 10)).all()


def test_statistics_of_a_scene_in_blocks_are_those_of_the_whole(rng, monkeypatch):
    monkeypatch.setattr("displacement.scene.BLOCK_PX", 48)
    earlier, later = 40_000 + 30 * rng.standard_normal((2, 130, 170))
    later += np.linspace(0, 100, 170)
    earlier[:50, :60], later[100:] = np.nan, np.nan
    found = survey(ArrayImages(earlier, later), prealign=False)
    np.testing.assert_allclose(found.mean, [np.nanmean(earlier), np.nanmean(later)], rtol=1e-12)
    np.testing.assert_allclose(found.scatter, [np.nanstd(earlier), np.nanstd(later)], rtol=1e-10)
    assert found.shift == (0, 0)
    assert found.common == np.isfinite(earlier + later).sum()


def test_large_scenes_are_aligned_by_most_of_their_windows(rng, monkeypatch):
    monkeypatch.setattr("displacement.scene.LARGEST_PX", 64)
    monkeypatch.setattr("displacement.prealign.LARGEST_PX", 64)
    earlier = rng.standard_normal((300, 320))
    later = np.roll(earlier, (6, -4), axis=(0, 1))
    assert shared_shift(ArrayImages(earlier, later)) == (6, -4)
    clouded = later.copy()
    clouded[100:200, 100:220] = rng.standard_normal((100, 120))  # over the middle
    assert shared_shift(ArrayImages(earlier, clouded)) == (6, -4)
    clouded[100:200, 100:220] = np.roll(earlier, (-9, 3), axis=(0, 1))[100:200, 100:220]
    assert shared_shift(ArrayImages(earlier, clouded)) == (6, -4)
    assert shared_shift(ArrayImages(earlier, rng.standard_normal((300, 320)))) is None


def test_tiled_correlator_is_seamless(texture, monkeypatch):
    pair = np.tile(texture.pair((0.4, -0.3)), (1, 3, 1))[:32, :353]
    options = {"method": "ncc", "window": 9, "step": 5, "search": 1, "prealign": False}
    tiled = displacement.estimate(*np.moveaxis(pair, -1, 0), **options)
    monkeypatch.setattr(estimator, "_tiles", lambda *_: {"tile": 1024, "margin": 16})
    whole = displacement.estimate(*np.moveaxis(pair, -1, 0), **options)
    np.testing.assert_array_equal(tiled.valid, whole.valid)
    assert whole.valid[5:26, 5:346].mean() > 0.9  # small windows err now and then
    np.testing.assert_allclose(
        tiled.displacement[tiled.valid], whole.displacement[whole.valid], atol=1e-3
    )


@pytest.mark.parametrize(("reach", "step"), [(20, 1), (24, 4), (70, 5), (300, 100)])
def test_nodes_of_all_tiles_are_those_of_the_whole(reach, step):
    tiles = estimator._tiles(reach, step)
    assert tiles["margin"] >= reach
    assert (tiles["tile"] - 2 * tiles["margin"]) % step == 0
    assert tiles["tile"] % 16 == tiles["margin"] % 16 == 0


def test_of_several_tiles_that_is_taken_which_measures_least():
    sizes = {"tile": (640, 768, 1024), "margin": 64}
    for shape, expected in [((1000, 1000), 1008), ((1400, 1400), 768), ((200, 300), 208)]:
        plan = plan_tiles(shape, **sizes)
        assert plan[0].shape[0] == expected
        assert sum(height * width for height, width in (t.kept for t in plan)) == np.prod(shape)


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
        (GOOD, GOOD, {"method": "ncc", "step": 0}, "step=0 must be 1 px or more"),
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


def test_flat_ground_is_found_alike_in_any_window(rng):
    image = rng.standard_normal((90, 100))
    image[20:50, 30:60] = 3.0
    image[70:90, 80:100] = 4.0  # at the edge of the scene
    image[60:75, 5:20] = 5.0  # 15 px
    images = ArrayImages(image, image)
    whole = scene._read(images, 0, (0, 0, 90, 100))
    expected = np.zeros(image.shape, bool)
    expected[20:50, 30:60] = expected[70:90, 80:100] = True
    np.testing.assert_array_equal(np.isnan(whole), expected)
    for row, col in ((0, 0), (25, 35), (45, 50)):
        part = scene._read(images, 0, (row, col, 45, 50))
        np.testing.assert_array_equal(part, whole[row : row + 45, col : col + 50])


def test_what_is_strange_about_a_pair_is_said(texture):
    earlier, later = np.moveaxis(texture.pair((0.2, 0.1))[:64, :64], -1, 0)
    with pytest.warns(UserWarning, match="few grey levels"):
        displacement.estimate(earlier > 0, later > 0, **CORRELATORS["lk"])
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


def test_the_method_is_that_of_the_weights(texture):
    assert create_instrument("cnn", weights="patch").method == "patch"
    assert create_instrument("patch", weights="cnn").method == "cnn"
    assert create_instrument("cnn").details["network"] == "iterative"
