"""Cells of 2 x 2 pixels: the same matching as at every pixel, at a quarter of the places."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from displacement.models import cells, create_model
from displacement.normalise import normalise_twice
from tests.conftest import Texture

KEY = jax.random.key(7)
CLEAR = 8  # cells from the edge


@jax.jit
def find(pair):
    images = normalise_twice(pair)
    white, smooth = (cells.cut(image, images.valid) for image in images[:2])
    start = cells.search(images.white, images.valid, radius=3)
    return cells.match(white, smooth, start, radius=3)


@pytest.mark.parametrize("shift", [(2, -1), (0.3, -1.4)])
def test_matching_finds_the_motion_of_each_cell(texture, shift):
    found = find(texture.pair(shift)[None, :64, :64])
    assert found.displacement.shape == (cells.SCALES, 2, 1, 32, 32)
    inside = (..., 0, slice(CLEAR, -CLEAR), slice(CLEAR, -CLEAR))
    error = np.asarray(found.displacement)[inside] - np.float32(shift)[:, None, None]
    assert np.abs(np.median(error, axis=(2, 3))).max() < 0.01
    assert np.abs(error[1:]).mean() < 0.05


@pytest.mark.parametrize("part", [0.1, 0.25, 0.4, 0.5, 0.7])
def test_no_fraction_of_a_pixel_is_preferred(part):
    pair = Texture(5, 128, slope=1.0).pair((part, -part))[None]
    found = np.asarray(find(pair).displacement)[2:4, :, 0, 12:-12, 12:-12]
    np.testing.assert_allclose(
        found.mean((2, 3)), [[part, -part]] * 2, atol=4e-3
    )  # a cubic spline on the pixels themselves is off by 0.01


def test_matching_of_no_data_is_finite_and_stays_put(rng):
    pair = rng.standard_normal((1, 32, 32, 2)).astype(np.float32)
    pair[0, 3:20, 2:22, 0] = np.nan
    pair[0, :, :9, 1] = np.nan
    for values in find(pair):
        assert np.isfinite(values).all()
    nothing = find(np.full_like(pair, np.nan))
    assert np.abs(np.asarray(nothing.displacement)).max() <= 3.5
    assert (np.asarray(nothing.residual) == 0.0).all()


def test_positions_are_those_of_the_pixels(rng):
    motion = rng.standard_normal((2, 1, 3, 4)).astype(np.float32)
    nothing = cells.Cells(*(jnp.zeros((4, 1, 3, 4)) for _ in range(3)))
    rows, cols = nothing.positions(motion, range(4))
    assert rows.shape == cols.shape == (4, 1, 3, 4)
    # Corner 2 of cell (1, 3) is pixel (3, 6).
    assert rows[2, 0, 1, 3] == pytest.approx(3 + motion[0, 0, 1, 3])
    assert cols[2, 0, 1, 3] == pytest.approx(6 + motion[1, 0, 1, 3])


def test_each_corner_may_have_a_motion_of_its_own(rng):
    motion = rng.standard_normal((2, 1, 6, 8)).astype(np.float32)
    apart = cells.corners(motion)
    assert apart.shape == (2, 4, 1, 3, 4)
    nothing = cells.Cells(*(jnp.zeros((4, 1, 3, 4)) for _ in range(3)))
    rows, cols = nothing.positions(apart, range(4))
    assert rows[2, 0, 1, 3] == pytest.approx(3 + motion[0, 0, 3, 6])
    assert cols[2, 0, 1, 3] == pytest.approx(6 + motion[1, 0, 3, 6])


def test_candidates_are_the_windows_beside_the_cell(rng):
    maps = rng.standard_normal((cells.SCALES, 2, 1, 20, 20)).astype(np.float32)
    found = np.stack(cells.beside(maps))
    assert found.shape == (cells.COUNT, 2, 1, 20, 20)
    np.testing.assert_array_equal(found[0], maps[0])
    np.testing.assert_array_equal(found[1][..., 10, 10], maps[1][..., 8, 8])  # 4 px away
    np.testing.assert_array_equal(found[-1], maps[-1])


def test_on_either_side_of_a_fault_its_own_motion_fits(texture):
    sides = [(0.6, 0.0), (-0.9, 0.0)]
    pairs = [texture.pair(motion)[:48, :48] for motion in sides]
    pair = np.where(np.arange(48)[:, None, None] < 24, *pairs)[None]
    images = normalise_twice(pair)
    motions = [np.ones((2, 1, 24, 24), np.float32) * np.reshape(s, (2, 1, 1, 1)) for s in sides]
    fit = np.asarray(cells.misfits(cells.cut(images.white, images.valid), motions))
    first = (fit[0] < fit[1])[0, :, 3:-3]
    assert first[3:11].mean() > 0.95  # from a cell off the trace on
    assert first[14:-3].mean() < 0.05


def test_whatever_the_weights_a_uniform_move_is_found(texture):
    shift = np.float32([0.3, -1.4])
    model = create_model("cells", widths=[4, 4])
    pair = texture.pair(shift)[None]
    begin = functools.partial(model.init_with_output, mutable=["params", "intermediates"])
    (displacement, log_scale), sown = jax.jit(begin)(KEY, pair)
    assert displacement.shape == log_scale.shape == (1, 128, 128, 2)
    error = np.asarray(displacement)[0, 32:-32, 32:-32] - shift
    assert np.abs(error).mean() < 0.02
    assert np.abs(np.median(error, axis=(0, 1))).max() < 0.005
    ((steps, scales),) = sown["intermediates"]["steps"]
    assert steps.shape == scales.shape == (3, 1, 128, 128, 2)  # two looks and the pixels'


def test_sides_are_told_at_the_pixels(texture):
    # A sharp fault between two pixels of one cell: the choice at the pixels is what can see it.
    sides = [texture.pair((0.8, 0.0)), texture.pair((-0.8, 0.0))]
    pair = np.where(np.arange(128)[:, None, None] < 63, *sides)[None]
    model = create_model("cells", widths=[4, 4])
    (displacement, _), _ = jax.jit(model.init_with_output)(KEY, pair)
    row = np.asarray(displacement)[0, :, 32:-32, 0]
    assert np.median(row[50:58]) == pytest.approx(0.8, abs=0.05)
    assert np.median(row[70:78]) == pytest.approx(-0.8, abs=0.05)
    assert (np.abs(np.median(row[60], 0)) > 0.4) and np.median(row[66]) < -0.4


def test_sizes_that_it_does_not_take_are_named():
    with pytest.raises(ValueError, match=r"CellNet takes .* multiples of 8 px, not 24 x 26"):
        create_model("cells", widths=[4, 4]).init(KEY, jnp.zeros((1, 24, 26, 2)))
