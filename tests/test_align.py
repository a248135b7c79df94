"""Resampling onto the earlier grid, against ground that is known at every point."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.warp import transform as transform_points

from displacement import pairs

UTM = CRS.from_epsg(32611)
GRID = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
SHAPE = (96, 112)


def ground(east, north):
    """Brightness of the ground at a place in UTM zone 11; wavelengths of 130 to 400 m."""
    waves = [(130.0, 0.3), (210.0, 1.4), (170.0, 2.2), (400.0, 0.9)]
    return 1000 + sum(
        200 * np.sin(2 * np.pi * (east * np.cos(a) + north * np.sin(a)) / length + 3 * a)
        for length, a in waves
    )


def put(path, grid, shape, crs=UTM, *, dtype="float32", nodata=None, hole=None):
    """Writes the ground as a sensor on this grid sees it."""
    rows, cols = np.indices(shape)
    x = grid.c + grid.a * (cols + 0.5) + grid.b * (rows + 0.5)
    y = grid.f + grid.d * (cols + 0.5) + grid.e * (rows + 0.5)
    if crs != UTM:
        points = transform_points(crs, UTM, x.ravel(), y.ravel())
        x, y = (np.reshape(values, shape) for values in points)
    image = ground(x, y).astype(dtype)
    if hole is not None:
        image[hole] = nodata
    profile = {"count": 1, "height": shape[0], "width": shape[1], "dtype": dtype}
    with rasterio.open(
        path, "w", driver="GTiff", transform=grid, crs=crs, nodata=nodata, **profile
    ) as target:
        target.write(image, 1)
    return path


GRIDS = {
    "fraction of a pixel": (Affine(10, 0, 499_953.7, 0, -10, 4_000_062.1), (120, 130), UTM),
    "finer pixels": (Affine(7.5, 0, 499_990, 0, -7.5, 4_000_010), (150, 170), UTM),
    "coarser pixels": (Affine(15, 0, 499_800, 0, -15, 4_000_200), (100, 110), UTM),
    "turned": (Affine(8, 3, 499_700, 3, -8, 4_000_000), (190, 220), UTM),
    "the next zone": (None, (220, 230), CRS.from_epsg(32612)),
    "degrees": (None, (220, 230), CRS.from_epsg(4326)),
}


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_later_image_lands_on_the_earlier_grid(tmp_path, case, dtype):
    grid, shape, crs = GRIDS[case]
    if grid is None:
        centre = transform_points(UTM, crs, [500_560], [3_999_520])
        size = 1e-4 if crs.is_geographic else 10.0
        west, north = centre[0][0] - size * 115, centre[1][0] + size * 110
        grid = Affine(size, 0, west, 0, -size, north)
    earlier = put(tmp_path / "a.tif", GRID, SHAPE, dtype=dtype)
    later = put(tmp_path / "b.tif", grid, shape, crs, dtype=dtype)
    with (
        pytest.raises(ValueError, match=r"--align|degrees|rotated"),
        pairs.open_pair(earlier, later),
    ):
        pass
    with pairs.open_pair(earlier, later, align=True) as pair:
        assert pair.shape == SHAPE
        assert pair.transform == GRID
        assert "lanczos" in pair.aligned
        assert pair.aligned in pair.notes
        first, second = (pair.read(date, 0, 0, *SHAPE)[8:-8, 8:-8] for date in (0, 1))
    assert np.isfinite(second).mean() > 0.98
    # A shift of 0.1 px (1 m) would show as about 20.
    largest = {"coarser pixels": 12, "degrees": 5}.get(case, 3)
    assert np.nanmax(np.abs(second - first)) < largest
    assert abs(np.nanmean(second - first)) < 0.6


def test_holes_and_the_outside_stay_invalid(tmp_path):
    earlier = put(tmp_path / "a.tif", GRID, SHAPE)
    grid = Affine(10, 0, 500_203, 0, -10, 3_999_904)
    hole = np.s_[30:40, 20:50]
    for dtype, nodata in (("float32", -9999.0), ("uint16", 0)):
        later = put(tmp_path / "b.tif", grid, (120, 130), dtype=dtype, nodata=nodata, hole=hole)
        with pairs.open_pair(earlier, later, align=True) as pair:
            first, second = (pair.read(date, 0, 0, *pair.shape) for date in (0, 1))
            assert pair.shape[0] in (86, 87)
            assert pair.shape[1] in (91, 92)
            assert np.isnan(pair.read(1, -20, 0, 10, 10)).all()
        assert np.isnan(second[32:38, 24:48]).all()
        assert np.isfinite(second[5:25, 5:60]).all()
        assert np.nanmax(np.abs(second - first)[5:-5, 5:-5]) < 60  # beside the hole
        assert np.nanmin(second) > 0


@pytest.mark.parametrize("kind", ["alpha", "mask"])
def test_masks_and_alpha_are_resampled_too(tmp_path, kind):
    earlier = put(tmp_path / "a.tif", GRID, SHAPE, dtype="uint16")
    later, hole = tmp_path / "b.tif", np.zeros(SHAPE, bool)
    hole[40:60, 40:60] = True
    image = np.full((2, *SHAPE), 1000, np.uint16)
    image[1] = np.where(hole, 0, 65535)
    profile = {"height": 96, "width": 112, "dtype": "uint16", "crs": UTM}
    profile |= {"transform": Affine(10, 0, 500_003, 0, -10, 4_000_003)}
    count = 2 if kind == "alpha" else 1
    with rasterio.open(later, "w", driver="GTiff", count=count, **profile) as target:
        if kind == "alpha":
            target.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        target.write(image[:count])
        if kind == "mask":
            target.write_mask(np.where(hole, 0, 255).astype(np.uint8))
    with pairs.open_pair(earlier, later, align=True) as pair:
        found = pair.read(1, 0, 0, *pair.shape)
    assert np.isnan(found[42:58, 42:58]).all()
    assert np.isfinite(found[5:35, 5:105]).all()


def test_one_grid_is_not_resampled(tmp_path):
    paths = [put(tmp_path / name, GRID, SHAPE) for name in ("a.tif", "b.tif")]
    with pairs.open_pair(*paths, align=True) as pair:
        assert pair.aligned == ""
        np.testing.assert_array_equal(pair.read(0, 0, 0, 9, 9), pair.read(1, 0, 0, 9, 9))


@pytest.mark.parametrize(
    ("grid", "crs", "words"),
    [
        (Affine(10, 0, 600_000, 0, -10, 4_000_000), UTM, "do not overlap"),
        (Affine(11, 0, 500_000, 0, -10, 4_000_000), None, "no CRS.*--align"),
    ],
)
def test_what_cannot_be_aligned_is_refused(tmp_path, grid, crs, words):
    earlier = put(tmp_path / "a.tif", GRID, SHAPE)
    later = tmp_path / "b.tif"
    profile = {"count": 1, "height": 96, "width": 112, "dtype": "uint8", "transform": grid}
    with rasterio.open(later, "w", driver="GTiff", crs=crs, **profile) as target:
        target.write(np.ones((96, 112), np.uint8), 1)
    with pytest.raises(ValueError, match=words), pairs.open_pair(earlier, later, align=True):
        pass


def test_a_hole_in_one_band_is_a_hole_whatever_the_other_bands_hold(tmp_path):
    earlier = put(tmp_path / "a.tif", GRID, SHAPE)
    image = np.full((2, *SHAPE), 1000.0, np.float32)
    image[0, 40:60, 40:60] = -9999.0
    profile = {"height": 96, "width": 112, "dtype": "float32", "crs": UTM, "nodata": -9999.0}
    profile |= {"transform": Affine(10, 0, 500_003, 0, -10, 4_000_003), "count": 2}
    with rasterio.open(tmp_path / "b.tif", "w", driver="GTiff", **profile) as target:
        target.write(image)
    with pairs.open_pair(earlier, tmp_path / "b.tif", align=True) as pair:
        found = pair.read(1, 0, 0, *pair.shape)
    assert np.isnan(found[42:58, 42:58]).all()
    assert np.nanmin(found) > 990


def test_a_later_image_of_a_wrong_crs_is_refused(tmp_path):
    earlier = put(tmp_path / "a.tif", GRID, SHAPE)
    profile = {"count": 1, "height": 96, "width": 112, "dtype": "uint8"}
    later = tmp_path / "b.tif"
    with rasterio.open(
        later, "w", driver="GTiff", transform=GRID, crs=CRS.from_epsg(4326), **profile
    ) as target:
        target.write(np.ones((1, 96, 112), np.uint8))
    with (
        pytest.raises(ValueError, match=r"b\.tif.*EPSG:4326.*(has no place in|cannot be put)"),
        pairs.open_pair(earlier, later, align=True),
    ):
        pass
