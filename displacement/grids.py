"""Do two rasters share one pixel grid, and where do they overlap? If not: why, and the remedy.

Nothing is resampled here: a pair on two grids is refused with the flag and the gdalwarp command
that put the later image on the grid of the earlier one, so that the choice is the person's.
"""

import math
import os
import shlex

import numpy as np
import pyproj
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points
from rasterio.windows import Window

MIN_OVERLAP_PX = 32  # rows and columns: the window that most correlators start from
GRID_TOLERANCE_PX = 1e-3  # two grids closer than this are one: no estimator resolves it
METRES_PER_DEGREE = 111_320.0  # of latitude
_WORST_STRETCH = 1.1  # of the ground on the map: more is no map to measure on
_NOTED_STRETCH = 1.005
_NOTED_NORTH_DEG = 2.0  # UTM has as much at the edges of its zones
_STEP_M = 100.0  # on the map, that it is found over


def check_pair(earlier: rasterio.DatasetReader, later: rasterio.DatasetReader) -> list[str]:
    """Refuses a pair that does not share CRS, orientation and pixel size.

    Args:
      earlier: the open earlier raster.
      later: the open later raster.

    Returns:
      Notes on what is assumed where the georeferencing is incomplete.

    Raises:
      ValueError: names both values and the remedy.
    """
    for source in (earlier, later):
        check_grid(source)
    pair = (earlier, later)
    plain = [source for source in pair if source.transform.is_identity]
    if len(plain) == 1:
        raise ValueError(
            f"{_name(plain[0])} has no georeferencing and the other image has. Give both on one"
            " grid, for example by gdal_edit.py -a_srs and -a_ullr on the bare one."
        )
    if plain:
        if earlier.shape != later.shape:
            raise ValueError(
                f"neither image has georeferencing and their sizes differ: {_name(earlier)} has"
                f" {_size(earlier)} pixels, {_name(later)} {_size(later)}. Cut both to the same"
                " area, or georeference them."
            )
        return [
            "Neither file has georeferencing: displacement is in pixels (1 px = 1 unit), the top"
            " of the images is taken as north."
        ]
    if (earlier.crs is None) != (later.crs is None):
        bare, other = (earlier, later) if earlier.crs is None else (later, earlier)
        raise ValueError(
            f"{_name(bare)} names no CRS, {_name(other)} names {_crs(other)}. If they are the"
            f" same: gdal_edit.py -a_srs {shlex.quote(_crs(other))} {_quoted(bare)}"
        )
    if earlier.crs != later.crs:
        raise ValueError(
            f"the images are in two CRS: {_name(earlier)} in {_crs(earlier)}, {_name(later)} in"
            f" {_crs(later)}. {_warp_remedy(earlier, later)}"
        )
    sizes = [(source.transform.a, source.transform.e) for source in pair]
    drift_px = max(
        abs(sizes[1][axis] / sizes[0][axis] - 1) * max(later.shape[1 - axis], 1) for axis in (0, 1)
    )
    if drift_px > GRID_TOLERANCE_PX:
        raise ValueError(
            f"the pixel sizes differ: {sizes[0][0]:.10g} x {sizes[0][1]:.10g} in {_name(earlier)},"
            f" {sizes[1][0]:.10g} x {sizes[1][1]:.10g} in {_name(later)}."
            f" {_warp_remedy(earlier, later)}"
        )
    if earlier.crs is None:
        return [
            "Neither file names a CRS: map units are taken as metres, so one pixel is"
            f" {abs(sizes[0][0]):.6g} x {abs(sizes[0][1]):.6g} m."
        ]
    notes = []
    stretch = map_stretch(earlier)
    if not 1 / _NOTED_STRETCH < stretch < _NOTED_STRETCH:
        notes.append(
            f"A metre of ground is {stretch:.3f} m on this map ({_crs(earlier)}), and displacement"
            " is in metres of the map: divide by that, or put both images on their UTM zone."
        )
    north = map_north(earlier)
    if abs(north) > _NOTED_NORTH_DEG:
        notes.append(
            f"North of this map ({_crs(earlier)}) points {abs(north):.1f} degrees"
            f" {'east' if north > 0 else 'west'} of true north here: east_west and north_south are"
            " along the axes of the map."
        )
    return notes


def overlap(
    earlier: rasterio.DatasetReader, later: rasterio.DatasetReader
) -> tuple[tuple[Window, Window], list[str]]:
    """Finds the common area of two rasters that passed `check_pair`.

    Returns:
      The window of the common area in the earlier and in the later raster, and a note where it
      is smaller than the earlier one.

    Raises:
      ValueError: the pixels do not coincide, or the common area is too small.
    """
    first, second = earlier.transform, later.transform
    # Position of the later raster's first pixel in the earlier raster, pixels.
    exact = ((second.f - first.f) / first.e, (second.c - first.c) / first.a)
    row, col = (round(value) for value in exact)
    fraction = (exact[0] - row, exact[1] - col)
    if max(abs(value) for value in fraction) > GRID_TOLERANCE_PX:
        raise ValueError(
            f"the pixels of the two images do not coincide: {_name(later)} lies"
            f" {fraction[0]:+.3f} rows and {fraction[1]:+.3f} columns off the grid of"
            f" {_name(earlier)} (at most {GRID_TOLERANCE_PX:g} px is allowed)."
            f" {_warp_remedy(earlier, later)}"
        )
    top, left = max(0, row), max(0, col)
    height = min(earlier.height, row + later.height) - top
    width = min(earlier.width, col + later.width) - left
    if height <= 0 or width <= 0:
        raise ValueError(
            f"the images do not overlap: {_name(earlier)} covers {extent(earlier)},"
            f" {_name(later)} {extent(later)}. Give two images of the same place."
        )
    if min(height, width) < MIN_OVERLAP_PX:
        raise ValueError(
            f"the images overlap in {height} rows and {width} columns only, at least"
            f" {MIN_OVERLAP_PX} of each are needed. Give images with more area in common."
        )
    windows = (Window(left, top, width, height), Window(left - col, top - row, width, height))
    if (height, width) == earlier.shape:
        return windows, []
    return windows, [
        f"Cut to the overlap: {height} rows from row {top} and {width} columns from column {left}"
        " of the earlier image."
    ]


def part_transform(transform: Affine, window: Window) -> Affine:
    """The transform of a window of an unrotated grid; the identity, no georeferencing, is kept."""
    if transform.is_identity:
        return transform
    west = transform.c + window.col_off * transform.a
    north = transform.f + window.row_off * transform.e
    return Affine(transform.a, 0.0, west, 0.0, transform.e, north)


def band_number(source: rasterio.DatasetReader, band: int | str) -> int:
    """The number of a band that is given by number, from 1, or by name; a text may be either.

    Raises:
      ValueError: there is none, or it holds complex numbers.
    """
    names = [(text or "").lower() for text in source.descriptions]
    number = names.index(str(band).lower()) + 1 if str(band).lower() in names else 0
    if str(band).isdecimal() and 1 <= int(band) <= source.count:
        if isinstance(band, str) and number not in (0, int(band)):
            raise ValueError(
                f"band {band} of {_name(source)} is the one of this number or the one of this name,"
                f" which is number {number}. Rename the bands, or cut one out: gdal_translate -b."
            )
        number = int(band)
    if not 1 <= number <= source.count:
        bands = [
            f"{index} ({text})" if text else f"{index}"
            for index, text in enumerate(source.descriptions, start=1)
        ]
        raise ValueError(
            f"{_name(source)} has no band {band}, only: {', '.join(bands) or 'none'}. Choose one"
            " with --band (of the later image alone: --later_band)."
        )
    if source.dtypes[number - 1].startswith("complex"):
        raise ValueError(
            f"band {number} of {_name(source)} is {source.dtypes[number - 1]}, but a real-valued"
            " image is needed. Write its amplitude to a file first."
        )
    return number


def check_grid(source: rasterio.DatasetReader) -> None:
    """Refuses a grid that is rotated, in degrees or far from true to scale, with the remedy."""
    grid, name = source.transform, _name(source)
    # By less than a thousandth of a pixel across the image is rounding.
    if abs(grid.b) * source.height > GRID_TOLERANCE_PX * abs(grid.a) or (
        abs(grid.d) * source.width > GRID_TOLERANCE_PX * abs(grid.e)
    ):
        raise ValueError(
            f"the grid of {name} is rotated (one column goes {grid.a:g} east and {grid.d:g} north)"
            " but must be north up. Turn both images: gdalwarp -r lanczos"
            f" {_quoted(source)} {_quoted(source, 'north_up')}"
        )
    if source.crs is not None and source.crs.is_geographic:
        raise ValueError(
            f"{name} is in degrees ({_crs(source)}), but a CRS in metres is needed."
            f" {_utm_remedy(source, abs(grid.e) * METRES_PER_DEGREE)}"
        )
    stretch = map_stretch(source)
    if not 1 / _WORST_STRETCH < stretch < _WORST_STRETCH:
        metres = source.crs.linear_units_factor[1]
        raise ValueError(
            f"{name} is on a map ({_crs(source)}) that is not true to scale here: a metre of ground"
            f" is {stretch:.2f} m on it. {_utm_remedy(source, abs(grid.e) * metres / stretch)}"
        )


def map_stretch(source: rasterio.DatasetReader) -> float:
    """How many metres of the map a metre of ground is, at the middle of a projected grid.

    The worse of north and east; 1 where there is no projection. UTM has 0.9996 to 1.001 in its
    zone, polar stereographic and conic maps up to a few hundredths more or less than 1, Web
    Mercator 1 / cos(latitude).
    """
    if source.crs is None or not source.crs.is_projected:
        return 1.0
    _, ground_m = _on_the_ground(source)
    found = [_STEP_M / metres for metres in ground_m if 0 < metres < math.inf]
    return max(found, key=lambda stretch: abs(math.log(stretch)), default=1.0)


def map_north(source: rasterio.DatasetReader) -> float:
    """Degrees by which north of the map points east of true north, at the middle of the grid.

    0 where there is no projection, or the map has no such place.
    """
    if source.crs is None or not source.crs.is_projected:
        return 0.0
    (_, north), _ = _on_the_ground(source)
    return float(north) if math.isfinite(north) else 0.0


def _on_the_ground(source: rasterio.DatasetReader) -> tuple[list[float], list[float]]:
    """Azimuths [degrees] and lengths [m] on the ground of `_STEP_M` of the map, east and north.

    NaN where the map has no such place. On the body's own ellipsoid: dunes of Mars move too.
    """
    step = _STEP_M / source.crs.linear_units_factor[1]
    own = pyproj.CRS.from_wkt(source.crs.to_wkt())
    if own.geodetic_crs is None:
        return [math.nan] * 2, [math.nan] * 2
    offsets = [(0.0, 0.0), (step, 0.0), (0.0, step)]
    longitude, latitude = _degrees(source, offsets, CRS.from_wkt(own.geodetic_crs.to_wkt()))
    middle = [longitude[0]] * 2, [latitude[0]] * 2
    azimuths, _, lengths = own.get_geod().inv(*middle, longitude[1:], latitude[1:])
    return azimuths, lengths


def _degrees(
    source: rasterio.DatasetReader, offsets: list[tuple[float, float]], crs: CRS
) -> tuple[list[float], list[float]]:
    """Longitudes and latitudes of points so many map units east and north of a grid's middle.

    In a CRS in degrees; NaN where the map has no such place.
    """
    grid, col, row = source.transform, source.width / 2, source.height / 2
    x, y = grid.c + grid.a * col + grid.b * row, grid.f + grid.d * col + grid.e * row
    east, north = zip(*((x + dx, y + dy) for dx, dy in offsets), strict=True)
    try:
        found = np.array(transform_points(source.crs, crs, east, north)[:2])
    except Exception:  # GDAL's own, which rasterio has no name for
        found = np.full((2, len(east)), math.nan)
    return tuple(np.where(np.isfinite(found).all(0), found, math.nan).tolist())


def _utm_remedy(source: rasterio.DatasetReader, size_m: float) -> str:
    """The sentence with the command that puts an image on the UTM zone of its centre."""
    (longitude,), (latitude,) = _degrees(source, [(0.0, 0.0)], CRS.from_epsg(4326))
    if not math.isfinite(longitude):
        return "Put both images on one map that is true to scale there: gdalwarp -t_srs ..."
    utm = (32600 if latitude >= 0 else 32700) + int((longitude + 180) // 6) % 60 + 1
    size = f"{size_m:.3g}"
    return (
        f"Put both images on the UTM zone of their centre, EPSG:{utm}: gdalwarp -t_srs EPSG:{utm}"
        f" -tr {size} {size} -tap -r lanczos {_quoted(source)} {_quoted(source, 'utm')}"
    )


def _warp_remedy(earlier: rasterio.DatasetReader, later: rasterio.DatasetReader) -> str:
    """The sentence with the command that puts the later image on the earlier image's grid."""
    west, east, south, north = bounds(earlier)
    target = f"-t_srs {shlex.quote(_crs(earlier))} " if earlier.crs is not None else ""
    return (
        "Put the later image on the grid of the earlier one: --align resamples it once, or"
        f" beforehand: gdalwarp {target}-te {west:.10g}"
        f" {south:.10g} {east:.10g} {north:.10g} -ts {earlier.width} {earlier.height} -r lanczos"
        f" {_quoted(later)} {_quoted(later, 'on_grid')}"
    )


def _name(source: rasterio.DatasetReader) -> str:
    return os.path.basename(source.name)


def _quoted(source: rasterio.DatasetReader, suffix: str | None = None) -> str:
    """The file's name as a shell word, or with a suffix the name of a GeoTIFF made from it."""
    stem = os.path.splitext(source.name)[0]
    return shlex.quote(source.name if suffix is None else f"{stem}_{suffix}.tif")


def _crs(source: rasterio.DatasetReader) -> str:
    return source.crs.to_string()


def _size(source: rasterio.DatasetReader) -> str:
    return f"{source.height} x {source.width}"


def extent(source: rasterio.DatasetReader) -> str:
    """The extent of an unrotated grid, in words."""
    west, east, south, north = bounds(source)
    return f"East {west:.10g} to {east:.10g}, North {south:.10g} to {north:.10g}"


def bounds(source: rasterio.DatasetReader) -> tuple[float, float, float, float]:
    """(west, east, south, north) of an unrotated grid, whichever way it is stored."""
    grid = source.transform
    west, east = sorted((grid.c, grid.c + grid.a * source.width))
    south, north = sorted((grid.f, grid.f + grid.e * source.height))
    return west, east, south, north
