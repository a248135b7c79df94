"""Reading pairs, and refusing those that do not fit."""

import contextlib
import types

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from displacement import pairs
from displacement.scene import survey

UTM = CRS.from_epsg(32611)
GRID = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)


def at(row: float, col: float, grid: Affine = GRID) -> Affine:
    """The grid moved by rows and columns."""
    west, north = grid.c + col * grid.a, grid.f + row * grid.e
    return Affine(grid.a, 0.0, west, 0.0, grid.e, north)


def read_pair(*paths, **options):
    """The whole overlap of two files, and what is said about it."""
    with pairs.open_pair(*paths, **options) as pair:
        images = [pair.read(date, 0, 0, *pair.shape) for date in (0, 1)]
        return types.SimpleNamespace(
            earlier=images[0],
            later=images[1],
            **{name: getattr(pair, name) for name in ("transform", "crs", "units", "notes")},
            pixel_size=pair.pixel_size,
        )


@pytest.fixture
def ground():
    return np.random.default_rng(0).integers(1, 4000, (100, 120)).astype(np.uint16)


@pytest.fixture
def put(tmp_path):
    """Writes an image of shape (H, W) or (bands, H, W) by rasterio alone; returns its path."""

    def write(name, image, transform=GRID, crs=UTM, *, nodata=None, mask=None):
        bands = image[None] if image.ndim == 2 else image
        path = tmp_path / name
        with (
            pytest.warns() if transform is None else contextlib.nullcontext(),
            rasterio.open(
                path,
                "w",
                driver="GTiff",
                count=bands.shape[0],
                height=bands.shape[1],
                width=bands.shape[2],
                dtype=bands.dtype,
                transform=transform,
                crs=crs,
                nodata=nodata,
            ) as target,
        ):
            target.write(bands)
            if mask is not None:
                target.write_mask(mask)
        return path

    return write


def test_same_grid_is_read_as_it_is(put, ground):
    pair = read_pair(put("a.tif", ground), put("b.tif", ground[::-1]))
    np.testing.assert_array_equal(pair.earlier, ground)
    np.testing.assert_array_equal(pair.later, ground[::-1])
    assert (pair.transform, pair.crs, pair.units) == (GRID, UTM, "m")
    assert pair.pixel_size == (10.0, 10.0)
    assert pair.notes == ()


@pytest.mark.parametrize("offset", [(7, -5), (-7, 5), (3, 11), (-20, -30)])
def test_different_extents_are_cut_to_the_overlap(put, ground, offset):
    whole = np.random.default_rng(3).integers(1, 4000, (200, 200)).astype(np.uint16)
    row, col = offset
    earlier = put("a.tif", whole[50:150, 50:150], at(50, 50))
    later = put("b.tif", whole[50 + row : 140 + row, 50 + col : 160 + col], at(50 + row, 50 + col))
    pair = read_pair(earlier, later)
    np.testing.assert_array_equal(pair.earlier, pair.later)  # one ground, so one image
    top, left = 50 + max(row, 0), 50 + max(col, 0)
    assert pair.transform == at(top, left)
    height, width = pair.earlier.shape
    np.testing.assert_array_equal(pair.earlier, whole[top : top + height, left : left + width])
    assert any("overlap" in note for note in pair.notes)


def test_subpixel_offset_is_refused_with_the_offset_and_the_command(put, ground):
    earlier, later = put("a.tif", ground), put("b.tif", ground, at(2.25, -1.4))
    with pytest.raises(ValueError, match=r"\+0\.250 rows and -0\.400 columns.*gdalwarp") as caught:
        read_pair(earlier, later)
    assert "-te 500000 3999000 501200 4000000 -ts 120 100" in str(caught.value)


def test_rounding_of_the_origin_is_not_an_offset(put, ground):
    pair = read_pair(put("a.tif", ground), put("b.tif", ground, at(1e-5, -1e-5)))
    assert pair.earlier.shape == ground.shape


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transform": Affine(15, 0, 5e5, 0, -15, 4e6)}, "10 x -10.*15 x -15.*gdalwarp"),
        ({"crs": CRS.from_epsg(32612)}, "EPSG:32611.*EPSG:32612.*gdalwarp -t_srs EPSG:32611"),
        ({"crs": None}, "no CRS.*gdal_edit.py -a_srs EPSG:32611"),
        ({"transform": at(500, 0)}, "do not overlap.*East.*North"),
        ({"transform": at(80, 0)}, "20 rows and 120 columns.*32"),
        ({"transform": Affine(10, 1, 5e5, 1, -10, 4e6)}, "rotated.*gdalwarp"),
        ({"transform": None, "crs": None}, "b.tif has no georeferencing"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_with_a_remedy(put, ground, changes, words):
    earlier, later = put("a.tif", ground), put("b.tif", ground, **changes)
    with pytest.raises(ValueError, match=words):
        read_pair(earlier, later)


def test_degrees_are_refused_with_the_utm_zone_of_the_centre(put, ground):
    def grid(longitude, latitude):
        return Affine(1e-4, 0, longitude, 0, -1e-4, latitude)

    for longitude, latitude, zone in ((-117.5, 35.7, 32611), (173.5, -42.0, 32759)):
        path = put("a.tif", ground, grid(longitude, latitude), CRS.from_epsg(4326))
        other = put("b.tif", ground, grid(longitude, latitude), CRS.from_epsg(4326))
        with pytest.raises(ValueError, match=f"degrees.*EPSG:{zone}.*-tr 11.1 11.1"):
            read_pair(path, other)


MARS = """PROJCS["Mars, from 0 E",
    GEOGCS["Mars", DATUM["Mars", SPHEROID["Mars", 3396190, 0]],
           PRIMEM["Reference_Meridian", 0], UNIT["degree", 0.0174532925199433]],
    PROJECTION["Equirectangular"], PARAMETER["standard_parallel_1", 0],
    PARAMETER["central_meridian", 0], UNIT["metre", 1]]"""


def test_dunes_of_another_planet_are_measured_too(put, ground):
    near, far = Affine(10, 0, 5e5, 0, -10, 4e5), Affine(10, 0, 5e5, 0, -10, 3.6e6)
    crs = CRS.from_wkt(MARS)
    pair = read_pair(*(put(name, ground, near, crs) for name in ("a.tif", "b.tif")))
    assert pair.pixel_size == (10.0, 10.0)
    # At 61 degrees this map is stretched twofold, and UTM zones are of the Earth.
    paths = [put(name, ground, far, crs) for name in ("c.tif", "d.tif")]
    with pytest.raises(ValueError, match=r"not true to scale.*on one map that is true to scale"):
        read_pair(*paths)


def test_a_place_off_the_map_is_no_traceback(put, ground):
    nowhere = Affine(10, 0, 1e9, 0, -10, 4e6)
    pair = read_pair(*(put(name, ground, nowhere) for name in ("a.tif", "b.tif")))
    assert pair.pixel_size == (10.0, 10.0)


def test_feet_become_metres(put, ground):
    feet = CRS.from_epsg(2227)
    paths = [put(name, ground, GRID, feet) for name in ("a.tif", "b.tif")]
    np.testing.assert_allclose(read_pair(*paths).pixel_size, 10 * 1200 / 3937)


def test_files_without_georeferencing_are_measured_in_pixels_and_say_so(put, ground):
    paths = [put(name, ground, None, None) for name in ("a.tif", "b.tif")]
    pair = read_pair(*paths)
    assert (pair.units, pair.pixel_size, pair.crs) == ("px", (1.0, 1.0), None)
    assert "georeferencing" in pair.notes[0]
    smaller = put("c.tif", ground[:-1], None, None)
    with pytest.raises(ValueError, match=r"100 x 120.*99 x 120"):
        read_pair(paths[0], smaller)


def test_south_up_and_mirrored_files_are_turned(put, ground):
    turned = Affine(-10.0, 0.0, GRID.c + 1200, 0.0, 10.0, GRID.f - 1000)
    paths = [put(name, ground[::-1, ::-1], turned) for name in ("a.tif", "b.tif")]
    pair = read_pair(*paths)
    np.testing.assert_array_equal(pair.earlier, ground)
    assert pair.transform == GRID
    assert "north up" in pair.notes[-1]


@pytest.mark.parametrize("turn", [False, True])
def test_windows_are_those_of_the_whole(put, ground, turn):
    other = ground.astype(np.float32)
    other[20:30, 40:60] = np.nan
    grid = Affine(-10.0, 0.0, GRID.c + 1200, 0.0, 10.0, GRID.f - 1000) if turn else GRID
    paths = put("a.tif", ground, grid), put("b.tif", other, grid)
    whole = read_pair(*paths)
    outside = np.pad(whole.later, 200, constant_values=np.nan)
    with pairs.open_pair(*paths) as pair:
        for row, col, height, width in [
            (0, 0, 16, 16),
            (-9, 50, 40, 90),
            (90, 100, 64, 64),
            (-80, 0, 64, 64),
        ]:
            np.testing.assert_array_equal(
                pair.read(1, row, col, height, width),
                outside[200 + row :, 200 + col :][:height, :width],
            )


def test_saturated_values_are_left_out(put, ground):
    paths = put("a.tif", ground), put("b.tif", ground)
    pair = read_pair(*paths, saturated=3000)
    np.testing.assert_array_equal(np.isnan(pair.earlier), ground >= 3000)


def test_bands_are_chosen_and_missing_ones_named(put, ground):
    both = np.stack([ground, ground + 1])
    paths = [put(name, both) for name in ("a.tif", "b.tif")]
    np.testing.assert_array_equal(read_pair(*paths, band=2).later, ground + 1)
    mixed = read_pair(*paths, band=2, later_band=1)
    np.testing.assert_array_equal(mixed.earlier, mixed.later + 1)
    with rasterio.open(paths[1], "r+") as target:
        target.set_band_description(2, "B8A")
    np.testing.assert_array_equal(read_pair(*paths, later_band="b8a").later, ground + 1)
    with pytest.raises(ValueError, match=r"no band B04, only: 1, 2 \(B8A\)"):
        read_pair(*paths[::-1], band="B04")
    with pytest.raises(ValueError, match="no band 3, only: 1, 2"):
        read_pair(*paths, band=3)


def test_nodata_tag_mask_and_nan_become_nan_in_either_image(put, ground):
    tagged = ground.copy()
    tagged[:5] = 7777
    mask = np.full(ground.shape, 255, np.uint8)
    mask[:, :4] = 0
    pair = read_pair(
        put("a.tif", tagged, nodata=7777), put("b.tif", ground.astype(np.float32), mask=mask)
    )
    np.testing.assert_array_equal(np.isnan(pair.earlier), tagged == 7777)
    np.testing.assert_array_equal(np.isnan(pair.later), mask == 0)

    with_nan = ground.astype(np.float64)
    with_nan[3, 4], with_nan[5, 6], with_nan[7, 8] = np.nan, np.inf, 1e300
    pair = read_pair(put("c.tif", with_nan), put("d.tif", ground))
    assert np.argwhere(np.isnan(pair.earlier)).tolist() == [[3, 4], [5, 6], [7, 8]]


def test_nodata_argument_takes_the_place_of_the_tag(put, ground):
    tagged = ground.copy()
    tagged[:5], tagged[5:9] = 7777, 8888
    pair = read_pair(put("a.tif", tagged, nodata=7777), put("b.tif", ground), nodata=8888.0)
    np.testing.assert_array_equal(np.isnan(pair.earlier), tagged == 8888)


def test_untagged_zero_edge_is_no_data_and_said(put, ground):
    edge = ground.copy()
    edge[:, :30] = 0
    paths = put("a.tif", edge), put("b.tif", ground)
    pair = read_pair(*paths)
    np.testing.assert_array_equal(np.isnan(pair.earlier), edge == 0)
    assert "25.0% of a.tif is exactly 0" in pair.notes[0]
    assert not np.isnan(read_pair(*paths, nodata=-1).earlier).any()

    few = ground.copy()
    few[0, :10] = 0  # dark water, not an edge
    pair = read_pair(put("c.tif", few), paths[1])
    assert not np.isnan(pair.earlier).any()
    assert pair.notes == ()


def test_common_valid_pixels_are_counted(put, ground):
    left, right = ground.astype(np.float32), ground.astype(np.float32)
    left[:, :60], right[:, 60:] = np.nan, np.nan
    with pairs.open_pair(put("a.tif", left), put("b.tif", right)) as pair:
        assert survey(pair).common == 0


def test_files_that_are_no_real_images_are_refused(put, ground, tmp_path):
    good = put("a.tif", ground)
    with pytest.raises(FileNotFoundError, match=r"missing\.tif does not exist"):
        read_pair(good, tmp_path / "missing.tif")
    text = tmp_path / "text.tif"
    text.write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.tif cannot be read as a raster"):
        read_pair(good, text)
    with pytest.raises(ValueError, match=r"complex64.*amplitude"):
        read_pair(good, put("c.tif", ground.astype(np.complex64)))
    short = tmp_path / "short.tif"
    short.write_bytes(good.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"short\.tif"):
        read_pair(good, short)


@pytest.mark.parametrize(
    ("crs", "corner", "degrees"),
    # 45 degrees east of the middle of a polar map; 9 west of a zone's, far north; in the middle.
    [(3413, (1e6, -1e6), 45.0), (32633, (3e5, 8.7e6), -8.6), (32611, (5e5, 4e6), 0.0)],
)
def test_where_north_of_the_map_points_is_told(put, ground, crs, corner, degrees):
    grid = Affine(10.0, 0.0, corner[0], 0.0, -10.0, corner[1])
    paths = [put(name, ground, grid, CRS.from_epsg(crs)) for name in ("a.tif", "b.tif")]
    with pairs.open_pair(*paths) as pair:
        told = [note for note in pair.notes if "of true north" in note]
        assert len(told) == (degrees != 0.0)
        assert pair.north_deg == pytest.approx(degrees, abs=0.5)


def test_a_name_that_is_also_a_number_is_not_guessed(put, ground):
    path = put("a.tif", np.stack([ground + k for k in range(4)]))
    with rasterio.open(path, "r+") as source:
        source.descriptions = ("2", "3", "4", "8")
    later = put("b.tif", np.stack([ground + 7] * 4))
    with rasterio.open(later, "r+") as source:
        source.descriptions = ("2", "3", "4", "8")
    with pytest.raises(ValueError, match=r"band 4 of a\.tif .* which is number 3"):
        read_pair(path, later, band="4")
    assert read_pair(path, later, band=4).earlier[0, 0] == ground[0, 0] + 3
    assert read_pair(path, later, band="8").earlier[0, 0] == ground[0, 0] + 3
    assert read_pair(path, later, band=1).earlier[0, 0] == ground[0, 0]


def test_a_transform_with_rounding_is_north_up(put, ground):
    grid = Affine(10.0, 1e-13, 500_000.0, 1e-13, -10.0, 4_000_000.0)
    read_pair(put("a.tif", ground, grid), put("b.tif", ground, grid))


def test_units_of_a_local_map_are_converted(put, ground):
    local = CRS.from_wkt('LOCAL_CS["site",UNIT["foot",0.3048]]')
    pair = read_pair(*(put(name, ground, GRID, local) for name in ("a.tif", "b.tif")))
    assert pair.pixel_size == pytest.approx((3.048, 3.048))
