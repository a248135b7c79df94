"""What is taken from two whole images: statistics, flat ground, the whole-pixel shift."""

import numpy as np
import pytest

from displacement import scene
from displacement.prealign import take_out, whole_pixel_shift
from displacement.scene import ArrayImages, shared_shift, survey


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
