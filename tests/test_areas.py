"""Masks from rasters and polygons, against rasterio's own burning of the same shapes."""

import json

import fiona
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from displacement import pairs
from displacement.areas import open_area

UTM = CRS.from_epsg(32611)
GRID = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
FINE = Affine(2.5, 0.0, 500_000.0, 0.0, -2.5, 4_000_000.0)
SHAPE = (60, 80)
LAKE = {
    "type": "Polygon",
    "coordinates": [
        [(500_105, 3_999_900), (500_400, 3_999_850), (500_300, 3_999_500), (500_105, 3_999_900)]
    ],
}
BURNT = rasterize([LAKE], SHAPE, transform=GRID).astype(bool)


def put(path, values, grid=GRID, crs=UTM, nodata=None):
    profile = {"count": 1, "height": values.shape[0], "width": values.shape[1]}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=values.dtype,
        transform=grid,
        crs=crs,
        nodata=nodata,
        **profile,
    ) as target:
        target.write(values, 1)
    return path


def vector(path, driver, crs, geometry=LAKE):
    schema = {"geometry": geometry["type"], "properties": {}}
    with fiona.open(path, "w", driver=driver, crs_wkt=crs.to_wkt(), schema=schema) as target:
        target.write(
            {"type": "Feature", "geometry": transform_geom(UTM, crs, geometry), "properties": {}}
        )
    return path


def inside(path, shape=SHAPE, **options):
    options = {"transform": GRID, "crs": UTM, "flag": "--mask"} | options
    with open_area(path, shape=shape, **options) as area:
        whole = area.inside(0, 0, *shape)
        parts = area.inside(-5, 20, 40, 100)
        np.testing.assert_array_equal(parts[5:, :60], whole[:35, 20:])
        assert not parts[:5].any()
        assert not parts[:, 60:].any()
    return whole


@pytest.mark.parametrize(
    ("name", "driver", "crs"),
    [
        ("lake.geojson", "GeoJSON", CRS.from_epsg(4326)),
        ("lake.gpkg", "GPKG", UTM),
        ("lake.gpkg", "GPKG", CRS.from_epsg(32612)),
        ("lake.shp", "ESRI Shapefile", UTM),
    ],
)
def test_polygons_in_any_crs(tmp_path, name, driver, crs):
    found = inside(vector(tmp_path / name, driver, crs))
    assert (found != BURNT).sum() <= 3  # rounding of coordinates
    assert found.sum() > 300


def test_polygons_within_a_collection(tmp_path):
    point = {"type": "Point", "coordinates": [500_300, 3_999_700]}
    collection = {"type": "GeometryCollection", "geometries": [point, LAKE]}
    feature = {"type": "Feature", "geometry": collection, "properties": {}}
    crs = {"type": "name", "properties": {"name": UTM.to_string()}}
    path = tmp_path / "lake.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    np.testing.assert_array_equal(inside(path), BURNT)


def test_rasters_on_the_grid_and_on_others(tmp_path):
    np.testing.assert_array_equal(inside(put(tmp_path / "a.tif", BURNT.astype(np.uint8))), BURNT)
    fine = rasterize([LAKE], (240, 320), transform=FINE).astype(np.float32)
    found = inside(put(tmp_path / "b.tif", fine, FINE))
    assert (found != BURNT).mean() < 0.01
    tagged = np.where(BURNT, 3, 255).astype(np.uint8)
    np.testing.assert_array_equal(inside(put(tmp_path / "c.tif", tagged, nodata=255)), BURNT)


def test_where_no_file_names_a_crs_the_map_places_the_mask(tmp_path):
    fine = rasterize([LAKE], (240, 320), transform=FINE).astype(np.float32)
    found = inside(put(tmp_path / "a.tif", fine, FINE, crs=None), crs=None)
    assert (found != BURNT).mean() < 0.01
    found = inside(put(tmp_path / "b.tif", fine, FINE, crs=None))  # taken to be the pair's
    assert (found != BURNT).mean() < 0.01


def test_masked_ground_of_the_earlier_image_is_invalid(tmp_path, rng):
    image = rng.integers(1, 4000, SHAPE).astype(np.uint16)
    paths = [put(tmp_path / name, image) for name in ("a.tif", "b.tif")]
    mask = vector(tmp_path / "lake.gpkg", "GPKG", UTM)
    with pairs.open_pair(*paths, mask=mask) as pair:
        earlier, later = (pair.read(date, 0, 0, *SHAPE) for date in (0, 1))
    np.testing.assert_array_equal(np.isnan(earlier), BURNT)
    assert np.isfinite(later).all()


def test_what_is_no_area_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--mask: .*gone\.tif does not exist"):
        inside(tmp_path / "gone.tif")
    text = tmp_path / "text.geojson"
    text.write_text("no polygons")
    with pytest.raises(ValueError, match="neither as a raster nor as polygons"):
        inside(text)
    text.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    with pytest.raises(ValueError, match="no polygon"):
        inside(text)
    line = {"type": "LineString", "coordinates": LAKE["coordinates"][0]}
    with pytest.raises(ValueError, match="no polygon"):
        inside(vector(tmp_path / "line.gpkg", "GPKG", UTM, line))
    feature = {"type": "Feature", "properties": {}, "geometry": LAKE}  # metres, taken for degrees
    text.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(ValueError, match="its polygons, in EPSG:4326, do not all have a place"):
        inside(text)
    elsewhere = put(
        tmp_path / "d.tif", np.ones(SHAPE, np.uint8), Affine(10, 0, 505_000, 0, -10, 4_000_000)
    )
    with pytest.raises(ValueError, match="covers no pixel"):
        inside(elsewhere)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        bare = put(tmp_path / "e.tif", np.ones((50, 80), np.uint8), None, None)
    with pytest.raises(ValueError, match=r"50 x 80.*60 x 80"):
        inside(bare)


def test_every_layer_counts(tmp_path):
    path = tmp_path / "two.gpkg"
    low = {"type": "Polygon", "coordinates": [[(x, y - 200) for x, y in LAKE["coordinates"][0]]]}
    for name, crs, shape in (("water", UTM, LAKE), ("cloud", CRS.from_epsg(4326), low)):
        schema = {"geometry": "Polygon", "properties": {}}
        options = {"driver": "GPKG", "crs_wkt": crs.to_wkt(), "schema": schema, "layer": name}
        with fiona.open(path, "w", **options) as target:
            geometry = transform_geom(UTM, crs, shape)
            target.write({"type": "Feature", "geometry": geometry, "properties": {}})
    expected = BURNT | rasterize([low], SHAPE, transform=GRID).astype(bool)
    assert expected.sum() > BURNT.sum()
    assert (inside(path) != expected).mean() < 0.002


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_bare_mask_is_turned_with_the_pair(tmp_path, rng):
    image = rng.integers(1, 4000, SHAPE).astype(np.uint16)
    south_up = Affine(10.0, 0.0, 500_000.0, 0.0, 10.0, 3_999_400.0)
    paths = [put(tmp_path / name, image, south_up) for name in ("a.tif", "b.tif")]
    mask = put(tmp_path / "mask.tif", BURNT.astype(np.uint8), None, None)
    with pairs.open_pair(*paths, mask=mask) as pair:
        found = np.isnan(pair.read(0, 0, 0, *SHAPE))
        np.testing.assert_array_equal(pair.read(0, 0, 0, *SHAPE)[~found], image[::-1][~found])
    np.testing.assert_array_equal(found, BURNT[::-1])


@pytest.mark.parametrize(("name", "driver"), [("a.gpkg", "GPKG"), ("a.geojson", "GeoJSON")])
def test_empty_polygons_are_no_place(tmp_path, name, driver):
    def written(*geometries):
        path = tmp_path / name
        path.unlink(missing_ok=True)
        schema = {"geometry": "Unknown", "properties": {}}
        with fiona.open(path, "w", driver=driver, crs_wkt=UTM.to_wkt(), schema=schema) as target:
            for geometry in geometries:
                target.write({"type": "Feature", "geometry": geometry, "properties": {}})
        return path

    empty = {"type": "Polygon", "coordinates": []}
    several = {"type": "MultiPolygon", "coordinates": [LAKE["coordinates"]]}
    for geometries in ((empty, LAKE), (several, empty)):
        np.testing.assert_array_equal(inside(written(*geometries)), BURNT)
    with pytest.raises(ValueError, match="holds no polygon"):
        inside(written(empty))


def test_a_raster_that_is_cut_short_is_named(tmp_path, rng):
    path = put(tmp_path / "mask.tif", rng.integers(0, 255, (600, 800)).astype(np.uint8), FINE)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"--mask=.*mask.tif opens but cannot be read to its end"):
        inside(path)
