"""Georeferenced files in and out: the one place where pixels become metres, East and North.

Inside the program a displacement is in pixels, (row, col). In files it is in metres, East and
North positive: with the map step of one pixel, `step_row` (negative where north is up) and
`step_col`, `east = col * step_col` and `north = row * step_row`.
"""

import dataclasses
import importlib.metadata
import json
import math
import os

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from displacement import grids
from displacement.files import create_geotiff, open_raster
from displacement.types import Estimate

UNTAGGED_ZERO_FRACTION = 0.01  # more exact zeros than this are an edge or a fill, not the ground

SIGN_CONVENTION = (
    "east_west is positive east, north_south is positive north; position in the later image"
    " minus position in the earlier image, on the grid of the earlier image"
)


@dataclasses.dataclass(frozen=True)
class RasterPair:
    """Two images of one place on one grid, north up.

    Attributes:
      earlier: `(H, W)` float32, NaN where invalid.
      later: `(H, W)` float32, on the grid of `earlier`, NaN where invalid.
      transform: of the common grid; the identity where the files have no georeferencing.
      crs: of both files, or None.
      pixel_size_m: (width, height), positive; in `units`.
      units: "m", or "px" where the files have no georeferencing.
      notes: what was assumed or cut, one sentence each, for the person who measures.
      earlier_path: the file of `earlier`.
      later_path: the file of `later`.
      earlier_size: (rows, columns) of the whole earlier file.
      later_size: (rows, columns) of the whole later file.
    """

    earlier: np.ndarray
    later: np.ndarray
    transform: Affine
    crs: CRS | None
    pixel_size_m: tuple[float, float]
    units: str
    notes: tuple[str, ...]
    earlier_path: str
    later_path: str
    earlier_size: tuple[int, int]
    later_size: tuple[int, int]


def read_pair(
    earlier_path: str | os.PathLike,
    later_path: str | os.PathLike,
    *,
    band: int = 1,
    nodata: float | None = None,
) -> RasterPair:
    """Reads where two images overlap, without resampling either.

    Args:
      earlier_path: the earlier image, any raster that GDAL reads.
      later_path: the later image, on the same pixel grid; its extent may differ.
      band: which band of both files, from 1.
      nodata: value that means no data, in place of the files' nodata tags.

    Returns:
      The pair, cut to the overlap, invalid pixels NaN.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is not a raster, lacks the band, or the two do not share a grid; the
        message names both values and the remedy.
    """
    with open_raster(earlier_path) as earlier, open_raster(later_path) as later:
        notes = grids.check_pair(earlier, later, band)
        windows, cut_notes = grids.overlap(earlier, later)
        images = []
        for source, window in zip((earlier, later), windows, strict=True):
            image, read_notes = _read(source, band, window, nodata)
            images.append(image)
            cut_notes += read_notes
        stored = grids.part_transform(earlier.transform, windows[0])
        transform, turn = _north_up(stored, images[0].shape)
        if transform != stored:
            cut_notes.append("The files are not stored north up: turned, and so is the result.")
        images = [np.ascontiguousarray(image[turn]) for image in images]
        if not np.any(np.isfinite(images[0]) & np.isfinite(images[1])):
            raise ValueError(
                f"no pixel is valid in both {earlier_path} and {later_path}. Look at the images"
                " and their nodata tags; --nodata gives another value."
            )
        step_row, step_col = map_step(transform, earlier.crs)
        return RasterPair(
            earlier=images[0],
            later=images[1],
            transform=transform,
            crs=earlier.crs,
            pixel_size_m=(abs(step_col), abs(step_row)),
            units="px" if transform.is_identity else "m",
            notes=(*notes, *cut_notes),
            earlier_path=str(earlier_path),
            later_path=str(later_path),
            earlier_size=earlier.shape,
            later_size=later.shape,
        )


def map_step(transform: Affine | None, crs: CRS | None, units: str = "m") -> tuple[float, float]:
    """How far one pixel goes on the map.

    Args:
      transform: of the grid; None or the identity means no georeferencing: 1 px, north up.
      crs: of the grid; None means map units of metres.
      units: "m", or "px" to keep the signs alone.

    Returns:
      (northing of one row down, easting of one column to the right), metres or pixels. The first
      is negative where north is up.
    """
    if units not in ("m", "px"):
        raise ValueError(f"units={units!r} is unknown. Use 'm' or 'px'.")
    if transform is None or transform.is_identity:
        return -1.0, 1.0
    if units == "px":
        return math.copysign(1.0, transform.e), math.copysign(1.0, transform.a)
    metres = crs.linear_units_factor[1] if crs is not None and crs.is_projected else 1.0
    return transform.e * metres, transform.a * metres


def write_displacement(
    path: str | os.PathLike,
    estimate: Estimate,
    *,
    transform: Affine | None,
    crs: CRS | None,
    units: str = "m",
    tags: dict[str, str] | None = None,
) -> None:
    """Writes a displacement as GeoTIFF: East and North positive, NaN where not measured.

    Bands: `east_west`, `north_south`; then `sigma_east_west`, `sigma_north_south` where the
    estimate has a sigma; then `valid`, 1 or 0. The file appears whole or not at all.

    Args:
      path: of the file; its folder is made if it is missing.
      estimate: displacement in pixels, (row, col).
      transform: of the estimate's grid; None or the identity means no georeferencing.
      crs: of the grid, or None.
      units: of the file, "m" or "px".
      tags: further tags of the file.

    Raises:
      ValueError: metres are asked for without georeferencing.
      OSError: the file cannot be written.
    """
    if units == "m" and (transform is None or transform.is_identity):
        raise ValueError("units='m' needs georeferencing, and there is none. Use units='px'.")
    step = np.array(map_step(transform, crs, units), np.float32)
    north_east = estimate.displacement * step  # north = row * step_row, east = col * step_col
    north_east = np.where(estimate.valid[..., None], north_east, np.float32(np.nan))
    bands = {"east_west": north_east[..., 1], "north_south": north_east[..., 0]}
    if estimate.sigma is not None:
        sigma = estimate.sigma * np.abs(step)
        bands |= {"sigma_east_west": sigma[..., 1], "sigma_north_south": sigma[..., 0]}
    bands["valid"] = estimate.valid
    all_tags = {
        "UNITS": units,
        "SIGN_CONVENTION": SIGN_CONVENTION,
        "METHOD": estimate.method,
        "DETAILS": json.dumps(estimate.details),
        "SOFTWARE": f"displacement {importlib.metadata.version('displacement')}",
        **(tags or {}),
    }
    grid = {"transform": transform, "crs": crs, "nodata": math.nan}
    shape = estimate.valid.shape
    with create_geotiff(path, shape, count=len(bands), dtype="float32", **grid) as target:
        for index, (name, values) in enumerate(bands.items(), start=1):
            target.write(np.asarray(values, np.float32), index)
            target.set_band_description(index, name)
            target.set_band_unit(index, "" if name == "valid" else units)
        target.update_tags(**all_tags)


def read_displacement(path: str | os.PathLike) -> Estimate:
    """Reads a file of `write_displacement` back into pixels, (row, col)."""
    with open_raster(path) as source:
        bands = {name: index for index, name in enumerate(source.descriptions, start=1)}
        missing = {"east_west", "north_south", "valid"} - bands.keys()
        if missing:
            raise ValueError(
                f"{path} has no band named {', '.join(sorted(missing))}: it is not a"
                " displacement file. Give one that measure wrote."
            )
        tags = source.tags()
        step = map_step(source.transform, source.crs, source.units[bands["east_west"] - 1])
        step = np.array(step, np.float32)

        def read(north_south: str, east_west: str) -> np.ndarray:
            return np.stack([source.read(bands[north_south]), source.read(bands[east_west])], -1)

        sigma = None
        if "sigma_east_west" in bands:
            sigma = read("sigma_north_south", "sigma_east_west") / np.abs(step)
        return Estimate(
            displacement=read("north_south", "east_west") / step,
            sigma=sigma,
            valid=source.read(bands["valid"]) == 1,
            method=tags.get("METHOD", "unknown"),
            details=json.loads(tags.get("DETAILS", "{}")),
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


def _read(
    source: rasterio.DatasetReader, band: int, window: Window, nodata: float | None
) -> tuple[np.ndarray, list[str]]:
    """Reads one band, NaN where the file or `nodata` says invalid, with notes on assumptions."""
    name = os.path.basename(source.name)
    try:
        raw = source.read(band, window=window)
        valid = source.read_masks(band, window=window) > 0  # nodata tag, mask band or alpha
    except RasterioIOError as error:
        raise ValueError(
            f"{name} opens but cannot be read to its end: is it cut short? Fetch it again."
        ) from error
    flags = source.mask_flag_enums[band - 1]
    notes = []
    if nodata is not None:
        tag_only = MaskFlags.nodata in flags
        valid = (raw != nodata) & (valid | tag_only)
    elif MaskFlags.all_valid in flags and np.issubdtype(raw.dtype, np.integer):
        zeros = float(np.mean(raw == 0))
        if zeros > UNTAGGED_ZERO_FRACTION:
            valid = raw != 0
            notes.append(
                f"{zeros:.1%} of {name} is exactly 0 and no nodata value is tagged: 0 is taken as"
                " no data (--nodata gives another value)."
            )
    with np.errstate(over="ignore"):  # beyond float32 is invalid below
        image = np.where(valid, raw, 0).astype(np.float32)
    return np.where(valid & np.isfinite(image), image, np.float32(np.nan)), notes


def _north_up(transform: Affine, shape: tuple[int, int]) -> tuple[Affine, tuple[slice, slice]]:
    """The grid turned north up and east right, and how to index an image to turn it likewise."""
    if transform.is_identity:
        return transform, (slice(None), slice(None))
    a, e, west, north = transform.a, transform.e, transform.c, transform.f
    rows, cols = slice(None, None, -1 if e > 0 else 1), slice(None, None, -1 if a < 0 else 1)
    if e > 0:
        north += e * shape[0]
    if a < 0:
        west += a * shape[1]
    return Affine(abs(a), 0.0, west, 0.0, -abs(e), north), (rows, cols)
