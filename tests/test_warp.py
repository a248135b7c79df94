"""The cubic B-spline against SciPy's, and which way a warp moves."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from displacement.warp import (
    FINE,
    bspline_coefficients,
    fine_coefficients,
    grid,
    quick_gradient,
    quick_values,
    sample,
    sample_quickly,
    sample_quickly_with_gradient,
    sample_with_gradient,
)


@jax.jit
def move(image, displacement):
    """The image moved by a displacement in backward form, out(x) = image(x - u(x))."""
    return sample(bspline_coefficients(image), grid(*image.shape) - displacement)


@pytest.mark.parametrize("shape", [(13, 13), (20, 37), (2, 3, 16, 15)])
def test_coefficients_are_those_of_scipy(rng, shape):
    image = rng.standard_normal(shape).astype(np.float32)
    expected = image.astype(np.float64)
    for axis in (-2, -1):
        expected = ndimage.spline_filter1d(expected, order=3, axis=axis, mode="mirror")
    np.testing.assert_allclose(bspline_coefficients(image), expected, atol=1e-5)


def test_samples_are_those_of_scipy_inside_and_outside(rng):
    image = rng.standard_normal((21, 34)).astype(np.float32)
    positions = rng.uniform((-30.0, -50.0), (50.0, 80.0), (500, 2)).astype(np.float32)
    expected = ndimage.map_coordinates(
        image.astype(np.float64), positions.T.astype(np.float64), order=3, mode="mirror"
    )
    found = jax.jit(sample)(bspline_coefficients(image), positions)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_gradient_is_the_derivative_of_the_samples(rng):
    coefficients = bspline_coefficients(rng.standard_normal((21, 34)).astype(np.float32))
    positions = rng.uniform((-5.0, -5.0), (25.0, 40.0), (200, 2)).astype(np.float32)
    value, gradient = jax.jit(sample_with_gradient)(coefficients, positions)
    np.testing.assert_allclose(value, jax.jit(sample)(coefficients, positions), atol=1e-5)
    summed = jax.jit(jax.grad(lambda p: sample(coefficients, p).sum()))
    np.testing.assert_allclose(gradient, summed(positions), atol=1e-4)


def test_too_small_image_is_refused():
    with pytest.raises(ValueError, match=r"at least 13.*\(12, 40\)"):
        bspline_coefficients(np.zeros((12, 40), np.float32))


def test_grid_is_row_then_col():
    positions = np.asarray(grid(3, 5))
    assert positions.shape == (3, 5, 2)
    assert positions.dtype == np.float32
    np.testing.assert_array_equal(positions[2, 4], [2.0, 4.0])


@settings(max_examples=10, deadline=None, derandomize=True)
@given(row=st.integers(-5, 5), col=st.integers(-5, 5))
def test_whole_pixels_are_exact_and_go_down_and_right(row, col):
    image = np.random.default_rng(3).standard_normal((32, 32)).astype(np.float32)
    moved = np.asarray(move(image, np.float32([row, col])))
    middle = np.s_[8:24, 8:24]
    expected = np.roll(image, (row, col), axis=(0, 1))  # ground moves to higher rows and cols
    np.testing.assert_allclose(moved[middle], expected[middle], atol=1e-5)


def test_displacement_lies_on_the_grid_of_the_result():
    image = np.tile(np.arange(32, dtype=np.float32) ** 2 / 100, (32, 1))
    field = np.zeros((32, 32, 2), np.float32)
    field[:, 20:, 1] = 1.5
    moved = np.asarray(move(image, field))
    cols = np.arange(32) - field[16, :, 1]  # backward form: out(x) = image(x - u(x))
    np.testing.assert_allclose(moved[16, 5:28], cols[5:28] ** 2 / 100, atol=1e-3)


def test_sub_pixel_shift_is_close_to_the_exact_one(texture):
    pair = texture.pair((0.5, -0.37))
    moved = np.asarray(move(pair[..., 0], np.float32([0.5, -0.37])))
    middle = np.s_[16:-16, 16:-16]
    assert np.abs(moved - pair[..., 1])[middle].std() < 0.02


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.8])
def test_fine_coefficients_follow_waves_up_to_eight_tenths_of_nyquist(share):
    wave = share * np.pi  # per px
    image = np.cos(wave * np.arange(120.0) + 0.3).astype(np.float32)[:, None] * np.ones((1, 40))
    positions = np.stack([np.linspace(30.0, 90.0, 400), np.full(400, 17.3)], -1).astype(np.float32)
    expected = np.cos(wave * positions[:, 0] + 0.3)
    fine = fine_coefficients(image.astype(np.float32))
    value, gradient = sample_with_gradient(fine, positions, nodes_per_px=FINE)
    np.testing.assert_allclose(value, expected, atol=0.02)
    slope = -wave * np.sin(wave * positions[:, 0] + 0.3)
    np.testing.assert_allclose(gradient[:, 0], slope, atol=0.05 * wave)
    np.testing.assert_allclose(gradient[:, 1], 0.0, atol=1e-3)
    if share >= 0.7:  # where the cubic spline on the pixels themselves is far off
        plain = sample(bspline_coefficients(image.astype(np.float32)), positions)
        assert np.abs(plain - expected).max() > 4 * np.abs(value - expected).max()


def test_fine_coefficients_give_the_pixels_back(rng):
    image = rng.standard_normal((2, 21, 34)).astype(np.float32)
    fine = fine_coefficients(image)
    assert fine.shape == (2, 41, 67)
    back = sample(fine[1], grid(21, 34), nodes_per_px=FINE)
    np.testing.assert_allclose(back, image[1], atol=2e-4)
    level = fine_coefficients(np.full((21, 34), 3.0, np.float32))
    np.testing.assert_allclose(level, 3.0, atol=1e-4)


def test_too_small_image_for_fine_coefficients_is_refused():
    with pytest.raises(ValueError, match=r"at least 11.*\(40, 10\)"):
        fine_coefficients(np.zeros((40, 10), np.float32))


def test_quick_samples_are_close_to_the_others(rng):
    images = ndimage.gaussian_filter(rng.standard_normal((2, 40, 50)), (0, 0.7, 0.7)).astype(
        np.float32
    )
    rows, cols = rng.uniform(10.0, 29.0, (2, 2, 8, 9)).astype(np.float32)
    found = np.asarray(sample_quickly(quick_values(images), rows, cols))
    positions = np.stack([rows, cols], -1)
    for one, image, at in zip(found, images, positions, strict=True):
        expected = sample(fine_coefficients(image), at, nodes_per_px=FINE)
        assert np.abs(one - expected).max() < 0.1 * image.std()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_quick_gradients_follow_waves(share):
    wave = share * np.pi  # per px
    image = np.cos(wave * np.arange(120.0) + 0.3).astype(np.float32)[:, None] * np.ones((1, 40))
    image = image.astype(np.float32)
    slope = -wave * np.sin(wave * np.arange(120.0) + 0.3)
    by_row, by_col = quick_gradient(image)
    np.testing.assert_allclose(by_row[30:90, 17], slope[30:90], atol=0.08 * wave)
    np.testing.assert_allclose(by_col[30:90], 0.0, atol=1e-3)
    rows = np.linspace(30.0, 90.0, 400, dtype=np.float32)[None, :, None]
    cols = np.full_like(rows, 17.3)
    value, by_row, by_col = sample_quickly_with_gradient(quick_values(image[None]), rows, cols)
    expected = np.cos(wave * rows + 0.3)
    np.testing.assert_allclose(value, expected, atol=0.05)
    # A difference over a quarter of a pixel, taken as the slope at any place between.
    slope = -wave * np.sin(wave * rows + 0.3)
    np.testing.assert_allclose(by_row, slope, atol=(0.03 + wave / 8) * wave)
    np.testing.assert_allclose(by_col, 0.0, atol=1e-3)


def test_quick_samples_end_half_a_pixel_outside_and_beside_what_is_unknown(rng):
    image = rng.standard_normal((1, 12, 13)).astype(np.float32)
    values = np.array(quick_values(image))
    rows, cols = np.moveaxis(np.asarray(grid(12, 13)), -1, 0)[:, None]
    # Neither cut nor floor may lose the last row and column.
    np.testing.assert_allclose(sample_quickly(values, rows, cols), image, atol=0.02)
    assert np.isnan(sample_quickly(values, rows - 0.6, cols)[0, 0]).all()
    assert np.isnan(sample_quickly(values, rows, cols + 0.6)[0, :, -1]).all()
    assert np.isfinite(sample_quickly(values, rows - 0.4, cols + 0.4)).all()
    values[0, 20, 20] = np.nan  # pixel (5, 5)
    unknown = np.isnan(sample_quickly(values, rows, cols))[0]
    assert unknown[5, 5]
    assert unknown.sum() == 1
