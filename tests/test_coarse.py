"""Coarse to fine: which shifts a tile shows, and that each pixel takes the one that is its own."""

import jax.numpy as jnp
import numpy as np
import pytest

from displacement import coarse, prealign
from displacement.agreement import UNRELATED, disagreement
from displacement.correlators.lk import lk
from tests.conftest import Texture

SIZE = 256


@pytest.fixture(scope="module")
def ground():
    return Texture(4, SIZE, slope=1.0)


def _measure(tile):
    """An estimator that reaches three pixels, with a made-up sigma; how badly the dates agree."""
    found, _ = lk(jnp.asarray(tile), window=10)
    disagree = disagreement(jnp.asarray(tile), found)
    return np.concatenate([found, np.ones_like(found), disagree[..., None]], -1)


def _sides(ground, *motions):
    """The left of the tile moved by one motion, the right by another."""
    pairs = [ground.pair(motion) for motion in motions]
    return np.where(np.arange(SIZE)[:, None] < SIZE // 2, *pairs)


def test_ground_within_reach_needs_one_layer(ground, rng):
    assert coarse.shifts_in(ground.pair((1.3, -0.6))) == [(0, 0)]
    noise = rng.standard_normal((SIZE, SIZE, 2)).astype(np.float32)
    assert coarse.shifts_in(noise) == [(0, 0)]
    assert coarse.shifts_in(np.full((SIZE, SIZE, 2), np.nan)) == [(0, 0)]
    calls = []

    def function(tile):
        calls.append(tile)
        return np.zeros((SIZE, SIZE, 5))

    pair = ground.pair((1.3, -0.6))
    coarse.in_layers(function, pair)
    assert len(calls) == 1 and calls[0] is pair


def test_shifts_in_a_strip_have_the_right_sign(ground):
    pair = ground.pair((11.0, 6.0))[100:132]
    assert prealign.whole_pixel_shift(pair) == (0, 0)  # a quarter of 32 px is less
    assert prealign.whole_pixel_shift(pair, largest_px=coarse.LARGEST_PX) == (11, 6)


def test_in_a_strip_no_layer_is_further_off_than_in_a_square(ground):
    pair = ground.pair((0.0, 30.0))[100:148]
    assert coarse.shifts_in(pair) == [(0, 0)]


def test_a_small_image_shows_both_its_shifts(ground):
    pair = _sides(ground, (0.3, 0.1), (0.2, 8.3))[:128, SIZE // 2 - 64 : SIZE // 2 + 64]
    assert sorted(coarse.shifts_in(pair)) == [(0, 0), (0, 8)]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("last", [False, True])
def test_a_strip_along_any_edge_shows_its_shift(ground, axis, last):
    index = np.arange(220)
    strip = np.expand_dims(index >= 150 if last else index < 70, (1 - axis, 2))
    still, moved = (ground.pair(motion)[:220, :220] for motion in ((0.0, 0.1), (0.2, 6.0)))
    pair = np.where(strip, moved, still)
    assert coarse.shifts_in(pair) == [(0, 0), (0, 6)]


def test_an_estimator_of_less_reach_has_more_layers(ground):
    pair = _sides(ground, (0.1, 0.2), (0.2, 2.1))
    assert coarse.shifts_in(pair) == [(0, 0)]
    assert coarse.shifts_in(pair, reach=1) == [(0, 1)]  # in the middle of both


def test_a_layer_lies_where_it_holds_both_sides_of_a_fault(ground):
    """One layer is measured as any pair is; between two, each pixel has to choose."""
    motions = (0.2, 0.1), (-3.7, 1.3)
    pair = _sides(ground, *motions)
    assert coarse.shifts_in(pair) == [(-2, 0)]
    found = coarse.in_layers(_measure, pair)[..., :2]
    for motion, cols in zip(motions, (np.s_[30:90], np.s_[166:226]), strict=True):
        np.testing.assert_allclose(np.median(found[40:-40, cols], (0, 1)), motion, atol=0.02)


def test_a_rupture_of_many_pixels_stays_sharp(ground):
    motions = (8.4, -3.3), (-11.2, 2.6)
    pair = _sides(ground, *motions)
    shifts = coarse.shifts_in(pair)
    for motion in motions:
        gaps = [np.abs(np.subtract(shift, motion)).max() for shift in shifts]
        assert min(gaps) < coarse.REACH_PX + 1
    found = coarse.in_layers(_measure, pair)[..., :2]
    truth = np.where(np.arange(SIZE)[:, None] < SIZE // 2, *np.float32(motions)[:, None, None])
    error = np.linalg.norm(found - truth, axis=-1)
    rows = np.r_[40 : SIZE - 40]
    off = np.abs(np.arange(SIZE) - SIZE // 2 + 0.5)
    far = (off > 12) & (off < 100)
    assert np.nanmedian(error[rows][:, far]) < 0.02
    assert np.nanmean(error[rows][:, far] < 0.3) > 0.98
    close = (off > 4) & (off < 12)
    assert np.nanmean(error[rows][:, close] < 0.5) > 0.85


def test_on_dates_that_differ_no_speck_is_of_the_other_side(ground, rng):
    """The likeness of two layers at a pixel is chance; and where that decides, sigma tells."""
    motions = (4.4, -3.3), (-4.2, 2.6)
    pair = _sides(ground, *motions)
    pair += 0.5 * rng.standard_normal(pair.shape).astype(np.float32)
    found = coarse.in_layers(_measure, pair)[40:-40, 40:-40]
    cols = np.arange(40, SIZE - 40)
    truth = np.where(cols[:, None] < SIZE // 2, *np.float32(motions))
    wrong = (np.abs(found[..., :2] - truth) > 4.0).any(-1)
    off = np.abs(cols - SIZE // 2 + 0.5)
    assert wrong[:, off < 12].any()
    assert not wrong[:, off > 12].any()
    np.testing.assert_allclose(found[:, off > 12, 2:4], 1.0, atol=0.05)
    assert (found[:, off < 1, 2:4] > 2.0).any(-1).mean() > 0.2  # it could be either


def test_ground_that_is_of_no_layer_is_not_measured(ground, rng):
    def measured(pair):
        found = coarse.in_layers(_measure, pair)
        return np.where(found[..., -1:] > UNRELATED, np.nan, found[..., :2])

    pair = _sides(ground, (0.3, -0.2), (9.2, -7.4))
    pair[80:176, 30:100, 1] = rng.standard_normal((96, 70))
    found = measured(pair)
    assert np.isfinite(found[92:164, 42:88]).mean() < 0.1
    assert np.isfinite(found[40:-40, 170:-40]).all()
    assert np.isfinite(found[190:-40, 40:100]).all()
    pair[:80, 100:, 1] = np.nan  # an edge of data takes nothing of what lies beside it
    cut = measured(pair)
    assert np.isfinite(cut[80:-40, 170:-40]).all()


def test_motion_that_varies_by_twenty_pixels_is_followed(ground):
    """As on a glacier: 0 to 20 px across the tile, with no step."""
    from scipy import ndimage

    cols = np.arange(SIZE)
    u = 20.0 * np.clip((cols - 30) / (SIZE - 60), 0.0, 1.0)
    rows = np.arange(SIZE)[:, None] - np.broadcast_to(u, (SIZE, SIZE))
    earlier = ground.moved((0.0, 0.0))
    later = ndimage.map_coordinates(
        earlier, [rows, np.broadcast_to(cols, rows.shape)], order=5, mode="grid-wrap"
    )
    found = coarse.in_layers(_measure, np.stack([earlier, later], -1).astype(np.float32))
    error = np.abs(found[..., 0] - u)[40:-40, 40:-40]
    assert np.nanmedian(error) < 0.1
    assert np.nanmean(error < 0.5) > 0.9


def test_a_landslide_is_found_for_itself(ground):
    """Too small for the windows: 40 px across, moved by 9 px; and what it left bare is other."""
    rows, cols = np.indices((SIZE, SIZE))

    def slid(down, right):
        return np.hypot(rows - 120 - down, cols - 130 - right) < 20

    motion = (8.3, 3.2)
    pair = ground.pair((0.1, 0.2))
    later = np.where(slid(0, 0), np.roll(pair[..., 1], (90, 70), (0, 1)), pair[..., 1])
    pair[..., 1] = np.where(slid(8, 3), ground.pair(motion)[..., 1], later)
    assert coarse.shifts_in(pair) == [(0, 0)]
    found = coarse.in_layers(_measure, pair)
    core = np.hypot(rows - 120, cols - 130) < 12
    np.testing.assert_allclose(np.median(found[core][:, :2], 0), motion, atol=0.03)
    assert (np.abs(found[core][:, :2] - motion) < 0.3).all(-1).mean() > 0.95
    still = (np.hypot(rows - 120, cols - 130) > 60)[40:-40, 40:-40]
    np.testing.assert_allclose(
        found[40:-40, 40:-40][still][:, :2], [[0.1, 0.2]] * still.sum(), atol=0.1
    )


def test_changed_ground_has_no_layer_of_its_own(ground):
    pair = ground.pair((0.3, -0.2))
    pair[:160, :, 1] = Texture(9, SIZE, slope=1.5).moved((0.0, 0.0))[:160]
    calls = []

    def function(tile):
        calls.append(tile)
        return _measure(tile)

    coarse.in_layers(function, pair)
    assert len(calls) == 1


def test_a_steep_margin_gets_layers_between():
    assert coarse._between([(0, 0)], 2) == []
    assert coarse._between([(0, 0), (-20, 5)], 2) == [(-5, 1), (-10, 2), (-15, 4)]
    assert coarse._between([(0, 0), (-9, 0), (-10, 0)], 2) == [(-4, 0)]


def test_the_shift_of_a_part_of_any_shape(ground, rng):
    earlier, later = np.moveaxis(ground.pair((-9.2, 14.1)), -1, 0)
    part = earlier[100:132, 90:122].copy()
    part[np.add.outer(np.arange(32), np.arange(32)) < 24] = np.nan
    around = later[76:156, 66:146].copy()
    around[:9] = np.nan
    assert prealign.shift_of_part(part, around) == (-9, 14)
    assert prealign.shift_of_part(part, rng.standard_normal((80, 80))) is None
    assert prealign.shift_of_part(np.zeros((32, 32)), around) is None


def test_flat_images_share_no_shift():
    assert prealign.clear_shift(np.zeros((64, 64, 2), np.float32)) is None
    assert prealign.clear_shift(np.full((64, 64, 2), np.nan, np.float32)) is None
