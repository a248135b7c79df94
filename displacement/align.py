"""Resampling the later image once onto the grid of the earlier one, when a person asks for it."""

import contextlib
import math
import os
from collections.abc import Iterator

import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from displacement import grids

KERNEL = Resampling.lanczos  # interpolating and sharp; GDAL's cubic spline blurs
POSITION_PX = 1e-3  # to which positions are exact; by default GDAL takes an eighth of a pixel


@contextlib.contextmanager
def on_grid_of(
    earlier: rasterio.DatasetReader,
    later: rasterio.DatasetReader,
    *,
    nodata: float | None,
) -> Iterator[tuple[WarpedVRT, str]]:
    """Opens the later image as it looks on the grid of the earlier one.

    Windows are resampled when they are read, with positions exact to `POSITION_PX`, in float32,
    NaN outside and where `nodata` or a mask says so.

    Args:
      earlier: in a CRS, north up, not in degrees.
      later: in any CRS.
      nodata: of the later image's pixels, or None.

    Yields:
      The resampled raster, cut to the overlap, and a sentence on what was done.

    Raises:
      ValueError: a CRS is missing, or the images do not overlap.
    """
    grids.check_grid(earlier)
    for source in (earlier, later):
        if source.crs is None or source.transform.is_identity:
            raise ValueError(
                f"{os.path.basename(source.name)} has no CRS or no georeferencing, so --align"
                " cannot place it. Georeference it first: gdal_edit.py -a_srs ... -a_ullr ..."
            )
    try:
        west, south, east, north = transform_bounds(later.crs, earlier.crs, *_bounds(later))
    except Exception as error:  # GDAL's own too, which rasterio has no name for
        raise ValueError(
            f"{os.path.basename(later.name)} cannot be put into {earlier.crs.to_string()}"
            f" ({error}). Are these images of one place?"
        ) from error
    if not all(map(math.isfinite, (west, south, east, north))):
        raise ValueError(
            f"{os.path.basename(later.name)}, in {later.crs.to_string()}, has no place in"
            f" {earlier.crs.to_string()}. Is its CRS the right one?"
        )
    grid = earlier.transform
    cols = sorted(((west - grid.c) / grid.a, (east - grid.c) / grid.a))
    rows = sorted(((north - grid.f) / grid.e, (south - grid.f) / grid.e))
    left, top = max(int(cols[0] // 1), 0), max(int(rows[0] // 1), 0)
    right = min(int(-(-cols[1] // 1)), earlier.width)
    bottom = min(int(-(-rows[1] // 1)), earlier.height)
    if right <= left or bottom <= top:
        raise ValueError(
            f"the images do not overlap: {os.path.basename(earlier.name)} covers"
            f" {grids.extent(earlier)}, {os.path.basename(later.name)} East {west:.10g} to"
            f" {east:.10g}, North {south:.10g} to {north:.10g}. Give two images of one place."
        )
    window = Window(left, top, right - left, bottom - top)
    with WarpedVRT(
        later,
        crs=earlier.crs,
        transform=grids.part_transform(grid, window),
        width=window.width,
        height=window.height,
        resampling=KERNEL,
        src_nodata=nodata,
        nodata=float("nan"),
        dtype="float32",
        tolerance=POSITION_PX,
        init_dest_nodata=True,
        UNIFIED_SRC_NODATA="NO",  # a band without data is without, whatever the others hold
    ) as resampled:
        # Along a row, also of a rotated grid.
        sizes = [math.hypot(s.transform.a, s.transform.d) for s in (later, earlier)]
        units = [source.crs.units_factor[0] for source in (later, earlier)]
        yield (
            resampled,
            f"The later image was resampled once ({KERNEL.name}) from {later.crs.to_string()},"
            f" {sizes[0]:.6g} {units[0]} per pixel, onto the grid of the earlier one,"
            f" {earlier.crs.to_string()}, {sizes[1]:.6g} {units[1]} per pixel.",
        )


def _bounds(source: rasterio.DatasetReader) -> tuple[float, float, float, float]:
    """(west, south, east, north) of a grid, also a rotated one."""
    grid = source.transform
    corners = [(row, col) for row in (0, source.height) for col in (0, source.width)]
    x = [grid.c + grid.a * col + grid.b * row for row, col in corners]
    y = [grid.f + grid.d * col + grid.e * row for row, col in corners]
    return min(x), min(y), max(x), max(y)
