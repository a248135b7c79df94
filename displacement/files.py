"""Files that appear whole or not at all, and errors of rasters in plain words."""

import contextlib
import glob
import os
import pathlib
import uuid
import warnings
from collections.abc import Iterator

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

_SIDE_CARS = (".aux.xml", ".ovr", ".msk")  # statistics, overviews and mask of a raster
FAST_DEFLATE = 1  # level; the default takes half as long again for files 3 % smaller


def make_folder(path: str | os.PathLike) -> None:
    """Makes a folder and those about it, if they are missing.

    Raises:
      OSError: a file is in the way.
    """
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OSError(f"{path} is to be a folder, and a file is there. Name another.") from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a temporary name beside `path`, renamed to `path` at the end, removed on failure."""
    path = pathlib.Path(path)
    make_folder(path.parent)
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
        for suffix in _SIDE_CARS:  # of what was there before: GDAL would take it for this one's
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def create_geotiff(
    path: str | os.PathLike,
    shape: tuple[int, int],
    *,
    transform: Affine | None,
    dtype: str,
    told: str | os.PathLike | None = None,
    **profile,
) -> Iterator[rasterio.io.DatasetWriter]:
    """Opens a new GeoTIFF; at the end it is read back, and only then given its name.

    Errors name it `told`, where it is a step to a file of that name.
    """
    floating = np.issubdtype(np.dtype(dtype), np.floating)
    if transform is not None and transform.is_identity:
        transform = None  # an identity that is written down would read as a grid, south up
    with atomic_path(path) as partial, warnings.catch_warnings():
        # Images without georeferencing are allowed, see grids.check_pair.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(
                partial,
                "w",
                driver="GTiff",
                height=shape[0],
                width=shape[1],
                dtype=dtype,
                transform=transform,
                tiled=True,
                blockxsize=256,
                blockysize=256,
                interleave="band",
                compress="deflate",
                zlevel=FAST_DEFLATE,
                predictor=3 if floating else 2,
                bigtiff="if_safer",
                **profile,
            ) as target:
                yield target
            read_through(partial)
        except RasterioIOError as error:
            raise OSError(
                f"cannot write {told or path} ({error.__cause__ or error}). Check the room on the"
                " disk and the rights on the folder."
            ) from error


def read_through(path: str | os.PathLike) -> None:
    """Reads a file to its end, because GDAL closes without a word on a full disk.

    Raises:
      RasterioIOError: it is not whole.
    """
    with rasterio.open(path) as written:
        for _, window in written.block_windows(1):
            written.read(window=window)


def parts(path: str | os.PathLike) -> list[str]:
    """Files that a raster or vector file is made of beside itself, as GDAL reads them.

    Sources of a VRT, and theirs; masks and side-cars; what belongs to a shapefile.
    """
    path = os.fspath(path)
    if path.lower().endswith(".shp"):
        beside = pathlib.Path(path).parent.glob(f"{glob.escape(pathlib.Path(path).stem)}.*")
        return sorted(str(other) for other in beside if str(other) != path)
    found, waiting = [], [path]
    while waiting:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(waiting.pop()) as source:
                    new = [part for part in source.files if part not in (path, *found)]
        except RasterioIOError:
            continue
        found += new
        waiting += [part for part in new if part.lower().endswith(".vrt")]
    return found


def is_virtual(path: str | os.PathLike) -> bool:
    """Whether a name is one of GDAL's for what lies on a server or in an archive."""
    return "://" in os.fspath(path) or os.fspath(path).startswith("/vsi")


@contextlib.contextmanager
def open_raster(path: str | os.PathLike) -> Iterator[rasterio.DatasetReader]:
    """Opens a raster for reading; FileNotFoundError or ValueError says what is wrong with it."""
    with warnings.catch_warnings():  # grids.check_pair says in a note what this would warn of
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            source = rasterio.open(path)
        except RasterioIOError as error:
            text = os.fspath(path)
            if not is_virtual(text) and not os.path.exists(text):
                raise FileNotFoundError(f"{text} does not exist. Check the path.") from error
            raise ValueError(
                f"{text} cannot be read as a raster. Give a GeoTIFF or another raster that"
                f" gdalinfo can open. ({error})"
            ) from error
        with source:
            yield source
