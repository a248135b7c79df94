"""The result as a file that others read: a cloud-optimised GeoTIFF or NetCDF, written in windows.

East and North are positive, later minus earlier, NaN where not valid. A file appears whole or not
at all.
"""

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyproj
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from displacement.files import FAST_DEFLATE, atomic_path, create_geotiff, make_folder, read_through
from displacement.identity import version
from displacement.raster import SIGN_CONVENTION, map_step, metres_per_unit
from displacement.types import CHANNELS, Estimate

FORMATS = {"geotiff": (".tif", ".tiff"), "classic": (".tif", ".tiff"), "netcdf": (".nc",)}
_NETCDF = ("h5netcdf", "h5py")
BLOCK_PX = 512
_AXIS_UNITS = {1.0: "m", 1000.0: "km"}  # by metres of a unit
_LONG_NAMES = {
    "east_west": "displacement east, later minus earlier",
    "north_south": "displacement north, later minus earlier",
    "sigma_east_west": "standard deviation of east_west",
    "sigma_north_south": "standard deviation of north_south",
    "quality": "how well the windows match, 1 is perfect",
    "valid": "1 where measured",
    "snr": "quality, or 1 / (1 + s) with the sum s of both sigma^2 [px^2] where there is none",
}

# Takes (row, col, what was measured there `(h, w, 5)` as `types.CHANNELS`).
Put = Callable[[int, int, np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says beside its values.

    Attributes:
      shape: (rows, columns).
      transform: of the grid; the identity where there is no georeferencing.
      crs: of the grid, or None.
      units: "m" or "px".
      layout: a key of `FORMATS`.
      sigma: whether the method gives sigma.
      quality: whether the method gives a quality.
      tags: further things to say; those that are no text are written as JSON.
    """

    shape: tuple[int, int]
    transform: Affine
    crs: CRS | None
    units: str
    layout: str
    sigma: bool
    quality: bool
    tags: dict[str, Any]

    @property
    def texts(self) -> dict[str, str]:
        """The tags as they are written."""
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.tags.items()}

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in order."""
        if self.layout == "classic":
            return ("east_west", "north_south", "snr")
        names = ["east_west", "north_south"]
        names += ["sigma_east_west", "sigma_north_south"] if self.sigma else []
        return (*names, *(["quality"] if self.quality else []), "valid")

    def unit(self, band: str) -> str:
        """Of a band; none for pure numbers."""
        return "" if band in ("quality", "valid", "snr") else self.units

    def values(self, measured: np.ndarray) -> dict[str, np.ndarray]:
        """What was measured `(h, w, 5)`, in pixels, as bands in `units`."""
        step_row, step_col = map_step(self.transform, self.crs, self.units)
        row, col, sigma_row, sigma_col, quality = np.moveaxis(measured, -1, 0)
        valid = np.isfinite(row) & np.isfinite(col)
        found = {
            "east_west": col * step_col,
            "north_south": row * step_row,
            "sigma_east_west": sigma_col * abs(step_col),
            "sigma_north_south": sigma_row * abs(step_row),
            "quality": quality,
            "valid": valid,
        }
        if self.layout == "classic":
            found["snr"] = quality if self.quality else 1 / (1 + sigma_row**2 + sigma_col**2)
        return {name: np.asarray(found[name], np.float32) for name in self.bands}


@contextlib.contextmanager
def create_product(path: str | os.PathLike, header: Header) -> Iterator[Put]:
    """Opens a result for writing in windows; at the end it gets its name.

    Raises:
      ValueError: the format needs a package that is not installed.
      OSError: the file cannot be written.
    """
    create = _netcdf if header.layout == "netcdf" else _geotiff
    with create(pathlib.Path(path), header) as put:
        yield put


def write_displacement(
    path: str | os.PathLike,
    estimate: Estimate,
    *,
    transform: Affine | None,
    crs: CRS | None,
    units: str = "m",
    tags: dict[str, Any] | None = None,
) -> None:
    """Writes an estimate as GeoTIFF, as `measure` does; `raster.read_displacement` reads it.

    Args:
      path: of the file; its folder is made if it is missing.
      estimate: displacement in pixels, (row, col).
      transform: of the estimate's grid; None or the identity means no georeferencing.
      crs: of the grid, or None.
      units: of the file, "m" or "px".
      tags: further tags of the file.

    Raises:
      ValueError: metres are asked for without georeferencing or in degrees, or the grid is rotated.
      OSError: the file cannot be written.
    """
    if units == "m" and (transform is None or transform.is_identity):
        raise ValueError("units='m' needs georeferencing, and there is none. Use units='px'.")
    map_step(transform, crs, units)  # refuses before anything is written
    header = Header(
        shape=estimate.valid.shape,
        transform=transform or Affine.identity(),
        crs=crs,
        units=units,
        layout="geotiff",
        sigma=estimate.sigma is not None,
        quality=estimate.quality is not None,
        tags={
            "UNITS": units,
            "SIGN_CONVENTION": SIGN_CONVENTION,
            "METHOD": estimate.method,
            "DETAILS": estimate.details,
            "SOFTWARE": version(),
            **(tags or {}),
        },
    )
    measured = np.full((*header.shape, len(CHANNELS)), np.nan, np.float32)
    measured[..., :2] = estimate.displacement
    if estimate.sigma is not None:
        measured[..., 2:4] = estimate.sigma
    if estimate.quality is not None:
        measured[..., 4] = estimate.quality
    measured[~estimate.valid] = np.nan
    with create_product(path, header) as put:
        put(0, 0, measured)


@contextlib.contextmanager
def _geotiff(path: pathlib.Path, header: Header) -> Iterator[Put]:
    with atomic_path(path) as partial, contextlib.ExitStack() as cleaning:
        plain = partial.with_suffix(".plain.tif")
        cleaning.callback(plain.unlink, missing_ok=True)
        with create_geotiff(
            plain,
            header.shape,
            count=len(header.bands),
            dtype="float32",
            transform=header.transform,
            crs=header.crs,
            nodata=math.nan,
            num_threads="all_cpus",
            told=path,
        ) as target:
            for index, name in enumerate(header.bands, start=1):
                target.set_band_description(index, name)
                target.set_band_unit(index, header.unit(name))
            target.update_tags(**header.texts)

            def put(row, col, measured):
                bands = header.values(measured)
                window = rasterio.windows.Window(col, row, *measured.shape[1::-1])
                target.write(np.stack(list(bands.values())), window=window)

            yield put
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                rasterio.shutil.copy(
                    plain,
                    partial,
                    driver="COG",
                    blocksize=BLOCK_PX,
                    compress="deflate",
                    level=FAST_DEFLATE,
                    predictor="floating_point",
                    overview_resampling="average",
                    bigtiff="if_safer",
                    num_threads="all_cpus",
                )
                read_through(partial)
            except RasterioError as error:
                raise OSError(
                    f"cannot write {path} ({error}). Check the room on the disk and the rights on"
                    " the folder."
                ) from error


@contextlib.contextmanager
def _netcdf(path: pathlib.Path, header: Header) -> Iterator[Put]:
    check_netcdf()
    import h5netcdf

    # Of a disk that fills up HDF5 does not recover: the room is asked for beforehand.
    size = 4 * math.prod(header.shape) * len(header.bands)
    make_folder(path.parent)
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(
            f"cannot write {path}: up to {size / 1e6:,.0f} MB are needed. Make room on the disk, or"
            " choose another --output."
        )
    # Without georeferencing y rises upwards too: else GDAL would turn the rows.
    grid = Affine.scale(1.0, -1.0) if header.transform.is_identity else header.transform
    metres = metres_per_unit(header.crs)
    with atomic_path(path) as partial, h5netcdf.File(partial, "w") as target:
        target.attrs.update({"Conventions": "CF-1.10", **header.texts})
        target.dimensions = dict(zip("yx", header.shape, strict=True))
        for axis, first, step in (("x", grid.c, grid.a), ("y", grid.f, grid.e)):
            count = target.dimensions[axis].size
            centres = first + step * (np.arange(count) + 0.5)
            variable = target.create_variable(axis, (axis,), float, data=centres)
            unit = _AXIS_UNITS.get(metres, f"{metres:.10g} m")
            name = f"projection_{axis}_coordinate"
            variable.attrs.update({"units": unit, "standard_name": name, "axis": axis.upper()})
            if header.transform.is_identity:
                # GDAL reads them as a grid in metres alone.
                variable.attrs["long_name"] = f"{axis} of pixel centres, in pixels, y upwards"
        if header.crs is not None:
            system = target.create_variable("crs", (), "i4")
            words = {"GeoTransform": " ".join(f"{v:.17g}" for v in grid.to_gdal())}
            words |= pyproj.CRS.from_wkt(header.crs.to_wkt()).to_cf()
            system.attrs.update({**words, "spatial_ref": words["crs_wkt"]})
        variables = {}
        for name in header.bands:
            chunks = tuple(min(BLOCK_PX, n) for n in header.shape)
            variable = target.create_variable(
                name,
                ("y", "x"),
                "f4",
                fillvalue=np.float32(np.nan),
                chunks=chunks,
                compression="gzip",
                shuffle=True,
            )
            variable.attrs.update(
                {"long_name": _LONG_NAMES[name], "units": header.unit(name) or "1"}
            )
            if header.crs is not None:
                variable.attrs["grid_mapping"] = "crs"
            variables[name] = variable

        def put(row, col, measured):
            for name, values in header.values(measured).items():
                rows, cols = values.shape
                variables[name][row : row + rows, col : col + cols] = values

        yield put


def check_netcdf() -> None:
    """Refuses NetCDF where the packages for it are missing.

    Raises:
      ValueError: says how to install them.
    """
    missing = [name for name in _NETCDF if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"NetCDF needs {' and '.join(missing)}, not installed. pip install {' '.join(missing)},"
            " or choose --format=geotiff."
        )
