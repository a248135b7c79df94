"""Filters, stripes, ramps: against SciPy, scikit-image and closed forms; windows against wholes."""

import numpy as np
import pytest
from scipy.ndimage import median_filter as scipy_median
from scipy.ndimage import uniform_filter
from skimage.restoration import denoise_nl_means

from displacement import postprocess
from displacement.finish import Corrections, Finish, find_corrections, finished_window
from displacement.ramp import fit_ramp, terms


@pytest.fixture
def field(rng):
    """A step of 2 px with noise of 0.1 px and a hole."""
    field = 0.1 * rng.standard_normal((60, 70, 2)).astype(np.float32)
    field[:, 35:, 0] += 2.0
    field[20:25, 10:20] = np.nan
    return field


def test_median_is_that_of_scipy_where_all_is_measured(rng):
    field = rng.standard_normal((40, 50, 2)).astype(np.float32)
    found = postprocess.median_filter(field, size=5)
    for i in (0, 1):
        expected = scipy_median(field[..., i], size=5)
        np.testing.assert_allclose(found[2:-2, 2:-2, i], expected[2:-2, 2:-2], rtol=1e-6)
    with pytest.raises(ValueError, match="odd"):
        postprocess.median_filter(field, size=4)


def test_median_leaves_out_what_was_not_measured(field):
    found = postprocess.median_filter(field, size=7)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(field))
    for row, col in [(0, 0), (19, 12), (25, 20), (59, 69)]:
        window = field[max(row - 3, 0) : row + 4, max(col - 3, 0) : col + 4]
        np.testing.assert_allclose(found[row, col], np.nanmedian(window, axis=(0, 1)), rtol=1e-5)


def test_nl_means_is_scikit_images_and_keeps_the_step(field):
    found = postprocess.nl_means(field, strength_px=0.1)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(field))
    whole = np.nan_to_num(field[:, :, :], nan=0.0)[30:]
    expected = denoise_nl_means(
        whole.astype(float), patch_size=5, patch_distance=10, h=0.1, channel_axis=-1
    )
    alone = postprocess.nl_means(field[30:], strength_px=0.1)
    np.testing.assert_allclose(alone, expected, atol=1e-4)
    assert np.nanstd(found[:, 40:, 0]) < 0.5 * np.nanstd(field[:, 40:, 0])
    step = np.nanmean(found[:, 35, 0]) - np.nanmean(found[:, 34, 0])
    assert step > 1.9
    assert uniform_filter(field[30:, :, 0], 5)[:, 35].mean() < 1.5  # what a mean would do


def test_outliers_are_found_and_the_step_is_kept(field):
    field[40, 40] += 3.0
    field[5, 60, 1] -= 1.0
    found = postprocess.outliers(field, size=9, largest=5.0)
    assert found[40, 40]
    assert found[5, 60]
    assert found.mean() < 0.01


def test_sigma_bounds_either_component():
    sigma = np.array([[[0.1, 0.1], [0.3, 0.1], [0.1, 0.3], [np.nan, np.nan]]])
    np.testing.assert_array_equal(
        postprocess.too_uncertain(sigma, 0.2), [[False, True, True, False]]
    )


def test_what_does_not_come_back_is_found():
    rows, cols = np.indices((40, 50), dtype=np.float32)
    forward = np.stack([1.5 + 0.01 * cols, -2.0 + 0.02 * rows], axis=-1)
    rim = 5
    rows, cols = np.indices((50, 60)) - rim
    # v(q) = -u(p) with q = p + u(p); solved by iteration for a field that varies slowly.
    origin = np.stack([rows, cols], -1).astype(float)
    for _ in range(50):
        moved = np.stack([1.5 + 0.01 * origin[..., 1], -2.0 + 0.02 * origin[..., 0]], -1)
        origin = np.stack([rows, cols], -1) - moved
    backward = -moved
    assert not postprocess.inconsistent(forward, backward, 0.01).any()
    still, holed = np.zeros((40, 50, 2)), np.zeros((50, 60, 2))
    holed[:, rim + 13] = np.nan
    lost = postprocess.inconsistent(still, holed, 0.1)
    assert lost[:, 13].all() and lost.sum() == 40  # none beside, at whole pixels
    backward[20:25, 20:25] += 0.5
    found = postprocess.inconsistent(forward, backward, 0.1)
    assert 20 <= found.sum() <= 45
    backward[:] = np.nan
    forward[0, 0] = np.nan
    found = postprocess.inconsistent(forward, backward, 0.1)
    assert not found[0, 0]
    assert found.sum() == found.size - 1


@pytest.mark.parametrize("direction", [0.0, 12.0, 90.0])
def test_stripes_are_taken_out_and_wide_signals_stay(rng, direction):
    rows, cols = (values.ravel() for values in np.indices((120, 150)))
    angle = np.deg2rad(direction)  # clockwise from up; across it, to the right and down
    number = np.round(cols * np.cos(angle) + rows * np.sin(angle)).astype(int)
    smooth = np.stack([rows / 100.0, np.sin(cols / 80.0)], -1)
    jumps = 0.2 * rng.standard_normal(600)[number + 100]
    noise = 0.02 * rng.standard_normal((rows.size, 2))
    field = smooth + jumps[:, None] + noise
    stripes = postprocess.find_stripes(field, rows, cols, direction_deg=direction, width=31)
    left = field - stripes.at(rows, cols) - smooth
    assert np.std(left - left.mean(0)) < 0.6 * np.std(jumps)
    inside = (rows > 30) & (rows < 90) & (cols > 30) & (cols < 120)
    away = left[inside] - np.median(left[inside], axis=0)
    assert 1.4826 * np.median(np.abs(away)) < 0.5 * 0.2


@pytest.mark.parametrize("order", ["constant", "linear", "quadratic"])
def test_ramp_is_found_though_a_third_moved(rng, order):
    shape = (300, 400)
    rows, cols = rng.integers(0, 300, 4000), rng.integers(0, 400, 4000)
    y, x = 2 * rows / 299 - 1, 2 * cols / 399 - 1
    true = rng.standard_normal((len(terms(order)), 2))
    surface = sum(c * (x**i * y**j)[:, None] for c, (i, j) in zip(true, terms(order), strict=True))
    field = surface + 0.05 * rng.standard_normal((4000, 2))
    field[cols > 270] += [3.0, -2.0]
    field[cols > 270] += rng.standard_normal((int((cols > 270).sum()), 2))
    ramp = fit_ramp(field, rows, cols, order=order, shape=shape)
    assert np.abs(ramp.at(rows, cols) - surface).max() < 0.15
    assert [len(ramp.describe()[name]) for name in ("terms", "row_px")] == [len(true)] * 2
    with pytest.raises(ValueError, match="only 20 pixels"):
        fit_ramp(field[:20], rows[:20], cols[:20], order=order, shape=shape)


def test_stable_ground_alone_says_what_the_ramp_is(rng):
    field = 0.02 * rng.standard_normal((100, 120, 5)).astype(np.float32)
    field[..., 0] += 0.5
    field[:80, ..., 1] += 2.0  # most of it moved

    class Stable:
        def inside(self, row, col, height, width):
            return (np.indices((height, width))[0] + row) >= 80

    def read(row, col, height, width):
        return field[row : row + height, col : col + width]

    found = find_corrections(read, (100, 120), Finish(ramp="constant"), Stable())
    np.testing.assert_allclose(found.ramp.coefficients, [[0.5, 0.0]], atol=0.01)
    assert found.tags(Finish(ramp="constant"))["RAMP"]["order"] == "constant"


def test_a_little_stable_ground_in_a_large_scene_is_enough(rng):
    shape = (900, 1200)
    noise = 0.02 * rng.standard_normal((*shape, 2)).astype(np.float32)

    class Corner:
        def inside(self, row, col, height, width):
            rows, cols = np.indices((height, width))
            return (rows + row < 9) & (cols + col < 9)

    def read(row, col, height, width):
        part = np.zeros((height, width, 5), np.float32)
        part[..., :2] = noise[row : row + height, col : col + width] + 0.5
        return part

    found = find_corrections(read, shape, Finish(ramp="constant"), Corner())
    np.testing.assert_allclose(found.ramp.coefficients, [[0.5, 0.5]], atol=0.02)
    assert not found.notes
    (note,) = find_corrections(read, shape, Finish(ramp="linear"), Corner()).notes
    assert "spans 1% of the rows and 1% of the columns" in note
    assert not find_corrections(read, shape, Finish(ramp="linear"), None).notes


def test_stripes_run_in_their_direction_on_the_ground():
    shape = (200, 200)
    size = 30.0, 10.0  # m: pixels wider than high
    rows, cols = np.indices(shape)
    # A bright line from the middle towards 30 degrees east of north.
    east, north = (cols - 100) * size[0], (100 - rows) * size[1]
    angle = np.deg2rad(30.0)
    across = east * np.cos(angle) - north * np.sin(angle)
    field = np.zeros((*shape, 5), np.float32)
    field[np.abs(across) < 10.0, :2] = 0.4

    def read(row, col, height, width):
        return field[row : row + height, col : col + width]

    finish = Finish(destripe_deg=30.0)
    left = {}
    for pixel_size in (size, (1.0, 1.0)):
        stripes = find_corrections(read, shape, finish, None, pixel_size=pixel_size).stripes
        moved = field[..., :2] - stripes.at(rows, cols)
        left[pixel_size] = np.abs(moved[np.abs(across) < 5.0]).mean()
    assert left[size] < 0.1
    assert left[1.0, 1.0] > 0.3


FINISHES = {
    "nothing": Finish(),
    "everything": Finish(
        ramp="linear",
        max_sigma_px=0.3,
        consistency_px=1.0,
        destripe_deg=10.0,
        outliers=4.0,
        median_px=5,
        nl_means_px=0.05,
    ),
}


@pytest.mark.parametrize("finish", FINISHES.values(), ids=FINISHES)
def test_windows_have_no_seams(rng, finish):
    shape = (90, 110)
    field = 0.1 * rng.standard_normal((*shape, 5)).astype(np.float32)
    field[..., 2:4] = np.abs(field[..., 2:4]) + 0.05
    field[30:40, 50:60] = np.nan
    back = -field

    def reader(values):
        return lambda row, col, height, width: values[row : row + height, col : col + width]

    corrections = find_corrections(reader(field), shape, finish, None)
    whole = finished_window(
        reader(field), shape, (0, 0, *shape), finish, corrections, backward=reader(back)
    )
    assert np.isnan(whole[30:40, 50:60]).all()
    for window in [(0, 0, 32, 32), (32, 32, 40, 40), (60, 80, 30, 30)]:
        part = finished_window(
            reader(field), shape, window, finish, corrections, backward=reader(back)
        )
        row, col, height, width = window
        np.testing.assert_allclose(part, whole[row : row + height, col : col + width], atol=1e-4)
    if finish == Finish():
        np.testing.assert_array_equal(whole, field)
        assert Corrections().tags(finish) == {"RAMP": "none", "POSTPROCESSING": "none"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ramp": "cubic"}, "--ramp=cubic"),
        ({"max_sigma_px": 0.0}, "--max_sigma_px=0.0 must be more than 0"),
        ({"nl_means_px": float("nan")}, "--nl_means_px"),
        ({"median_px": 4}, "--median_px=4 must be odd"),
    ],
)
def test_bounds_that_will_not_do_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Finish(**options)
