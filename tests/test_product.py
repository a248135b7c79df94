"""Results as rasterio, GDAL and xarray read them back."""

from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import xarray
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from displacement import product, raster
from displacement.style import style_text
from displacement.tiling import blocks

UTM = CRS.from_epsg(32611)
GRID = Affine(30.0, 0.0, 500_000.0, 0.0, -15.0, 4_000_000.0)
SHAPE = (600, 700)


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(0)
    field = rng.standard_normal((*SHAPE, 5)).astype(np.float32)
    field[..., 2:4] = np.abs(field[..., 2:4])
    field[100:150, 200:260] = np.nan
    return field


def write(path, measured, *, sigma=True, quality=True, **changes):
    header = {
        "shape": measured.shape[:2],
        "transform": GRID,
        "crs": UTM,
        "units": "m",
        "layout": "geotiff",
        "tags": {"METHOD": "cnn", "DETAILS": {"window": 3}},
    } | changes
    with product.create_product(
        path, product.Header(sigma=sigma, quality=quality, **header)
    ) as put:
        for row, col, height, width in blocks(measured.shape[:2], 256):
            put(row, col, measured[row : row + height, col : col + width])
    return path


def test_geotiff_is_cloud_optimised_and_read_back(tmp_path, measured):
    path = write(tmp_path / "out.tif", measured)
    with rasterio.open(path) as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.block_shapes[0] == (512, 512)
        assert source.overviews(1) == [2]
        assert (source.crs, source.transform, source.shape) == (UTM, GRID, SHAPE)
        assert np.isnan(source.nodata)
        assert source.compression.name == "deflate"
        names = (
            "east_west",
            "north_south",
            "sigma_east_west",
            "sigma_north_south",
            "quality",
            "valid",
        )
        assert source.descriptions == names
        assert source.units == ("m", "m", "m", "m", None, None)
        np.testing.assert_allclose(source.read(1), 30 * measured[..., 1], rtol=1e-6)
        np.testing.assert_allclose(source.read(2), -15 * measured[..., 0], rtol=1e-6)
        np.testing.assert_allclose(source.read(4), 15 * measured[..., 2], rtol=1e-6)
        np.testing.assert_array_equal(source.read(6), np.isfinite(measured[..., 0]))
        assert source.tags()["METHOD"] == "cnn"
    back = raster.read_displacement(path)
    np.testing.assert_allclose(back.displacement, measured[..., :2], rtol=1e-6)
    np.testing.assert_allclose(back.sigma, measured[..., 2:4], rtol=1e-6)
    np.testing.assert_array_equal(back.quality, measured[..., 4])
    assert back.details == {"window": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.tif"]


def test_bands_that_a_method_has_not_are_left_out(tmp_path, measured):
    path = write(tmp_path / "out.tif", measured, sigma=False)
    with rasterio.open(path) as source:
        assert source.descriptions == ("east_west", "north_south", "quality", "valid")
    path = write(tmp_path / "out.tif", measured, quality=False)
    with rasterio.open(path) as source:
        assert "quality" not in source.descriptions


def test_pixels_and_no_georeferencing(tmp_path, measured):
    path = write(tmp_path / "out.tif", measured, units="px")
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(2), -measured[..., 0])
        assert source.units[0] == "px"
    path = write(tmp_path / "bare.tif", measured, units="px", transform=Affine.identity(), crs=None)
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(1), measured[..., 1])


def test_classic_order(tmp_path, measured):
    path = write(tmp_path / "out.tif", measured, layout="classic")
    with rasterio.open(path) as source:
        assert source.descriptions == ("east_west", "north_south", "snr")
        np.testing.assert_array_equal(source.read(3), measured[..., 4])
    back = raster.read_displacement(path)
    np.testing.assert_allclose(back.displacement, measured[..., :2], rtol=1e-5)
    np.testing.assert_array_equal(back.valid, np.isfinite(measured[..., :2]).all(-1))
    np.testing.assert_array_equal(back.quality, measured[..., 4])
    path = write(tmp_path / "out.tif", measured, layout="classic", quality=False)
    with rasterio.open(path) as source:
        expected = 1 / (1 + (measured[..., 2:4] ** 2).sum(-1))
        np.testing.assert_allclose(source.read(3), expected, rtol=1e-5)


def test_netcdf_is_read_by_xarray_and_gdal(tmp_path, measured):
    path = write(tmp_path / "out.nc", measured, layout="netcdf")
    with xarray.open_dataset(path, engine="h5netcdf") as found:
        np.testing.assert_allclose(found.east_west, 30 * measured[..., 1], rtol=1e-6)
        np.testing.assert_allclose(found.north_south, -15 * measured[..., 0], rtol=1e-6)
        np.testing.assert_allclose(found.x[:2], [500_015, 500_045])
        np.testing.assert_allclose(found.y[:2], [3_999_992.5, 3_999_977.5])
        assert found.east_west.dims == ("y", "x")
        assert found.east_west.attrs["units"] == "m"
        assert found.x.attrs["standard_name"] == "projection_x_coordinate"
        assert CRS.from_wkt(found.crs.attrs["crs_wkt"]) == UTM
        assert found.crs.attrs["grid_mapping_name"] == "transverse_mercator"
        assert found.attrs["METHOD"] == "cnn"
        assert found.attrs["Conventions"].startswith("CF-")
        assert "east" in found.east_west.attrs["long_name"]
    with rasterio.open(f"netcdf:{path}:east_west") as source:
        assert source.crs.to_epsg() == 32611
        assert source.transform == GRID
        np.testing.assert_allclose(source.read(1), 30 * measured[..., 1], rtol=1e-6)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.nc"]


def test_netcdf_without_georeferencing_is_read_the_right_way_up(tmp_path, measured):
    nothing = {"transform": Affine.identity(), "crs": None}
    path = write(tmp_path / "out.nc", measured, layout="netcdf", units="px", **nothing)
    with rasterio.open(f"netcdf:{path}:east_west") as source:
        np.testing.assert_array_equal(source.read(1), measured[..., 1])
    with xarray.open_dataset(path, engine="h5netcdf") as found:
        np.testing.assert_array_equal(found.y[:2], [-0.5, -1.5])  # upwards, as on a map


@pytest.mark.parametrize("layout", ["geotiff", "netcdf"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, measured, layout):
    path = tmp_path / "out.file"
    path.write_text("old")
    header = product.Header(SHAPE, GRID, UTM, "m", layout, True, True, {})
    with pytest.raises(RuntimeError), product.create_product(path, header) as put:
        put(0, 0, measured[:256, :256])
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.file"]


def test_style_is_symmetric_about_zero():
    root = ElementTree.fromstring(style_text(2.5, "m").split("\n", 1)[1])
    renderer = root.find("pipe/rasterrenderer")
    assert renderer.get("type") == "singlebandpseudocolor"
    items = [float(item.get("value")) for item in root.iter("item")]
    assert items[0] == -2.5
    np.testing.assert_allclose(items, -np.array(items[::-1]), atol=1e-6)
    assert renderer.get("classificationMax") == "2.5"


def test_netcdf_asks_for_its_room_beforehand(tmp_path, measured, monkeypatch):
    pytest.importorskip("h5netcdf")
    full = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(product.shutil, "disk_usage", lambda _: full)
    with pytest.raises(OSError, match=r"out.nc: up to 10 MB are needed. Make room"):
        write(tmp_path / "out.nc", measured, layout="netcdf")
    assert not list(tmp_path.iterdir())
