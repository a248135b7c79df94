"""Georeferenced files in and out: the one place where pixels become metres, East and North.

Inside the program a displacement is in pixels, (row, col). In files it is in metres, East and
North positive: with the map step of one pixel, `step_row` (negative where north is up) and
`step_col`, `east = col * step_col` and `north = row * step_row`.
"""

import json
import math
import os

import numpy as np
import pyproj
from affine import Affine
from rasterio.crs import CRS

from displacement.files import create_geotiff, open_raster
from displacement.types import Estimate

_ROTATED = 1e-6  # columns per row: less is rounding
SIGN_CONVENTION = (
    "east_west is positive east, north_south is positive north; position in the later image"
    " minus position in the earlier image, on the grid of the earlier image"
)


def metres_per_unit(crs: CRS | None) -> float:
    """Metres of a unit of a map; without a CRS map units are taken as metres.

    Raises:
      ValueError: its units are degrees.
    """
    if crs is None:
        return 1.0
    if crs.is_geographic:
        raise ValueError(
            f"{crs.to_string()} is in degrees, of which no number is a metre. Put the map on a"
            " projected CRS, its UTM zone for example, or write pixels."
        )
    if crs.is_projected:
        return crs.linear_units_factor[1]
    return pyproj.CRS.from_wkt(crs.to_wkt()).axis_info[0].unit_conversion_factor  # a local one


def map_step(transform: Affine | None, crs: CRS | None, units: str = "m") -> tuple[float, float]:
    """How far one pixel goes on the map.

    Args:
      transform: of the grid; None or the identity means no georeferencing: 1 px, north up.
      crs: of the grid; None means map units of metres.
      units: "m", or "px" to keep the signs alone.

    Returns:
      (northing of one row down, easting of one column to the right), metres or pixels. The first
      is negative where north is up.

    Raises:
      ValueError: the grid is rotated, or in degrees where metres are asked for.
    """
    if units not in ("m", "px"):
        raise ValueError(f"units={units!r} is unknown. Use 'm' or 'px'.")
    if transform is None or transform.is_identity:
        return -1.0, 1.0
    if abs(transform.b) > _ROTATED * abs(transform.a) or (
        abs(transform.d) > _ROTATED * abs(transform.e)
    ):
        raise ValueError(
            f"the grid is rotated ({transform.a:g}, {transform.b:g}, {transform.d:g},"
            f" {transform.e:g}), so that rows and columns are not north and east. Turn it north up"
            " first: gdalwarp -r lanczos."
        )
    if units == "px":
        return math.copysign(1.0, transform.e), math.copysign(1.0, transform.a)
    metres = metres_per_unit(crs)
    return transform.e * metres, transform.a * metres


def read_displacement(path: str | os.PathLike) -> Estimate:
    """Reads a displacement GeoTIFF, of any layout that is written, into pixels, (row, col).

    Raises:
      ValueError: it is none, does not say in which unit, or is on a rotated grid or in degrees.
    """
    if str(path).endswith(".nc"):
        raise ValueError(f"{path} is NetCDF. Open it with xarray, or give a GeoTIFF.")
    with open_raster(path) as source:
        bands = {name: index for index, name in enumerate(source.descriptions, start=1)}
        missing = {"east_west", "north_south"} - bands.keys()
        if missing:
            raise ValueError(
                f"{path} has no band named {', '.join(sorted(missing))}: it is not a"
                " displacement file. Give one that measure wrote."
            )
        tags = source.tags()
        units = source.units[bands["east_west"] - 1] or tags.get("UNITS")
        if units not in ("m", "px"):
            raise ValueError(
                f"{path}: its band east_west is in {units or 'no unit'}, not in m or px. Set the"
                " unit of the band, or the tag UNITS."
            )
        if units == "m" and source.transform.is_identity:
            raise ValueError(
                f"{path} is in metres, and has no georeferencing that tells the size of its pixels."
                " Give it a transform, or write pixels."
            )
        step = np.array(map_step(source.transform, source.crs, units), np.float32)

        def band(name: str) -> np.ndarray:
            values = source.read(bands[name], masked=True)
            return np.ma.filled(values.astype(np.float32), np.nan)

        def read(north_south: str, east_west: str) -> np.ndarray:
            return np.stack([band(north_south), band(east_west)], -1)

        sigma = None
        if "sigma_east_west" in bands:
            sigma = read("sigma_north_south", "sigma_east_west") / np.abs(step)
        displacement = read("north_south", "east_west") / step
        kept = next((name for name in ("quality", "snr") if name in bands), None)
        quality = None if kept is None else band(kept)
        valid = np.isfinite(displacement).all(-1)
        if "valid" in bands:  # the classic order has none
            valid = source.read(bands["valid"]) == 1
        return Estimate(
            displacement=displacement,
            sigma=sigma,
            valid=valid,
            method=tags.get("METHOD", "unknown"),
            details=json.loads(tags.get("DETAILS", "{}")),
            quality=quality,
        )


def write_image(
    path: str | os.PathLike,
    image: np.ndarray,
    *,
    transform: Affine | None,
    crs: CRS | None,
    nodata: float | None = None,
) -> None:
    """Writes one `(H, W)` image as GeoTIFF in its own data type; whole or not at all."""
    grid = {"transform": transform, "crs": crs, "nodata": nodata}
    with create_geotiff(path, image.shape, count=1, dtype=image.dtype.name, **grid) as target:
        target.write(image, 1)
