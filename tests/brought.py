"""Pairs as people bring them: each maker writes a.tif and b.tif, or others, into a folder.

It gives the arguments of `measure_files` that go with them, beside `earlier`, `later` and `output`.
"""

import contextlib
import json
import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

UTM = CRS.from_epsg(32611)
GRID = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
GROUND = np.random.default_rng(0).integers(1, 4000, (64, 80)).astype(np.uint16)


def put(path, image=GROUND, *, transform=GRID, crs=UTM, driver="GTiff", alpha=False, **profile):
    bands = image[None] if image.ndim == 2 else image
    size = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    quiet = contextlib.nullcontext()
    if transform is None:
        quiet = pytest.warns(NotGeoreferencedWarning)
    with (
        quiet,
        rasterio.open(
            path,
            "w",
            driver=driver,
            dtype=bands.dtype,
            transform=transform,
            crs=crs,
            **size,
            **profile,
        ) as target,
    ):
        if alpha:
            target.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        target.write(bands)


def later(**changes):
    """A pair of which the later image differs."""

    def make(folder):
        put(folder / "a.tif")
        image = changes.pop("image", GROUND)
        put(folder / "b.tif", image, **changes)
        return {}

    return make


def both(**changes):
    def make(folder):
        put(folder / "a.tif", **changes)
        put(folder / "b.tif", **changes)
        return {}

    return make


def aligned(make):
    """The same with --align."""
    return lambda folder: make(folder) | {"reading": {"align": True}}


def bare_sizes(folder):
    put(folder / "a.tif", transform=None, crs=None)
    put(folder / "b.tif", GROUND[:40], transform=None, crs=None)
    return {}


def asked(prepare=None, **options):
    """A good pair with other arguments; texts with {} get the folder."""

    def fill(value, folder):
        if isinstance(value, dict):
            return {name: fill(part, folder) for name, part in value.items()}
        return value.format(folder) if isinstance(value, str) else value

    def make(folder):
        put(folder / "a.tif")
        put(folder / "b.tif", GROUND[:, ::-1])
        if prepare is not None:
            prepare(folder)
        return fill(options, folder)

    return make


def file(name, data):
    """A good pair beside a file of these bytes."""

    def make(folder):
        put(folder / "a.tif")
        put(folder / "b.tif")
        (folder / name).write_bytes(data(folder) if callable(data) else data)
        return {}

    return make


def area(**changes):
    """Writes mask.tif."""

    def prepare(folder):
        image = changes.get("image", np.ones(GROUND.shape, np.uint8))
        put(folder / "mask.tif", image, **{k: v for k, v in changes.items() if k != "image"})

    return prepare


def polygons(folder):
    where = [
        [[500_100, 3_999_900], [500_400, 3_999_900], [500_100, 3_999_600], [500_100, 3_999_900]]
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32611"}}
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": {"type": "Polygon", "coordinates": where},
    }
    collection = {"type": "FeatureCollection", "crs": crs, "features": [feature]}
    (folder / "lake.geojson").write_text(json.dumps(collection))


def zipped(folder):
    put(folder / "a.tif")
    put(folder / "b.tif")
    with zipfile.ZipFile(folder / "b.zip", "w") as target:
        target.write(folder / "b.tif", "inside.tif")
    return {"later": f"zip://{folder / 'b.zip'}!inside.tif"}


def png(folder):
    for name in ("a.png", "b.png"):
        put(folder / name, (GROUND % 250).astype(np.uint8), transform=None, crs=None, driver="PNG")
    return {"earlier": folder / "a.png", "later": folder / "b.png"}


def huge(folder):
    """A raster of a million by a million pixels that holds nothing."""
    put(folder / "a.tif")
    text = (
        '<VRTDataset rasterXSize="1000000" rasterYSize="1000000"><SRS>EPSG:32611</SRS>'
        "<GeoTransform>500000, 0.1, 0, 4000000, 0, -0.1</GeoTransform>"
        '<VRTRasterBand dataType="Float32" band="1"><NoDataValue>0</NoDataValue>'
        "</VRTRasterBand></VRTDataset>"
    )
    for name in ("a.vrt", "b.vrt"):
        (folder / name).write_text(text)
    return {"earlier": folder / "a.vrt", "later": folder / "b.vrt"}


def with_values(*values):
    image = GROUND.astype(np.float64)
    image[10, : len(values)] = values
    return image


HOLES = GROUND.astype(np.float32)
HOLES[:, 20:] = np.nan
WEST, EAST = GROUND.astype(np.float32), GROUND.astype(np.float32)
WEST[:, :40], EAST[:, 40:] = np.nan, np.nan
CUT = slice(None, -3000)
ROTATED = Affine(9, 3, 5e5, 3, -9, 4e6)
ALPHA = np.stack([GROUND, np.where(np.indices(GROUND.shape)[1] < 40, 0, 65535)]).astype(np.uint16)
FEW = (np.eye(64, 80)[:, ::-1] * (np.arange(80) > 76)).astype(np.uint8)
