"""The way of a displacement into a file in metres and back, and of an image."""

import os

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from displacement import product, raster
from displacement.files import atomic_path
from displacement.types import Estimate

UTM = CRS.from_epsg(32611)
GRID = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)


@pytest.fixture
def counts():
    return np.random.default_rng(0).integers(1, 4000, (100, 120)).astype(np.uint16)


@pytest.fixture
def estimate():
    rng = np.random.default_rng(1)
    valid = rng.random((40, 50)) > 0.2
    displacement = rng.normal(size=(40, 50, 2)).astype(np.float32)
    sigma = np.abs(displacement) + 0.1
    displacement[~valid] = np.nan
    sigma[~valid] = np.nan
    return Estimate(displacement, sigma, valid, "cnn", {"weights": "w", "prealign_px": [2, -1]})


@pytest.mark.parametrize("crs", [UTM, CRS.from_epsg(2227)])
def test_displacement_survives_the_file(tmp_path, estimate, crs):
    path = tmp_path / "new" / "out.tif"
    grid = Affine(30.0, 0.0, 5e5, 0.0, -15.0, 4e6)
    product.write_displacement(path, estimate, transform=grid, crs=crs)
    back = raster.read_displacement(path)
    np.testing.assert_allclose(back.displacement, estimate.displacement, rtol=1e-6)
    np.testing.assert_allclose(back.sigma, estimate.sigma, rtol=1e-6)
    np.testing.assert_array_equal(back.valid, estimate.valid)
    assert (back.method, back.details) == (estimate.method, estimate.details)


def test_file_is_in_metres_east_and_north_positive(tmp_path, estimate):
    """One row down on 15-m rows is 15 m south; one column right on 30-m columns is 30 m east."""
    path = tmp_path / "out.tif"
    grid = Affine(30.0, 0.0, 5e5, 0.0, -15.0, 4e6)
    product.write_displacement(path, estimate, transform=grid, crs=UTM, tags={"EARLIER": "a"})
    with rasterio.open(path) as source:
        east, north = source.read([1, 2])
        np.testing.assert_allclose(east, 30 * estimate.displacement[..., 1], rtol=1e-6)
        np.testing.assert_allclose(north, -15 * estimate.displacement[..., 0], rtol=1e-6)
        assert source.read(3)[estimate.valid].min() > 0
        np.testing.assert_array_equal(source.read(5), estimate.valid)
        assert source.descriptions == (
            "east_west",
            "north_south",
            "sigma_east_west",
            "sigma_north_south",
            "valid",
        )
        assert source.units[:4] == ("m",) * 4
        assert np.isnan(source.nodata)
        assert (source.transform, source.crs, source.dtypes[0]) == (grid, UTM, "float32")
        assert source.block_shapes[0] == (512, 512)
        tags = source.tags()
        assert (tags["METHOD"], tags["UNITS"], tags["EARLIER"]) == ("cnn", "m", "a")
        assert "positive north" in tags["SIGN_CONVENTION"]


def test_signs_follow_the_grid_where_north_is_down(tmp_path, estimate):
    path = tmp_path / "out.tif"
    grid = Affine(10.0, 0.0, 5e5, 0.0, 10.0, 4e6)
    product.write_displacement(path, estimate, transform=grid, crs=UTM)
    with rasterio.open(path) as source:
        np.testing.assert_allclose(source.read(2), 10 * estimate.displacement[..., 0], rtol=1e-6)
    back = raster.read_displacement(path)
    np.testing.assert_allclose(back.displacement, estimate.displacement, rtol=1e-6)


def test_pixels_without_georeferencing(tmp_path, estimate):
    path = tmp_path / "out.tif"
    bare = Estimate(estimate.displacement, None, estimate.valid, "ncc", {})
    with pytest.raises(ValueError, match="units='px'"):
        product.write_displacement(path, bare, transform=None, crs=None)
    product.write_displacement(path, bare, transform=Affine.identity(), crs=None, units="px")
    back = raster.read_displacement(path)
    assert back.sigma is None
    np.testing.assert_array_equal(back.displacement, estimate.displacement)
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(2), -estimate.displacement[..., 0])
        assert source.units[0] == "px"
    as_metres = {"mode": "r+", "IGNORE_COG_LAYOUT_BREAK": "YES"}
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(path, **as_metres) as source:
        source.units = ["m"] * source.count
    with pytest.raises(ValueError, match="in metres, and has no georeferencing"):
        raster.read_displacement(path)


def test_what_is_not_valid_is_not_written(tmp_path, estimate):
    filled = np.nan_to_num(estimate.displacement)
    path = tmp_path / "out.tif"
    careless = Estimate(filled, None, estimate.valid, "cnn", {})
    product.write_displacement(path, careless, transform=GRID, crs=UTM)
    back = raster.read_displacement(path)
    np.testing.assert_array_equal(np.isnan(back.displacement[..., 0]), ~estimate.valid)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, estimate):
    path = tmp_path / "out.tif"
    path.write_text("old")
    broken = Estimate(estimate.displacement, None, estimate.valid, "cnn", {"bad": object()})
    with pytest.raises(TypeError):
        product.write_displacement(path, broken, transform=GRID, crs=UTM)
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.tif"]


def test_a_full_disk_is_an_error(tmp_path, estimate):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="room on the disk"):
            product.write_displacement(tmp_path / "out.tif", estimate, transform=GRID, crs=UTM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint8"])
def test_images_survive_the_file(tmp_path, counts, dtype):
    image = (counts % 200).astype(dtype)
    path = tmp_path / "image.tif"
    raster.write_image(path, image, transform=GRID, crs=UTM, nodata=0)
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(1), image)
        assert (source.dtypes[0], source.nodata, source.transform) == (dtype, 0, GRID)


def test_not_a_displacement_file(tmp_path, counts):
    path = tmp_path / "image.tif"
    raster.write_image(path, counts, transform=GRID, crs=UTM)
    with pytest.raises(ValueError, match="no band named east_west"):
        raster.read_displacement(path)


def test_nodata_of_another_program_is_not_measured(tmp_path, estimate):
    path = tmp_path / "out.tif"
    product.write_displacement(path, estimate, transform=GRID, crs=UTM)
    with rasterio.open(path) as file:
        bands = np.nan_to_num(file.read([1, 2]), nan=-9999.0)
    profile = {"width": 50, "height": 40, "count": 2, "dtype": "float32", "nodata": -9999.0}
    with rasterio.open(path, "w", driver="GTiff", transform=GRID, crs=UTM, **profile) as file:
        file.write(bands)
        file.descriptions = ("east_west", "north_south")
    with pytest.raises(ValueError, match=r"out\.tif.*in no unit.*Set the unit"):
        raster.read_displacement(path)
    with rasterio.open(path, "r+") as file:
        file.units = ("m", "m")
    found = raster.read_displacement(path)
    np.testing.assert_array_equal(found.valid, estimate.valid)
    np.testing.assert_allclose(found.displacement, estimate.displacement, rtol=1e-5)


def test_degrees_and_rotated_grids_are_refused(tmp_path, estimate):
    path = tmp_path / "out.tif"
    degrees = Affine(1e-4, 0.0, 8.0, 0.0, -1e-4, 46.0)
    with pytest.raises(ValueError, match=r"EPSG:4326 is in degrees.*projected CRS"):
        product.write_displacement(path, estimate, transform=degrees, crs=CRS.from_epsg(4326))
    turned = Affine.translation(5e5, 4e6) @ Affine.rotation(30.0) @ Affine.scale(10.0, -10.0)
    for units in ("m", "px"):
        with pytest.raises(ValueError, match="the grid is rotated"):
            product.write_displacement(path, estimate, transform=turned, crs=UTM, units=units)
    assert not path.exists()


def test_what_lay_beside_the_old_file_goes_with_it(tmp_path, estimate):
    path = tmp_path / "out.tif"
    product.write_displacement(path, estimate, transform=GRID, crs=UTM)
    beside = path.with_name("out.tif.aux.xml")
    beside.write_text("<PAMDataset/>")
    product.write_displacement(path, estimate, transform=GRID, crs=UTM)
    assert not beside.exists()
