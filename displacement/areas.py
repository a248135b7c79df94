"""Areas on the ground, from a raster or vector file, on the grid of a pair, read in windows."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Protocol

import fiona
import fiona.errors
import fiona.model
import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_geom
from rasterio.windows import Window

from displacement import grids
from displacement.files import is_virtual
from displacement.tiling import blocks

_ANY_CRS = CRS.from_epsg(3857)  # where neither file names one: both are then in the same


class Area(Protocol):
    """A part of a grid."""

    def inside(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Which pixels of a window lie inside, bool; none of those beyond the grid."""


class _Windows:
    """An area that a function gives for windows that lie on the grid as a whole."""

    def __init__(self, shape: tuple[int, int], look: Callable[..., np.ndarray]):
        self.shape, self._look = shape, look

    def inside(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Which pixels of a window lie inside, bool; none of those beyond the grid."""
        found = np.zeros((height, width), bool)
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.shape[0]), min(col + width, self.shape[1])
        if bottom > top and right > left:
            part = self._look(top, left, bottom - top, right - left)
            found[top - row : bottom - row, left - col : right - col] = part
        return found


@contextlib.contextmanager
def open_area(
    path: str | os.PathLike,
    *,
    transform: Affine,
    crs: CRS | None,
    shape: tuple[int, int],
    flag: str,
    turned: tuple[bool, bool] = (False, False),
) -> Iterator[Area]:
    """Opens an area: where a raster is neither 0 nor nodata, or inside a file's polygons.

    Args:
      path: a raster on any grid, or a vector file (GeoJSON, GeoPackage, ...) in any CRS.
      transform: of the grid, north up.
      crs: of the grid, or None.
      shape: (rows, columns) of the grid.
      flag: that the person gave it by, for messages.
      turned: whether rows and columns of the pair's files run the other way than the grid's: those
        of a raster without georeferencing do so too.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is neither raster nor polygons, or covers nothing of the grid.
    """
    with contextlib.ExitStack() as stack:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                source = stack.enter_context(rasterio.open(path))
        except RasterioError as error:
            if not os.path.exists(path) and not is_virtual(path):
                raise FileNotFoundError(
                    f"{flag}: {path} does not exist. Check the path."
                ) from error
            look = _polygons(path, transform=transform, crs=crs, flag=flag)
        else:
            placing = {"transform": transform, "crs": crs, "shape": shape, "turned": turned}
            look = _raster(source, stack, **placing, flag=flag)
        area = _Windows(shape, look)
        if not any(area.inside(*window).any() for window in blocks(shape, 2048)):
            raise ValueError(
                f"{flag}={path} covers no pixel of the pair. Does it lie in the same place, and"
                " are its values other than 0 where it applies?"
            )
        yield area


def _raster(source, stack, *, transform, crs, shape, turned, flag) -> Callable[..., np.ndarray]:
    placed = not source.transform.is_identity
    turns = (False, False) if placed else turned
    if placed and source.crs is not None and crs is None:
        raise ValueError(
            f"{flag}={source.name} is in {source.crs.to_string()}, but the pair names no CRS. Give"
            " the pair one: gdal_edit.py -a_srs ..."
        )
    if not placed or transform.is_identity:
        if source.shape != shape:
            raise ValueError(
                f"{flag}={source.name} has no georeferencing and {source.height} x {source.width}"
                f" pixels, the pair {shape[0]} x {shape[1]}. Georeference it, or cut it to that."
            )
        grid = source
    else:
        same = crs or _ANY_CRS
        grid = stack.enter_context(
            WarpedVRT(
                source,
                src_crs=source.crs or same,  # without one it is in that of the pair
                crs=same,
                transform=transform,
                width=shape[1],
                height=shape[0],
                resampling=Resampling.nearest,
                tolerance=0.01,
            )
        )

    def look(row, col, height, width):
        row = shape[0] - row - height if turns[0] else row
        col = shape[1] - col - width if turns[1] else col
        window = Window(col, row, width, height)
        try:
            values, known = grid.read(1, window=window), grid.read_masks(1, window=window) > 0
        except RasterioError as error:
            raise ValueError(
                f"{flag}={source.name} opens but cannot be read to its end: is it cut short?"
            ) from error
        values = (values != 0) & np.isfinite(values) & known
        return values[tuple(slice(None, None, -1 if turn else 1) for turn in turns)]

    return look


def _within(geometry: dict) -> list[dict]:
    """The polygons of a GeoJSON geometry, also of a collection."""
    if geometry["type"] == "GeometryCollection":
        return [polygon for part in geometry["geometries"] for polygon in _within(part)]
    if geometry["type"] == "MultiPolygon":  # an empty one is no place, and GDAL refuses it
        whole = [rings for rings in geometry["coordinates"] if rings and rings[0]]
        return [geometry | {"coordinates": whole}] if whole else []
    return [geometry] if geometry["type"] == "Polygon" and geometry["coordinates"] else []


def _moved(shapes: list[dict], stored: CRS, crs: CRS, *, told: str) -> list[dict]:
    """Polygons in another CRS."""
    try:
        return transform_geom(stored, crs, shapes)
    except Exception as error:  # GDAL's own, which rasterio has no name for
        raise ValueError(
            f"{told}: its polygons, in {stored.to_string()}, do not all have a place in"
            f" {crs.to_string()} ({error}). Cut them to the scene first, or correct their CRS."
        ) from error


def _layer(path, name: str) -> tuple[str, list[dict]]:
    """CRS, as WKT or "", and polygons of one layer of a vector file."""
    with fiona.open(path, layer=name) as features:
        return features.crs_wkt, [
            polygon
            for feature in features
            if feature.geometry is not None
            for polygon in _within(fiona.model.to_dict(feature.geometry))
        ]


def _polygons(path, *, transform, crs, flag) -> Callable[..., np.ndarray]:
    if transform.is_identity:
        raise ValueError(
            f"{flag}={path}: the pair has no georeferencing to place polygons by. Give a raster of"
            " its size."
        )
    try:
        layers = [_layer(path, name) for name in fiona.listlayers(path)]
    except (fiona.errors.FionaError, ValueError) as error:
        raise ValueError(
            f"{flag}={path} can be read neither as a raster nor as polygons ({error}). Give a"
            " GeoTIFF, GeoJSON or GeoPackage."
        ) from error
    shapes = []
    for stored, found in layers:
        placed = found and stored and crs is not None
        told = f"{flag}={path}"
        shapes += _moved(found, CRS.from_wkt(stored), crs, told=told) if placed else found
    if not shapes:
        raise ValueError(f"{flag}={path} holds no polygon. Give areas, not points or lines.")

    def look(row, col, height, width):
        part = grids.part_transform(transform, Window(col, row, width, height))
        return geometry_mask(shapes, (height, width), part, invert=True)

    return look
