"""What people bring: each ends in a result, or in an error that says what to do."""

import dataclasses

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from displacement import methods, raster
from displacement.finish import Finish
from experiments import measure
from tests.brought import (
    ALPHA,
    CUT,
    EAST,
    FEW,
    GROUND,
    HOLES,
    ROTATED,
    WEST,
    aligned,
    area,
    asked,
    bare_sizes,
    both,
    file,
    huge,
    later,
    png,
    polygons,
    put,
    with_values,
    zipped,
)

RESULT = object()


def stub(options):
    """Makes a method that finds 0.2 and 0.3 px wherever both images are valid."""

    def measured(pair):
        valid = np.isfinite(pair).all(-1)[..., None]
        return np.where(valid, np.float32([0.2, 0.3]), np.nan)

    return measured, {"window": 8, "coarse": 0}


CASES = {
    # Grids.
    "other CRS": (later(crs=CRS.from_epsg(32612)), "two CRS.*--align"),
    "other pixel size": (later(transform=Affine(15, 0, 5e5, 0, -15, 4e6)), "pixel sizes.*--align"),
    "half a pixel off": (
        later(transform=Affine(10, 0, 500_005, 0, -10, 4e6)),
        r"\+0\.500 col.*--align",
    ),
    "no overlap": (later(transform=Affine(10, 0, 6e5, 0, -10, 4e6)), "do not overlap"),
    "thin overlap": (later(transform=Affine(10, 0, 500_600, 0, -10, 4e6)), "20 columns only"),
    "degrees": (
        both(transform=Affine(1e-4, 0, -117, 0, -1e-4, 35), crs=CRS.from_epsg(4326)),
        "EPSG:32611",
    ),
    "rotated": (both(transform=ROTATED), "rotated.*gdalwarp"),
    "on its side": (both(transform=Affine(0, 10, 5e5, -10, 0, 4e6)), "rotated.*gdalwarp"),
    "rotated, aligned": (aligned(both(transform=ROTATED)), "rotated.*gdalwarp"),
    "south up": (both(transform=Affine(10, 0, 5e5, 0, 10, 4e6)), RESULT),
    "one without CRS": (later(crs=None), "no CRS.*gdal_edit"),
    "both without CRS": (both(crs=None), RESULT),
    "one without georeferencing": (later(transform=None, crs=None), "b.tif has no georeferencing"),
    "both without georeferencing": (both(transform=None, crs=None), RESULT),
    "metres without georeferencing": (
        lambda f: both(transform=None, crs=None)(f) | {"units": "m"},
        "--units=px",
    ),
    "sizes differ without georeferencing": (bare_sizes, "sizes differ"),
    "feet": (both(crs=CRS.from_epsg(2227)), RESULT),
    "other extent": (later(image=GROUND[:50, :60]), RESULT),
    "align, half a pixel off": (
        aligned(later(transform=Affine(10, 0, 500_005, 0, -10, 4e6))),
        RESULT,
    ),
    "align, other place": (
        aligned(later(transform=Affine(10, 0, 9e5, 0, -10, 4e6))),
        "do not overlap",
    ),
    "align, no CRS": (
        aligned(later(transform=Affine(11, 0, 5e5, 0, -10, 4e6), crs=None)),
        "--align",
    ),
    # Values.
    "all nodata": (
        later(image=np.full_like(GROUND, 7), nodata=7),
        "later image holds no valid pixel",
    ),
    "all NaN": (later(image=np.full(GROUND.shape, np.nan, np.float32)), "holds no valid pixel"),
    "all infinite": (
        later(image=np.full(GROUND.shape, np.inf, np.float32)),
        "holds no valid pixel",
    ),
    "all zero": (later(image=np.zeros_like(GROUND)), "holds no valid pixel"),
    "constant": (later(image=np.full_like(GROUND, 9)), "is 9 everywhere"),
    "nothing in common": (
        lambda f: (put(f / "a.tif", WEST), put(f / "b.tif", EAST), {})[2],
        "no pixel is valid in both",
    ),
    "mostly holes": (later(image=HOLES), RESULT),
    "NaN, infinity and huge numbers": (
        later(image=with_values(np.nan, np.inf, -np.inf, 1e300)),
        RESULT,
    ),
    "negative integers": (later(image=GROUND.astype(np.int32) - 2000), RESULT),
    "bytes": (later(image=(GROUND % 250).astype(np.uint8)), RESULT),
    "signed bytes": (later(image=(GROUND % 100).astype(np.int8)), RESULT),
    "double precision": (later(image=GROUND.astype(np.float64)), RESULT),
    "complex": (later(image=GROUND.astype(np.complex64)), "complex64.*amplitude"),
    "tiny": (both(image=GROUND[:20, :20]), "20 rows and 20 columns"),
    "one pixel": (both(image=GROUND[:1, :1]), "1 rows and 1 columns"),
    "window larger than the scene": (
        asked(method="ncc", window=129),
        "window=129 px is larger than the images, 64 x 80",
    ),
    "Web Mercator": (
        both(crs=CRS.from_epsg(3857)),
        r"not true to scale here: a metre of ground is 1\.21 m on it.*EPSG:32631.*-tr 8\.28 8\.28",
    ),
    "huge": (huge, r"GB are needed.*--output"),
    "zero edge": (later(image=np.where(np.arange(80) < 30, 0, GROUND).astype(np.uint16)), RESULT),
    "alpha": (later(image=ALPHA, alpha=True), RESULT),
    "nodata that leaves nothing": (
        lambda f: later(image=np.full_like(GROUND, 9))(f) | {"reading": {"nodata": 9.0}},
        "holds no valid pixel",
    ),
    "saturation that leaves nothing": (asked(reading={"saturated": 0.0}), "holds no valid pixel"),
    # Files.
    "missing": (asked(later="{}/gone.tif"), "gone.tif does not exist"),
    "folder": (asked(later="{}"), "cannot be read as a raster"),
    "text": (file("b.tif", b"not an image"), "cannot be read as a raster.*gdalinfo"),
    "empty": (file("b.tif", b""), "cannot be read as a raster"),
    "cut short": (file("b.tif", lambda f: (f / "b.tif").read_bytes()[CUT]), "b.tif"),
    "zipped": (zipped, RESULT),
    "PNG": (png, RESULT),
    "same file": (asked(later="{}/a.tif"), "the same file"),
    "no such band": (asked(reading={"band": 2}), "no band 2"),
    "band 0": (asked(reading={"band": 0}), "no band 0"),
    "negative band": (asked(reading={"band": "-1"}), "no band -1"),
    "unknown band name": (asked(reading={"later_band": "B04"}), "no band B04.*--later_band"),
    # Masks and stable ground.
    "mask of polygons": (asked(polygons, reading={"mask": "{}/lake.geojson"}), RESULT),
    "mask of another size": (
        asked(
            area(image=np.ones((30, 30), np.uint8), transform=None, crs=None),
            reading={"mask": "{}/mask.tif"},
        ),
        "30 x 30.*64 x 80",
    ),
    "mask elsewhere": (
        asked(area(transform=Affine(10, 0, 8e5, 0, -10, 4e6)), reading={"mask": "{}/mask.tif"}),
        "covers no pixel",
    ),
    "mask of everything": (
        asked(area(), reading={"mask": "{}/mask.tif"}),
        "earlier image holds no valid pixel",
    ),
    "mask missing": (asked(reading={"mask": "{}/gone.gpkg"}), "--mask: .*does not exist"),
    "mask is text": (
        asked(lambda f: (f / "m.json").write_text("{]"), reading={"mask": "{}/m.json"}),
        "--mask=.*GeoPackage",
    ),
    "stable without ramp": (asked(area(), stable="{}/mask.tif"), "--ramp"),
    "no stable ground measured": (
        asked(area(image=FEW), stable="{}/mask.tif", finish=Finish(ramp="quadratic")),
        "pixels to fit",
    ),
    # Methods and bounds.
    "unknown method": (asked(method="cosi"), "Unknown method 'cosi'.*phase"),
    "unknown weights": (asked(method="cnn", weights="nowhere"), "No weights at 'nowhere'"),
    "weights of a correlator": (asked(method="ncc", weights="cnn"), "takes no weights"),
    "window of a network": (asked(method="cnn", window=32), "no option.*window"),
    "even window": (asked(method="ncc", window=16), "odd window"),
    "odd window": (asked(method="lk", window=3), "4 px or more"),
    "step over the window": (asked(method="ncc", window=9, step=10), "step=10 must be .*9 px"),
    "regularisation in words": (
        asked(method="ncc", window=7, regularisation="4"),
        "regularisation='4' must be a number",
    ),
    "no finite regularisation": (
        asked(method="ncc", window=7, regularisation=float("nan")),
        "regularisation of 0 .*got nan",
    ),
    "sigma of a correlator": (asked(finish=Finish(max_sigma_px=0.1)), "--max_sigma_px needs"),
    "quality of none": (asked(finish=Finish(min_quality=0.1)), "--min_quality needs"),
    # Outputs.
    "no suffix": (asked(output="{}/moved"), "must end in"),
    "JPEG": (asked(output="{}/moved.jpg"), "must end in"),
    "NetCDF in name only": (asked(output="{}/moved.nc", layout="classic"), r"must end in \.tif"),
    "classic order of none": (asked(layout="classic"), "--format=classic needs"),
    "GeoTIFF in name only": (asked(output="{}/moved.tif", layout="netcdf"), r"must end in \.nc"),
    "output is an input": (asked(output="{}/a.tif"), "is an input"),
    "output is a folder": (
        asked(lambda f: (f / "moved.tif").mkdir(), output="{}/moved.tif"),
        "is a folder",
    ),
    "folder is a file": (asked(output="{}/a.tif/moved.tif"), "nothing can be written"),
    "style would overwrite the mask": (
        asked(
            lambda f: (polygons(f), (f / "lake.geojson").rename(f / "moved.json")),
            reading={"mask": "{}/moved.json"},
        ),
        "is an input",
    ),
    "new folder": (asked(output="{}/new/folder/moved.tif"), RESULT),
    "NetCDF": (asked(output="{}/moved.nc"), RESULT),
}


@pytest.mark.parametrize("case", CASES)
def test_result_or_an_error_that_helps(case, tmp_path, monkeypatch, capsys):
    phase = methods.METHODS["phase"]
    small = dataclasses.replace(phase, make=stub, tiles=lambda _: {"tile": 48, "margin": 16})
    monkeypatch.setitem(methods.METHODS, "phase", small)
    make, expected = CASES[case]
    options = {
        "earlier": tmp_path / "a.tif",
        "later": tmp_path / "b.tif",
        "output": tmp_path / "moved.tif",
        "method": "phase",
        "figure": False,
    }
    options |= make(tmp_path)
    if expected is RESULT:
        measure.measure_files(**options)
        assert "of the pixels in" in capsys.readouterr().out
        if str(options["output"]).endswith(".tif"):
            assert raster.read_displacement(options["output"]).valid.mean() > 0.2
    else:
        with pytest.raises((ValueError, OSError), match=expected) as caught:
            measure.measure_files(**options)
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) > 20
        output = tmp_path / "moved.tif"
        assert not output.is_file()
        for journal in tmp_path.rglob("*.journal"):
            assert '"tile"' in journal.read_text()  # kept only if there is something to go on with
